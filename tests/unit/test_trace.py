"""TRACE: the schedule, where marks fall on tokens, each annotator, the objective in plain torch, and its limits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.algos.base import AnnotateContext, Batch, CollectContext
from sdgym.algos.presets import build_algorithm
from sdgym.algos.ramps import hold_then_fall, linear
from sdgym.algos.spans import by_policy, by_rules, cap, pieces, random_spans, sentences, token_mask, token_spans
from sdgym.algos.spans.annotators import annotation_request, chosen
from sdgym.chat import ChatFormat
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer
from sdgym.text_env import TextEnv

CHAT = ChatFormat(small_tokenizer())
POLICY, TEACHER = (BagModel(len(CHAT.tokenizer), seed=s) for s in (1, 2))
LIVE = Interpreter(POLICY, TEACHER)
TASK = scripted_task("a", "What is 3+4?", answer="7", solution="3+4=7, so 7")
OTHER = scripted_task("b", "2*3?", answer="6", solution="2*3=6")
FLOAT32 = 2e-6


def rows() -> Batch:
    script = [(TASK, "3+4 is 7.", 1.0), (TASK, "3+5 is 8.", 0.0), (OTHER, "it is 5", 0.0), (OTHER, "6", 1.0), (OTHER, "?", None)]
    return group_rows([scripted_row(CHAT, t, i, [a], None if r is None else [r]) for i, (t, a, r) in enumerate(script)])


def collect_context(answers: tuple[str, ...] = ()) -> CollectContext:
    class Draws:
        def generate(self, stream: str, prompts: Any, max_tokens: int | None = None) -> list[Sample]:
            self.prompts = prompts
            ids = [CHAT.encode_text(answers[i % len(answers)]) for i in range(len(prompts))]
            return [Sample(i, found, np.zeros(len(found), np.float32), "eos") for i, found in enumerate(ids)]

    base = LIVE.context(CHAT)
    return CollectContext(**{f.name: getattr(base, f.name) for f in dataclasses.fields(AnnotateContext)}, draw=Draws())  # type: ignore[arg-type]


def marked_text(index: int, mask: np.ndarray) -> str:
    return CHAT.decode_action(rows().rows[index].action_ids()[mask])


def test_schedule() -> None:
    """Lattice 13: Σ λ_k = 12.75, λ_40 = 0; span tokens' GRPO coefficient 0 (k < 10), .5 (k = 25), 1 (k ≥ 40)."""
    values = [hold_then_fall(k, 0.5, 10, 30) for k in range(60)]
    assert sum(values) == pytest.approx(12.75, abs=1e-12) and values[40] == 0.0 and values[39] > 0
    assert [1 - values[k] / 0.5 for k in (0, 9, 25, 40, 59)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert hold_then_fall(3, 0.5, 3, 0) == 0.0 and hold_then_fall(2, 0.5, 3, 0) == 0.5
    assert [linear(k, 0.0, 0.5, 4) for k in (0, 1, 4, 9)] == [0.0, 0.125, 0.5, 0.5] and linear(0, 0.2, 0.7, 0) == 0.7


def test_pieces_and_sentences() -> None:
    text = "First 12.5+x=-3/4, so\nit is 7."
    assert [text[a:b] for a, b in pieces(text)] == ["First", "12.5", "x", "-3/4", "so", "it", "is", "7"]
    assert "".join(text[a:b] for a, b in sentences(text)) == text and len(sentences(text)) == 4


def test_characters_find_their_tokens_even_where_one_has_several() -> None:
    row = scripted_row(CHAT, TASK, 0, ["go on €5 now", "7 left"], [0.0, 1.0], observations=["hm"])
    spans = token_spans(row.action_ids()[row.turn_of_token() == 0], CHAT)
    assert spans[-1][0] == spans[-1][1] == len("go on €5 now"), "the end token wrote nothing"
    start = row.actions[0].index("€5")
    mask = token_mask(row, [[(start, start + 2)], [(0, 1)]], CHAT)
    assert CHAT.decode_action(row.action_ids()[mask]) == "€57" and len(mask) == row.action_length
    assert not mask[np.flatnonzero(row.turn_of_token() == 0)[-1]], "the end token wrote nothing"


def test_rules_mark_what_the_reference_adds_and_what_nobody_said() -> None:
    masks = by_rules(rows().rows, 1.0, collect_context())
    assert [marked_text(i, masks[i]) for i in range(4)] == ["7", "58", "itis5", "6"]
    quarter = by_rules(rows().rows, 0.25, collect_context())
    assert all(m.sum() <= -(-len(m) // 4) for m in quarter)
    assert marked_text(1, quarter[1]).startswith("5"), "an error's first piece comes first"
    bare = scripted_row(CHAT, dataclasses.replace(TASK, privileged={}), 0, ["7"], [1.0])
    assert not by_rules([bare], 1.0, collect_context())[0].any()


def test_cap_keeps_the_first_or_the_last() -> None:
    mask = np.array([0, 1, 1, 1, 0, 1, 0, 0], bool)
    np.testing.assert_array_equal(np.flatnonzero(cap(mask, 0.25)), [1, 2])
    np.testing.assert_array_equal(np.flatnonzero(cap(mask, 0.25, last=True)), [3, 5])
    assert not cap(np.zeros(5, bool), 0.5, last=True).any()


def test_the_policy_names_parts_by_number() -> None:
    row = rows().rows[1]
    (message,) = annotation_request(row)
    assert "[1] 3+5 is 8." in message["content"] and "Reference: 3+4=7, so 7" in message["content"] and "wrong" in message["content"]
    longer = scripted_row(CHAT, TASK, 0, ["so 3, then 5.", "no: 7"], [0.0, 0.0], observations=["hm"])
    assert [[longer.actions[t][a:b] for a, b in s] for t, s in enumerate(chosen(longer, "2 and 4, or 99"))] == [["then 5."], ["7"]]
    masks = by_policy([row, row], 1.0, collect_context(("1", "none of them")))
    assert marked_text(1, masks[0]) == row.actions[0] and not masks[1].any()


def test_chance_marks_as_many_tokens() -> None:
    masks = random_spans(rows().rows, 0.25, collect_context())
    assert [int(m.sum()) for m in masks] == [-(-len(m) // 4) for m in masks]


def objective(step: int, **settings: Any) -> tuple[Batch, Any, list[Any]]:
    algorithm, batch = build_algorithm("trace", settings), rows()
    algorithm.mark(batch, dataclasses.replace(collect_context(), step=step))
    return batch, algorithm, algorithm.annotate(batch, LIVE.context(CHAT, step=step))


@pytest.mark.parametrize(("step", "weight"), [(0, 0.5), (25, 0.25)])
def test_the_objective_is_the_papers(step: int, weight: float) -> None:
    batch, algorithm, terms = objective(step)
    total, spread = torch.zeros((), dtype=torch.float64), np.sqrt(0.5) + 1e-6
    for i in range(4):
        row = batch.rows[i]
        segment, marked = row.segments[0], torch.from_numpy(algorithm.spans[i])
        x, y = segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]
        views = algorithm.conditioners[0].views(batch, LIVE.context(CHAT))[i]
        assert ("key" if row.success else "erroneous") in CHAT.tokenizer.decode(views[0].prefix_ids)
        p = POLICY.logits(segment.ids, np.arange(len(x), len(segment.ids))).log_softmax(-1)
        told = np.concatenate([views[0].prefix_ids, y])
        q = TEACHER.logits(told, np.arange(len(told) - len(y), len(told))).log_softmax(-1).detach()
        entries = q.exp() * (q - p) if row.success else p.exp() * (p - q)
        logp = p.gather(-1, torch.from_numpy(y)[:, None])[:, 0]
        a = (0.5 if row.success else -0.5) / spread
        policy = -a * torch.where(marked, 1 - weight / 0.5, 1.0) * logp
        total = total + (policy + weight * torch.where(marked, entries.clamp(max=0.05).sum(-1), 0.0)).sum() / len(y) / 5
    counted = [dataclasses.replace(t, count_empty=True, rows=5) for t in terms]  # the ungradable row counts on both sides
    for got, want in zip(LIVE.gradient(counted), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=20 * FLOAT32)
    assert {t.name for t in terms} == {"policy", "key", "error"} and [t.coefficient for t in terms[1:]] == [weight, weight]


def test_after_the_schedule_it_is_grpo_bit_for_bit() -> None:
    batch, algorithm, terms = objective(40)
    plain = build_algorithm("grpo", {"clip_high": 0.28, "aggregation": "seq_mean_token_mean"}).annotate(batch, LIVE.context(CHAT))
    assert [t.name for t in terms] == ["policy"] and not any(m.any() for m in algorithm.spans)
    assert all(np.array_equal(a, b) for a, b in zip(LIVE.gradient(terms), LIVE.gradient(plain), strict=True))


def test_other_tokens_have_no_distillation_gradient() -> None:
    _, algorithm, terms = objective(0)
    for term in terms[1:]:
        for item in term.items:
            mask = algorithm.spans[item.view.row]
            np.testing.assert_array_equal(item.weight != 0, mask)
            np.testing.assert_allclose(item.weight[mask], 1 / len(mask), rtol=1e-6)
    for item in terms[0].items:
        np.testing.assert_array_equal(item.advantage == 0, algorithm.spans[item.view.row])
        assert (item.weight == 1).all(), "a coefficient of 0 stays in the denominator"


def test_refusals() -> None:
    class Bare(TextEnv):
        env_id = "test/Bare-v0"

    with pytest.raises(ConfigError, match="span teacher"):
        build_algorithm("trace", {"policy": {"kl_beta": 0.1}})
    with pytest.raises(ConfigError, match="annotator=random"):
        build_algorithm("trace").validate(_without_reference(), {"group_size": 4})
    build_algorithm("trace", {"annotator": "random"}).validate(_without_reference(), {"group_size": 4})


def _without_reference() -> Any:
    from sdgym.testing_engine import LettersEnv

    class Quiet(LettersEnv):
        def make_task(self, seed: int, split: str) -> Any:
            return dataclasses.replace(super().make_task(seed, split), privileged={})

    return Quiet()
