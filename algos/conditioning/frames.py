"""The wording around privileged text, shared by conditioners and by the pre-training of embedded policies."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import yaml

from sdgym.core import Feedback, Message

KINDS = ("reference", "peer", "feedback", "outcome")


@functools.cache
def phrases() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return kind → {"trained": …, "heldout": …} → paraphrases with a ``{text}`` slot (``phrases.yaml``)."""
    text = importlib.resources.files("sdgym.algos.conditioning").joinpath("phrases.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


@functools.cache
def unseen_phrases() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Return the kinds that embedded policies have not been pre-trained on, laid out as :func:`phrases` (``unseen.yaml``)."""
    text = importlib.resources.files("sdgym.algos.conditioning").joinpath("unseen.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def phrase(kind: str, index: int, pool: str = "trained") -> str:
    """Return paraphrase ``index`` (modulo the number there is) of ``kind`` from ``pool``."""
    options = (phrases() if kind in phrases() else unseen_phrases())[kind][pool]
    return options[index % len(options)]


def section(kind: str, text: str, index: int = 0, pool: str = "trained") -> str:
    """Return one framed block: the paraphrase of ``kind`` with ``text`` in its slot."""
    return phrase(kind, index, pool).replace("{text}", text)


def filler(rng: np.random.Generator, length: int, measure: Callable[[str], int], pool: str = "trained") -> str:
    """Return words that say nothing about the task, at least ``length`` long by ``measure`` (tokens)."""
    options = phrases()["filler"][pool]
    words: list[str] = []
    while measure(" ".join(words)) < length:
        words += options[int(rng.integers(len(options)))].split()
    while len(words) > 1 and measure(" ".join(words[:-1])) >= length:
        words.pop()
    return " ".join(words)


def with_block(messages: Sequence[Message], sections: Sequence[str], closing: int = 0, pool: str = "trained") -> list[Message]:
    """Return ``messages`` with framed sections and a closing instruction added to the last user message.

    The layout "replace last user message" of SDPO, OPSD and SDFT (algorithms-core §12.2): problem, one
    line per section, closing. Without sections the messages are returned unchanged.
    """
    out: list[Message] = [dict(m) for m in messages]  # type: ignore[misc]
    if not sections:
        return out
    last = max(i for i, m in enumerate(out) if m["role"] == "user")
    out[last]["content"] = "\n".join([out[last]["content"], *sections, phrase("closing", closing, pool)])
    return out


def with_system(messages: Sequence[Message], sections: Sequence[str]) -> list[Message]:
    """Return ``messages`` with framed sections at the end of the system message, which is made where there is none."""
    out: list[Message] = [dict(m) for m in messages]  # type: ignore[misc]
    if not sections:
        return out
    if not out or out[0]["role"] != "system":
        out.insert(0, {"role": "system", "content": ""})
    out[0]["content"] = "\n".join([*filter(None, [out[0]["content"]]), *sections])
    return out


def feedback_text(feedback: Sequence[Feedback]) -> str:
    """Join an episode's feedback: the bare text for one turn, "Turn k: …" for several."""
    said = [f for f in feedback if f.text.strip()]
    if len(said) == 1:
        return said[0].text.strip()
    return " ".join(f"Turn {f.turn + 1}: {f.text.strip()}" for f in said)


def attempt_text(actions: Sequence[str], strip_think: bool = True) -> str:
    """Join an attempt's actions; what stands before the last ``</think>`` is thought, as graders read it, and removed when asked."""
    cleaned = [a.rsplit("</think>", 1)[-1].strip() if strip_think else a.strip() for a in actions]
    return " then ".join(a for a in cleaned if a)
