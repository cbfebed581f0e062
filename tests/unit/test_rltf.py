"""RLTF: the second turn's tokens, both baselines, the objective in plain torch, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.algos.advantages import advantages
from sdgym.algos.base import AnnotateContext, Batch, CollectContext, student_views
from sdgym.algos.presets import build_algorithm
from sdgym.algos.rltf import RLTF
from sdgym.algos.second_turn import conversation, environments_words, turn_advantages
from sdgym.chat import ChatFormat
from sdgym.core import Message, Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
POLICY = BagModel(len(CHAT.tokenizer), seed=1)
LIVE = Interpreter(POLICY)
TASK, OTHER = scripted_task("a", "3+4?", answer="7"), scripted_task("b", "2*3?", answer="6")
FLOAT32 = 2e-6  # advantages are stored as float32


class Draws:
    """Plays scripted answers behind any prompt; ``6`` and ``7`` are right where the task says so."""

    def __init__(self, texts: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.texts, self.notes, self.prompts = list(texts), list(notes), list[np.ndarray]()

    def tasks(self) -> list[Task]:
        return [TASK, OTHER]

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1) -> list[Trajectory]:
        assert samples == 1
        self.prompts = list(prompts)
        return [self._row(k, task, prompt) for k, (task, prompt) in enumerate(zip(tasks, prompts, strict=True))]

    def _row(self, k: int, task: Task, prompt: np.ndarray) -> Trajectory:
        text = self.texts[k % len(self.texts)]
        row = scripted_row(CHAT, task, 0, [text], [float(task.privileged["answer"] in text)])
        old = row.segments[0]
        ids = np.concatenate([prompt, old.ids[old.prompt_length :]])
        mask = np.arange(len(ids)) >= len(prompt)
        segment = dataclasses.replace(old, ids=ids, action_mask=mask, logprobs=np.zeros(len(ids), np.float32), prompt_length=len(prompt))
        return dataclasses.replace(row, segments=[segment], group_id=f"second-{k}")

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        ids = [CHAT.encode_text(note) for note in self.notes]
        return [Sample(i, ids[i % len(ids)], np.zeros(len(ids[i % len(ids)]), np.float32), "eos") for i in range(len(prompts))]


def context_of(draw: Draws, reports: dict[str, float] | None = None) -> CollectContext:
    base = dataclasses.replace(LIVE.context(CHAT), report=({} if reports is None else reports).__setitem__)
    return CollectContext(**{field.name: getattr(base, field.name) for field in dataclasses.fields(AnnotateContext)}, draw=draw)


def first_turns() -> Batch:
    """A success, a failure with words, one without, an ungradable row; another task with an explained failure and a success."""
    script: list[tuple[Task, str, list[float] | None, str]] = [
        (TASK, "7", [1.0], ""), (TASK, "is 5", [0.0], "too low"), (TASK, "12", [0.0], ""), (TASK, "?", None, "lost"),
        (OTHER, "66", [0.0], "too high"), (OTHER, "6.", [1.0], ""),
    ]  # fmt: skip
    return group_rows([scripted_row(CHAT, t, i % 4, [a], r, feedback=said) for i, (t, a, r, said) in enumerate(script)])


def revised(algorithm: RLTF, draw: Draws) -> Batch:
    return group_rows(algorithm.revise(first_turns(), context_of(draw)))


def text_of(ids: np.ndarray) -> str:
    return str(CHAT.tokenizer.decode(ids))


def test_the_second_prompt_is_the_conversation_so_far_token_for_token() -> None:
    row = first_turns().rows[1]
    ids, (start, stop) = conversation(row, "too low. Try.", CHAT) or pytest.fail("the template does not rewrite")
    first = row.segments[0].ids
    np.testing.assert_array_equal(ids[: len(first)], first)
    assert text_of(ids[start:stop]) == "too low. Try." and text_of(ids[stop:]) == text_of(
        first[row.segments[0].prompt_length - len(ids[stop:]) : row.segments[0].prompt_length]
    )
    messages: list[Message] = [*row.task.messages, {"role": "assistant", "content": "is 5"}, {"role": "user", "content": "too low. Try."}]
    np.testing.assert_array_equal(ids, CHAT.prompt_ids(messages))


def test_who_gets_a_second_turn() -> None:
    """Successes are told that they were right; a failure without words, and an ungradable row, have none."""
    algorithm, draw, reports = build_algorithm("rltf_sd"), Draws(["7 or 6", "9"]), dict[str, float]()
    rows = algorithm.revise(first_turns(), context_of(draw, reports))
    assert [pair.first for pair in algorithm.pairs] == [0, 1, 4, 5] and [pair.second for pair in algorithm.pairs] == [6, 7, 8, 9]
    assert len(rows) == 10 and reports == {"second_turns": pytest.approx(4 / 6), "second_success": 0.5}
    assert "too low" in text_of(draw.prompts[1]) and "correct" in text_of(draw.prompts[0])
    pair = algorithm.pairs[1]
    view = pair.single_turn_view(group_rows(rows))
    np.testing.assert_array_equal(view.prefix_ids, CHAT.prompt_ids(list(TASK.messages)))
    assert view.provenance == "reprompted" and CHAT.decode_action(view.token_ids) == "9"
    words = pair.words_view(group_rows(rows))
    assert "too low" in text_of(words.token_ids) and words.row == 1 and (words.index_map == -1).all()


@pytest.mark.parametrize(("baseline", "expected"), [("first_turn", 1 - 1 / 3), ("second_turn", 0.0)])
def test_where_every_revision_succeeds_only_the_first_turn_baseline_leaves_a_signal(baseline: str, expected: float) -> None:
    """Lattice 12: A = 1 − p0 against 0, here p0 = 1/2 and 1/2 (the unexplained failure is no pair) — and 1/3 with all told."""
    batch = first_turns()
    rows = [dataclasses.replace(r, feedback=first_turns().rows[1].feedback) if i == 2 else r for i, r in enumerate(batch.rows)]
    algorithm = build_algorithm("rltf_sd")
    told = group_rows(algorithm.revise(group_rows(rows), context_of(Draws(["7 or 6"]))))
    _, second, distilled = turn_advantages(told, algorithm.pairs, 1.0, baseline)
    np.testing.assert_allclose(distilled[:3], expected, atol=1e-12)
    np.testing.assert_array_equal(second, 0.0)


@pytest.mark.parametrize(("p1", "size", "rate"), [(0.9, 8, 0.5695), (0.5, 4, 0.875), (0.999, 8, 0.00797)])
def test_how_often_second_turns_alone_leave_a_signal(p1: float, size: int, rate: float) -> None:
    """§5.9 g, over all 2^N outcomes: 1 − p1^N − (1 − p1)^N, near N(1 − p1) only while that is small (.57 against .80 at .9, 8)."""
    found = 0.0
    for outcomes in itertools.product((0.0, 1.0), repeat=size):
        centred = advantages(np.array(outcomes)[:, None], [list(range(size))], scale="none")
        found += float(centred.any()) * float(np.prod([p1 if right else 1 - p1 for right in outcomes]))
    assert found == pytest.approx(1 - p1**size - (1 - p1) ** size) == pytest.approx(rate, abs=5e-5)
    assert abs(found - size * (1 - p1)) < 0.001 or size * (1 - p1) > 0.5


@pytest.mark.parametrize("name", ["rltf_sd", "rltf_fm"])
def test_the_objective_is_the_papers(name: str) -> None:
    algorithm = build_algorithm(name)
    batch = revised(algorithm, Draws(["7 or 6", "9", "6", "5"]))
    r0, r1, p0 = [1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]
    total = torch.zeros((), dtype=torch.float64)
    critique, count = torch.zeros((), dtype=torch.float64), 0
    for k, (pair, mean) in enumerate(zip(algorithm.pairs, p0, strict=True)):
        one, two = batch.rows[pair.first].segments[0], batch.rows[pair.second].segments[0]
        x0, x1 = one.ids[: one.prompt_length], two.ids[: two.prompt_length]
        y0, y1 = one.ids[one.prompt_length :], two.ids[two.prompt_length :]
        partner = k ^ 1
        mean1 = (r1[k] + r1[partner]) / 2

        def logp(prefix: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
            ids = np.concatenate([prefix, tokens])
            return POLICY.logprobs(ids, np.arange(len(prefix), len(ids)))

        if name == "rltf_sd":
            total = total - (r1[k] - mean) * logp(x0, y1).sum() / 4
        total = total - 0.1 * ((r0[k] + r1[k]) - (mean + mean1)) * logp(x0, y0).sum() / 4
        total = total - 0.1 * (r1[k] - mean1) * logp(x1, y1).sum() / 4
        start, stop = pair.words
        critique, count = critique - logp(x1[:start], x1[start:stop]).sum(), count + stop - start
    if name == "rltf_fm":
        total = total + 0.1 * critique / count
    terms = algorithm.annotate(batch, LIVE.context(CHAT))
    assert LIVE.objective(terms).item() == pytest.approx(total.item(), abs=1e-5)
    for got, want in zip(LIVE.gradient(terms), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=20 * FLOAT32)


def test_the_policy_can_be_its_own_critic() -> None:
    algorithm = build_algorithm("rltf_sd", {"critic": "self"})
    batch = revised(algorithm, draw := Draws(["6 or 7"], notes=["the sum is off", " "]))
    assert [pair.first for pair in algorithm.pairs] == [0, 2, 5] and "the sum is off" in text_of(draw.prompts[0])
    assert len(algorithm.annotate(batch, LIVE.context(CHAT))) == 3


def test_words_of_the_world() -> None:
    said: Callable[..., Any] = environments_words
    texts = said(first_turns().rows, context_of(Draws([])))
    assert texts[2] is None and "too low" in texts[1] and "correct" in texts[0]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="2 turns"):
        build_algorithm("rltf_sd").validate(LettersEnv(turns=2), {})
    quiet = LettersEnv()
    quiet.respond = _silent  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="critic=self"):
        build_algorithm("rltf_sd").validate(quiet, {})


async def _silent(action: str) -> Any:
    from sdgym.core import Outcome
    from sdgym.text_env import Response

    return Response("", 0.0, True, Outcome.WRONG)


def answers_of_one_token(batch: Batch, algorithm: RLTF, chosen: Sequence[int]) -> list[Batch]:
    """The batch with the first pair's second answer replaced by each token of ``chosen``, judged by whether it is even."""
    pair, out = algorithm.pairs[0], []
    row, old = batch.rows[pair.second], batch.rows[pair.second].segments[0]
    for token in chosen:
        ids = np.append(old.ids[: old.prompt_length], token)
        segment = dataclasses.replace(
            old, ids=ids, action_mask=np.arange(len(ids)) >= old.prompt_length, logprobs=np.zeros(len(ids), np.float32)
        )
        swapped = dataclasses.replace(row, segments=[segment], reward=float(token % 2 == 0))
        out.append(Batch([swapped if i == pair.second else r for i, r in enumerate(batch.rows)], batch.groups))
    return out


