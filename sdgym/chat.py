"""Messages to token ids and back: the only place that renders a chat template or tokenises text.

Sampled tokens are never re-tokenised. What follows an assistant turn is found by rendering the
conversation with a stand-in for that turn, so the sampled ids stay in the context exactly as they were.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdgym.core import Message
from sdgym.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STAND_IN = "@@turn@@"  # no whitespace at its ends, so no template trims it


class ChatFormat:
    """A tokenizer together with its chat template.

    Attributes:
        tokenizer: the Hugging Face tokenizer.
        enable_thinking: passed to the template when not None; see :meth:`thinking`.
        end_ids: tokens that end an assistant turn; the template's own comes first.
        tools: JSON schemas that every rendered conversation shows to the model; see :meth:`with_tools`.

    Raises:
        PolicyError: the tokenizer has no chat template, or the template cannot ask for an assistant turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None, end_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.enable_thinking = enable_thinking
        self.tools: tuple[Mapping[str, Any], ...] = ()
        self._name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
        if not getattr(tokenizer, "chat_template", None):
            raise PolicyError(f"{self._name} has no chat template, so it cannot hold a conversation; choose an instruction-tuned model")
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
        words = sorted((w for w in map(self._word, self._special) if w), key=lambda w: (-len(w), w))
        self._special_pattern = re.compile("|".join(map(re.escape, words))) if words else None
        self._encode_cached = functools.lru_cache(maxsize=4096)(self._encode)
        self._modes: dict[bool, ChatFormat] = {}
        self.end_ids = self._find_end_ids(end_ids)

    def thinking(self, enabled: bool | None) -> ChatFormat:
        """Return this format with the template's thinking switched on or off; None leaves it as it is.

        Off, a template that opens a think block all the same gets it closed at once, so that the answer follows.
        """
        if enabled is None or enabled is self.enable_thinking:
            return self
        if enabled not in self._modes:
            self._modes[enabled] = ChatFormat(self.tokenizer, enabled, self.end_ids)
            self._modes[enabled].tools = self.tools
        return self._modes[enabled]

    def with_tools(self, tools: Sequence[Mapping[str, Any]] | None) -> ChatFormat:
        """Return this format with ``tools`` shown to the model in the template's own way.

        A template that cannot show tools, or cannot tell a tool's answer from other text, leaves the format as it is:
        messages of role ``tool`` then reach the model as one message of the user.
        """
        wanted = tuple(tools) if tools and self.speaks_tools else ()
        if wanted == self.tools:
            return self
        shown = ChatFormat(self.tokenizer, self.enable_thinking, self.end_ids)
        shown.tools = wanted
        return shown

    @functools.cached_property
    def speaks_tools(self) -> bool:
        """Whether the template shows the tools it is given and renders the answers of several tools after one turn."""
        asked, turn = Message(role="user", content="x"), Message(role="assistant", content=_STAND_IN)
        name = "probe.this_tool"
        schema = {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}}}
        try:
            plain = self._template([asked], ())
            shown = self._template([asked, turn, *(Message(role="tool", content=f"answer {i}") for i in (1, 2))], (schema,))
        except PolicyError:
            return False
        return name in shown and name not in plain and "answer 1" in shown and "answer 2" in shown and _STAND_IN in shown

    def prompt_ids(self, messages: Sequence[Message]) -> np.ndarray:
        """Return int64 ``[L]``: the whole conversation, ending where the assistant's next turn begins."""
        return np.array(self._encode(self._render(messages)), np.int64)

    def continuation_ids(self, history: Sequence[Message], new: Sequence[Message], ended: bool) -> np.ndarray | None:
        """Return the tokens that lead from a sampled assistant turn to the start of the next one.

        Args:
            history: the conversation so far; its last message is the assistant's, as decoded.
            new: the messages that answer it.
            ended: whether the end-of-turn token was sampled; if not, it is part of the continuation.

        Returns:
            int64 ``[L]`` to append to the context, or None where the template rewrites what came before
            (drops earlier reasoning, for example): the caller then starts a new segment with
            ``prompt_ids(history + new)``. Trimming blanks around a turn does not count as rewriting.
        """
        if not history or history[-1]["role"] != "assistant":
            raise PolicyError("continuation_ids: the last message of the history must be the assistant's")
        before, action = list(history[:-1]), self._neutral(history[-1]["content"])
        stand_in = Message(role="assistant", content=_STAND_IN)
        prefix = self._render(before)
        probe = self._render([*before, stand_in, *new])
        if not probe.startswith(prefix + _STAND_IN):
            return None
        tail = probe[len(prefix) + len(_STAND_IN) :]
        real = self._render([*history, *new])
        if not (real.startswith(prefix) and real.endswith(tail) and real[len(prefix) : len(real) - len(tail)].strip() == action.strip()):
            return None
        ids = self._encode_cached(tail)
        return np.array(ids[self._end_length(ids) :] if ended else ids, np.int64)

    def decode_action(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of a sampled turn; end-of-turn and every other special token are dropped."""
        kept = [int(i) for i in ids if int(i) not in self._special and int(i) not in self.end_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def encode_text(self, text: str) -> np.ndarray:
        """Return int64 ``[L]`` for plain text; a special token spelt in it stays plain text."""
        return np.array(self._encode(self._neutral(text)), np.int64)

    def _render(self, messages: Sequence[Message], generation: bool = True) -> str:
        return self._template(messages if self.tools else tools_as_user(messages), self.tools, generation)

    def _template(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generation: bool = True) -> str:
        from jinja2 import TemplateError

        options: dict[str, Any] = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        if tools:
            options["tools"] = [dict(t) for t in tools]
        safe = [self._neutral(dict(m)) for m in messages]
        try:
            text = str(self.tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=generation, **options))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(m["role"] for m in messages)
            raise PolicyError(f"the chat template of {self._name} refuses a conversation of roles [{roles}]: {error}") from error
        if generation and self.enable_thinking is False and text.rstrip().endswith("<think>"):
            text = text.rstrip() + "\n\n</think>\n\n"
        return text

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _neutral(self, value: Any) -> Any:
        """Break every special token spelt in a message by a blank: text from outside never becomes control."""
        if isinstance(value, str):
            pattern = self._special_pattern
            return pattern.sub(lambda m: f"{m[0][0]} {m[0][1:]}", value) if pattern is not None else value
        if isinstance(value, Mapping):
            return {key: self._neutral(item) for key, item in value.items()}
        return [self._neutral(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _word(self, token_id: int) -> str:
        """Return the spelling of a special token, or an empty string for one too short to be broken."""
        word = self.tokenizer.convert_ids_to_tokens(int(token_id))
        return word if isinstance(word, str) and len(word) > 1 else ""

    def _end_length(self, ids: Sequence[int]) -> int:
        """Return how many leading tokens of a tail are the end of the turn: blanks, then an end token."""
        for index, token in enumerate(ids):
            if token in self.end_ids:
                return index + 1
            if str(self.tokenizer.decode([token])).strip():
                break
        return 0

    def _find_end_ids(self, extra: Iterable[int]) -> tuple[int, ...]:
        user, turn = Message(role="user", content="x"), Message(role="assistant", content=_STAND_IN)
        plain, asked = self._render([user], generation=False), self._render([user])
        whole = self._render([user, turn], generation=False)
        if _STAND_IN not in whole:
            raise PolicyError(f"the chat template of {self._name} drops the assistant's turns; it cannot be trained on")
        if asked == plain and not whole.startswith(asked + _STAND_IN):
            raise PolicyError(
                f"the chat template of {self._name} has no generation prompt: it ignores add_generation_prompt although "
                "assistant turns have a header; give the tokenizer a template that adds it"
            )
        tail = self._encode(whole.split(_STAND_IN, 1)[1].strip())
        found = [tail[0]] if tail and tail[0] in self._special else []
        eos = self.tokenizer.eos_token_id
        found += [int(i) for i in (*([eos] if eos is not None else []), *extra) if int(i) not in found]
        if not found:
            raise PolicyError(f"{self._name} has no end-of-turn token: neither its chat template nor eos_token names one")
        return tuple(dict.fromkeys(found))


def tools_as_user(messages: Sequence[Message]) -> list[Message]:
    """Return ``messages`` with each run of role ``tool`` as one message of the user, a line per answer."""
    out: list[Message] = []
    for message, previous in zip(messages, (None, *messages), strict=False):
        if message["role"] != "tool":
            out.append(message)
        elif previous is not None and previous["role"] == "tool":
            out[-1] = Message(role="user", content=f"{out[-1]['content']}\n{message['content']}")
        else:
            out.append(Message(role="user", content=message["content"]))
    return out
