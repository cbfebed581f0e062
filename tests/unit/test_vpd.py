"""VPD: the E-step's fixture and limits, the M-step as SDPO, what C is, the schedule, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import sdgym
from sdgym.algos.base import AnnotateContext, Batch, CollectContext, student_views
from sdgym.algos.conditioning.frames import phrases, section, unseen_phrases
from sdgym.algos.conditioning.verdict import Contrast, Critique, Verdict, critique_request, gives_feedback
from sdgym.algos.preference import bco_terms
from sdgym.algos.presets import build_algorithm
from sdgym.algos.vpd import VPD
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import LossItem, LossTerm, ScoringView, Trajectory, ViewScores
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample
from sdgym.objective import LossInputs
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID, LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY = BagModel(VOCAB, seed=1)
LIVE = Interpreter(POLICY)
PRINTED, FLOAT32 = 1e-5, 2e-6  # δ passes through float32 sums
TASK, OTHER = scripted_task("a", "3+4?"), scripted_task("b", "2*3?", answer="6", solution="2*3=6")


def rows_of(task: Any, script: Sequence[tuple[str, float | None, str]]) -> list[Trajectory]:
    return [
        scripted_row(CHAT, task, i, [a], None if r is None else [r], feedback=said, policy=POLICY) for i, (a, r, said) in enumerate(script)
    ]


def mixed() -> Batch:
    """A group with both outcomes, an unexplained failure and an ungradable row; a group of explained failures."""
    first = [("7", 1.0, ""), ("is 5", 0.0, "too low"), ("12", 0.0, ""), ("?", None, "lost"), ("seven", 1.0, "")]
    return group_rows([*rows_of(TASK, first), *rows_of(OTHER, [("66", 0.0, "too high"), ("999", 0.0, "far too high")])])


def refine(algorithm: VPD, batch: Batch, interpreter: Interpreter = LIVE) -> list[LossTerm]:
    return algorithm.refine(batch, interpreter.context(CHAT))


def largest(gradient: list[np.ndarray]) -> float:
    return max(float(np.abs(g).max()) for g in gradient)


# ---- the E-step ----------------------------------------------------------------------------------------------------

LENGTHS, RATIOS = (2, 1, 2), (3.0, -1.0, 0.5)


def fixture_items() -> tuple[list[LossItem], AnnotateContext]:
    """Three sequences of 2, 1 and 2 tokens whose log-ratios to the prior add up to 3, −1 and .5; labels +, −, +."""
    items = []
    for row, (size, label) in enumerate(zip(LENGTHS, (1, -1, 1), strict=True)):
        tokens, places = np.zeros(size, np.int64), np.arange(size)
        view = ScoringView(row, np.zeros(1, np.int64), tokens, np.ones(size, bool), places)
        prior = dataclasses.replace(view, grad=False, kind="prior")
        items.append(LossItem(view, np.ones(size, np.float32), (prior,), label=label))

    def score(views: Sequence[ScoringView]) -> list[ViewScores]:
        values = [np.full(LENGTHS[v.row], (0.0 if v.kind == "prior" else RATIOS[v.row] / LENGTHS[v.row]), np.float32) - 1 for v in views]
        return [ViewScores(x, x) for x in values]

    return items, dataclasses.replace(LIVE.context(CHAT), score=score)


def fixture_inputs(label: int, logq: torch.Tensor) -> LossInputs:
    kept = [i for i, sign in enumerate((1, -1, 1)) if sign == label]
    sizes = torch.tensor([LENGTHS[i] for i in kept])
    count = int(sizes.sum())
    zeros, index = torch.zeros(count, dtype=torch.float64), torch.repeat_interleave(torch.arange(len(kept)), sizes)
    chosen = torch.cat([logq[sum(LENGTHS[:i]) : sum(LENGTHS[: i + 1])] for i in kept])
    return LossInputs(
        zeros.long(), index, len(kept), chosen, chosen.detach(), None, zeros[None] - 1, zeros + 1, zeros, torch.full((len(kept),), label)
    )


def test_printed_fixture() -> None:
    """algorithms-core §7g: β = .1, log-ratios [3, −1, .5], labels [+, −, +]: δ, L_E and ∂L_E/∂log q as printed."""
    items, context = fixture_items()
    terms, shift = bco_terms([items[0], items[2]], [items[1]], context, beta=0.1, length="sum", coefficient=1.0, shift=None)
    assert shift == pytest.approx(0.0375, abs=1e-7) and [term.name for term in terms] == ["accepted", "rejected"]
    logq = torch.tensor([0.5, 0.5, -2.0, -0.75, -0.75], dtype=torch.float64, requires_grad=True)
    total = sum(term.loss(fixture_inputs(label, logq))[0].mean() for term, label in zip(terms, (1, -1), strict=True))
    assert float(total.detach()) == pytest.approx(1.255460, abs=PRINTED)  # type: ignore[union-attr]
    (slope,) = torch.autograd.grad(total, logq)  # type: ignore[call-overload]
    np.testing.assert_allclose(slope, [-0.021737, -0.021737, 0.046568, -0.024844, -0.024844], atol=PRINTED)


def test_mean_instead_of_sum() -> None:
    """r̃ = β·(1.5, −1, .25): δ = ½(.0875 − .1), and a token of a long sequence pulls less."""
    items, context = fixture_items()
    terms, shift = bco_terms([items[0], items[2]], [items[1]], context, beta=0.1, length="mean", coefficient=1.0, shift=None)
    assert shift == pytest.approx(0.5 * (0.0875 - 0.1), abs=1e-7)
    logq = torch.tensor([0.5, 0.5, -2.0, -0.75, -0.75], dtype=torch.float64, requires_grad=True)
    values = terms[0].loss(fixture_inputs(1, logq))[0]
    margins = np.array([0.15, 0.025]) - shift
    np.testing.assert_allclose(values.detach(), np.log1p(np.exp(-margins)), atol=1e-7)
    (slope,) = torch.autograd.grad(values.sum(), logq)
    np.testing.assert_allclose(slope[:2], -0.1 / 2 / (1 + np.exp(margins[0])), atol=1e-7)


def test_terms_are_the_formula_and_the_prior_carries_no_gradient() -> None:
    batch, algorithm = mixed(), build_algorithm("vpd", {"e_weight": 0.5})
    terms = refine(algorithm, batch)
    assert [[item.view.row for item in term.items] for term in terms] == [[0, 4], [1, 5, 6]], "without C, or ungradable: no part"

    def objective(prior_detached: bool) -> torch.Tensor:
        rewards: dict[int, torch.Tensor] = {}
        for term in terms:
            for item in term.items:
                prior = POLICY.logprobs(*student_views(batch, item.view.row)[0].sequence()).sum()
                told = POLICY.logprobs(*item.view.sequence()).sum()
                rewards[item.view.row] = 0.1 * (told - (prior.detach() if prior_detached else prior))
        good, bad = (torch.stack([rewards[i] for i in rows]) for rows in ([0, 4], [1, 5, 6]))
        shift = (0.5 * (good.mean() + bad.mean())).detach()
        logsigmoid = torch.nn.functional.logsigmoid
        return -0.5 * (logsigmoid(good - shift).mean() + logsigmoid(shift - bad).mean())

    assert LIVE.objective(terms).item() == pytest.approx(objective(True).item(), abs=FLOAT32)
    got, expected, leaky = LIVE.gradient(terms), *(torch.autograd.grad(objective(d), POLICY.parameters) for d in (True, False))
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, atol=FLOAT32)
    assert max(float((a - b).abs().max()) for a, b in zip(expected, leaky, strict=True)) > 1e-4, "a prior with gradient would be seen"


def test_views_of_the_e_step() -> None:
    accepted, rejected = refine(build_algorithm("vpd"), mixed())
    for item in (*accepted.items, *rejected.items):
        (prior,) = item.references
        assert (item.view.weights, item.view.grad, item.view.provenance) == ("policy", True, "reprompted")
        assert (prior.weights, prior.grad, prior.kind) == ("policy", False, "prior")
        assert len(item.view.prefix_ids) > len(prior.prefix_ids) and np.array_equal(item.view.scored_ids(), prior.scored_ids())
    assert {item.label for item in accepted.items} == {1} and {item.label for item in rejected.items} == {-1}


def test_without_a_context_e_starts_at_two_ln_two_and_still_pulls_and_m_is_zero() -> None:
    algorithm = build_algorithm("vpd", {"control": "P0"})
    e_step = refine(algorithm, mixed())
    assert LIVE.objective(e_step).item() == pytest.approx(2 * math.log(2), abs=1e-6)
    assert largest(LIVE.gradient(e_step)) > 1e-4
    m_step = algorithm.annotate(mixed(), LIVE.context(CHAT))
    assert m_step[0].items and LIVE.objective(m_step).item() == pytest.approx(0.0, abs=1e-9)
    assert largest(LIVE.gradient(m_step)) < 1e-9


def test_small_beta_silences_e() -> None:
    """The gradient is β·σ(·)·∇log q: in the limit proportional to β."""
    large, small = (largest(LIVE.gradient(refine(build_algorithm("vpd", {"beta": b}), mixed()))) for b in (1e-3, 1e-6))
    assert small == pytest.approx(1e-3 * large, rel=0.02) and large > 1e-5


@pytest.mark.parametrize("success", [True, False])
def test_a_one_sided_batch_has_no_e_step_unless_asked(success: bool) -> None:
    batch = group_rows(rows_of(TASK, [("7", float(success), "said"), ("77", float(success), "said too")]))
    assert refine(build_algorithm("vpd"), batch) == []
    algorithm = build_algorithm("vpd", {"one_sided": True})
    algorithm.shift = 0.25
    (term,) = refine(algorithm, batch)
    assert term.name == ("accepted" if success else "rejected") and term.loss.shift == 0.25 and algorithm.shift == 0.25
    assert build_algorithm("vpd").annotate(batch, LIVE.context(CHAT))[0].items, "the M-step goes on"


def test_the_shift_is_remembered_over_a_checkpoint() -> None:
    algorithm = build_algorithm("vpd", {"one_sided": True})
    refine(algorithm, mixed())
    assert algorithm.shift != 0.0
    restored = build_algorithm("vpd", {"one_sided": True})
    restored.load_state_dict(decode(*encode(algorithm.state_dict())))
    assert restored.shift == algorithm.shift


# ---- the M-step ----------------------------------------------------------------------------------------------------

SAME_AS_SDPO = {"divergence": "reverse_kl", "teacher": "live", "importance": "capped", "rollout_correction": "none"}


def failures() -> Batch:
    return group_rows(rows_of(TASK, [("5", 0.0, "too low"), ("is 6", 0.0, "close"), ("99", 0.0, "too high")]))


@pytest.mark.parametrize("on_policy", [True, False])
def test_without_e_steps_it_is_sdpo_with_a_live_teacher(on_policy: bool) -> None:
    """F = ∞, equal words to the teacher: bit-equal gradients."""
    vpd = build_algorithm("vpd", {"e_every": 0, **SAME_AS_SDPO})
    assert vpd.phases[0].interleaved == []
    sdpo = build_algorithm("sdpo_rich", {"context": "feedback", **SAME_AS_SDPO})
    old = Interpreter(BagModel(VOCAB, seed=4))
    terms = [algorithm.annotate(failures(), old.context(CHAT, on_policy=on_policy)) for algorithm in (vpd, sdpo)]
    gradients = [LIVE.gradient(t) for t in terms]
    assert all(np.array_equal(a, b) for a, b in zip(*gradients, strict=True)) and largest(gradients[0]) > 1e-5
    assert LIVE.objective(terms[0]).item() == LIVE.objective(terms[1]).item()


def test_m_is_the_reverse_kl_to_the_same_weights_told_c() -> None:
    batch = mixed()
    (term,) = build_algorithm("vpd", {"support": "full"}).annotate(batch, LIVE.context(CHAT))
    assert [item.view.row for item in term.items] == [0, 1, 4, 5, 6]
    total = 0.0
    for item in term.items:
        p, q = (LIVE.logits(view).detach().log_softmax(-1) for view in (item.view, item.references[0]))
        total += float((p.exp() * (p - q)).sum(-1).mean())
    assert LIVE.objective([term]).item() == pytest.approx(total / 7, abs=1e-9), "rows without C are zeros in the mean over all"


def test_after_an_e_step_the_rollouts_are_off_policy_for_m() -> None:
    (term,) = build_algorithm("vpd").annotate(mixed(), LIVE.context(CHAT, on_policy=False))
    for item in term.items:
        assert item.old_logprobs is not None
        np.testing.assert_allclose(item.old_logprobs, POLICY.logprobs(*item.view.sequence()).detach(), atol=1e-12)


# ---- the schedule --------------------------------------------------------------------------------------------------


def test_an_e_step_stands_before_every_fth_m_step() -> None:
    (phase,) = build_algorithm("vpd").phases
    (extra,) = phase.interleaved
    assert (extra.name, extra.every, extra.schedule.on_policy, phase.collect) == ("e_step", 5, True, None)
    assert [step for step in range(12) if extra.is_due(step)] == [0, 5, 10]


# ---- what C is -----------------------------------------------------------------------------------------------------


def texts(algorithm: VPD, batch: Batch) -> dict[int, str]:
    terms = algorithm.annotate(batch, LIVE.context(CHAT))
    return {item.view.row: CHAT.tokenizer.decode(item.references[0].prefix_ids) for term in terms for item in term.items}


def test_verdicts() -> None:
    """A success reads that it was right, a failure what was said; silence and trouble say nothing."""
    found = texts(build_algorithm("vpd"), mixed())
    assert sorted(found) == [0, 1, 4, 5, 6]
    assert "correct" in found[0] and "too low" in found[1] and "far too high" in found[6]
    assert not any("lost" in text for text in found.values())


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0, 1, 0, 0], [1, 0, 1, 1]),
        ([1, 1, 0, 1], [2, 2, 0, 2]),
        ([1, 1], [None, None]),
        ([0, 0], [None, None]),
        ([None, 1, 0], [None, 2, 1]),
    ],
)
def test_a_sibling_that_ended_the_other_way(rewards: list[float | None], expected: list[int | None]) -> None:
    batch = group_rows(rows_of(TASK, [(f"a{i}", r, "") for i, r in enumerate(rewards)]))
    told = [Contrast().tell(i, batch, batch.groups[0]) if row.usable else None for i, row in enumerate(batch.rows)]
    assert [None if t is None else int(t.source.split()[1]) for t in told] == expected
    for i, t in enumerate(told):
        if t is not None:
            assert t.sections[0] == ("contrast" if batch.rows[i].success else "peer", f"a{expected[i]}")


class ScriptedDraws:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        self.asked += [CHAT.tokenizer.decode(p) for p in prompts]
        ids = [CHAT.encode_text("" if "12" in text else f"note {i}") for i, text in enumerate(self.asked)]
        return [Sample(i, found, np.zeros(len(found), np.float32), "eos") for i, found in enumerate(ids)]


def criticised(algorithm: VPD, batch: Batch, draws: ScriptedDraws) -> None:
    plain = LIVE.context(CHAT)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    (phase,) = algorithm.phases
    assert phase.collect is not None and phase.collect(batch, CollectContext(**fields, draw=draws)) is batch.rows  # type: ignore[arg-type]


def test_own_critiques() -> None:
    algorithm, batch, draws = build_algorithm("vpd_critique"), mixed(), ScriptedDraws()
    criticised(algorithm, batch, draws)
    assert len(draws.asked) == 6 and "is 5" in draws.asked[1] and not any("too low" in text for text in draws.asked)
    found = texts(algorithm, batch)
    assert sorted(found) == [0, 1, 4, 5, 6], "an empty critique is none, and an ungradable row is not asked about"
    assert "note 1" in found[1] and "note 0" in found[0] and "note 0" not in found[1]
    accepted, rejected = refine(algorithm, batch)
    assert [len(accepted.items), len(rejected.items)] == [2, 3]
    fresh = dataclasses.replace(batch.rows[0], group_id="another step")
    assert Critique().tell(0, batch, batch.groups[0]) is None
    assert algorithm.conditioner.tell(0, group_rows([fresh]), [0]) is None, "an old note belongs to its own rollout"


def test_critiques_work_without_a_success() -> None:
    algorithm, batch = build_algorithm("vpd_critique"), failures()
    criticised(algorithm, batch, ScriptedDraws())
    (term,) = refine(algorithm, batch)
    assert term.name == "rejected" and largest(LIVE.gradient([term])) > 1e-5


def test_a_critique_request_gives_no_verdict_away() -> None:
    row = scripted_row(CHAT, TASK, 0, ["up", "left"], [0.0, 0.0], observations=["wall"], feedback="HIDDEN")
    (message,) = critique_request(row)
    assert [part in message["content"] for part in ("3+4?", "up", "wall", "left", "HIDDEN", "3+4=7")] == [True] * 4 + [False] * 2


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", ["frozen", "phase_start"])
def test_a_teacher_that_cannot_learn_is_refused(teacher: str) -> None:
    with pytest.raises(ConfigError, match=f"teacher={teacher} never learns from the E-step: use teacher=live, or e_every=0"):
        build_algorithm("vpd", {"teacher": teacher})
    build_algorithm("vpd", {"teacher": teacher, "e_every": 0})


class Silent(LettersEnv):
    """Says nothing about wrong answers."""

    async def respond(self, action: str) -> Any:
        return dataclasses.replace(await super().respond(action), feedback="")


def test_worlds_and_groups_that_cannot_work_are_refused() -> None:
    silent, letters = Silent(), sdgym.make(LETTERS_ID)
    assert not gives_feedback(silent) and gives_feedback(letters.unwrapped)
    with pytest.raises(ConfigError, match="gives no feedback on a wrong answer: use context=contrast or context=critique"):
        build_algorithm("vpd").validate(silent, {"group_size": 8})
    with pytest.raises(ConfigError, match="needs group_size of at least 2: or use context=feedback"):
        build_algorithm("vpd_contrast").validate(silent, {"group_size": 1})
    for name in ("vpd_contrast", "vpd_critique"):
        build_algorithm(name).validate(silent, {"group_size": 2})
    build_algorithm("vpd").validate(letters, {"group_size": 1})


def test_presets_differ_in_their_context_alone() -> None:
    assert [type(build_algorithm(name).conditioner) for name in ("vpd", "vpd_contrast", "vpd_critique")] == [Verdict, Contrast, Critique]


def test_wordings_that_no_embedded_policy_has_read() -> None:
    """They are apart from those of pre-training, whose tokenizer and draws must not change."""
    assert {"skill", "contrast", "critique"} <= set(unseen_phrases()) and not set(unseen_phrases()) & set(phrases())
    for kind, pools in unseen_phrases().items():
        both = [*pools["trained"], *pools["heldout"]]
        assert all(text.count("{text}") == 1 for text in both) and len(set(both)) == len(both)
        for index, text in enumerate(pools["trained"]):
            assert section(kind, "x {text}", index) == text.replace("{text}", "x {text}")