@pytest.mark.parametrize("importance", ["sequence", "none"])
def test_the_ratio_makes_the_second_turn_an_unbiased_gradient_of_the_first(importance: str) -> None:
    """§5.9 g, by enumeration: Σ_y π(y|x1)·ρ(y)·(R(y) − b)·∇log π(y|x0) is ∇E_{y~π(·|x0)}[R]; without ρ it is not."""
    algorithm = build_algorithm("rltf_sd", {"importance": importance, "policy_weight": 0.0})
    batch = revised(algorithm, Draws(["7 or 6", "9"]))
    pair = algorithm.pairs[0]
    x0, x1 = (batch.rows[i].segments[0] for i in (pair.first, pair.second))
    size = POLICY.parameters[0].shape[0]
    end = np.arange(size)

    def distribution(prompt: np.ndarray) -> torch.Tensor:
        return POLICY.logits(np.append(prompt, 0), np.array([len(prompt)]))[0].log_softmax(-1)

    algorithm.pairs = [pair]
    here, there = distribution(x0.ids[: x0.prompt_length]), distribution(x1.ids[: x1.prompt_length]).detach().exp()
    found = [torch.zeros_like(p) for p in POLICY.parameters]
    chosen = np.flatnonzero((there > 1e-7).numpy())  # the rest weighs less than the tolerance
    for token, one in zip(chosen, answers_of_one_token(batch, algorithm, chosen), strict=True):
        terms = algorithm.annotate(one, LIVE.context(CHAT))
        for total, part in zip(found, LIVE.gradient(terms) if terms else found, strict=True):
            total -= there[token] * torch.as_tensor(part)
    even = torch.from_numpy(end % 2 == 0)
    want = torch.autograd.grad((here.exp() * even).sum(), POLICY.parameters)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, want, strict=True)]
    assert max(errors) < 1e-4 if importance == "sequence" else min(errors) > 0.1, errors


def test_ratios_are_of_whole_answers_and_hold_for_one_update() -> None:
    algorithm, seen = build_algorithm("rltf_sd", {"importance": "sequence"}), dict[str, float]()
    batch = revised(algorithm, Draws(["7 or 6", "9", "6", "5"]))
    plain = build_algorithm("rltf_sd")
    plain.pairs = algorithm.pairs
    context = dataclasses.replace(LIVE.context(CHAT), report=seen.__setitem__)
    weighted, bare = ({t.name: t for t in a.annotate(batch, context)}["revision"].items for a in (algorithm, plain))
    ratios = []
    for pair in algorithm.pairs:
        views = pair.single_turn_view(batch), student_views(batch, pair.second)[0]
        a, b = (float(POLICY.logprobs(*view.sequence()).sum().detach()) for view in views)
        ratios.append(np.exp(a - b))
    for item, old, ratio in zip(weighted, bare, ratios, strict=True):
        np.testing.assert_allclose(item.advantage, old.advantage * ratio, rtol=1e-5)
    r = np.array(ratios)
    assert len({round(x, 6) for x in ratios}) == len(ratios) and seen["effective"] == pytest.approx(r.sum() ** 2 / (len(r) * (r**2).sum()))
    with pytest.raises(ConfigError, match="one update per batch"):
        build_algorithm("rltf_sd", {"importance": "sequence", "epochs": 2})
