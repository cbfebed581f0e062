"""The types carry the family: loss terms of methods that are not (yet) in the zoo, with no special case anywhere.

Every recipe builds terms from fake rows out of :class:`LossTerm`, :class:`LossItem`, :class:`ScoringView` and the
losses of :mod:`sdgym.algos.losses` alone. Each is then held against its paper's formula, written out in plain
torch on a one-line model in float64, and handed to the real learner, whose gradient must be the interpreter's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdgym.algos.advantages import advantages, returns, turn_rewards
from sdgym.algos.base import AnnotateContext, Batch, Phase, student_views
from sdgym.algos.losses import BCOLoss, DistillLoss, NLLLoss, PolicyGradientLoss
from sdgym.algos.losses.sequence import bco_shift
from sdgym.algos.presets import build_algorithm
from sdgym.algos.terms import build_items, token_advantages
from sdgym.chat import ChatFormat
from sdgym.core import LossItem, LossTerm, Message, ScoringView, Trajectory
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
FLOAT32 = 2e-6  # advantages and weights are stored as float32
POLICY, TEACHER, OLD = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2), BagModel(VOCAB, seed=1)
for _p, _q in zip(OLD.parameters, BagModel(VOCAB, seed=3).parameters, strict=True):
    _p.data += 0.05 * _q.data  # rollouts came from slightly other weights

TASK = scripted_task("a", "3+4?", answer="7", solution="3+4=7")
OTHER = scripted_task("b", "2*3?", answer="6", solution="2*3=6")


def single_turn() -> Batch:
    """Two groups: one success and two failures; one success of three with feedback."""
    script = [(TASK, "7", 1.0), (TASK, "is 5", 0.0), (TASK, "12", 0.0), (OTHER, "66", 0.0), (OTHER, "6.", 1.0), (OTHER, "999", 0.0)]
    return group_rows(
        [scripted_row(CHAT, t, i % 3, [a], [r], feedback="" if r else f"{a} is wrong", policy=OLD) for i, (t, a, r) in enumerate(script)]
    )


def multi_turn() -> Batch:
    """One group of two-turn rows with an observation between the turns."""
    script = [(["up", "left"], [0.0, 1.0]), (["down", "up up"], [0.25, 0.0]), (["x", "right"], [0.0, 0.0])]
    return group_rows(
        [scripted_row(CHAT, TASK, i, a, r, observations=["wall"], feedback="stuck", policy=OLD) for i, (a, r) in enumerate(script)]
    )


def re_prompted(batch: Batch, i: int, messages: Sequence[Message] | np.ndarray, **changes: Any) -> list[ScoringView]:
    """Row ``i``'s own tokens behind another prompt; single-segment rows."""
    prefix = messages if isinstance(messages, np.ndarray) else CHAT.prompt_ids(messages)
    return [dataclasses.replace(view, prefix_ids=prefix, **changes) for view in student_views(batch, i)]


def told(row: Trajectory, text: str) -> list[Message]:
    """The row's task with ``text`` appended to the system prompt."""
    system, *rest = row.task.messages
    return [{"role": "system", "content": system["content"] + "\n" + text}, *rest]


def every(batch: Batch) -> list[int]:
    return list(range(len(batch.rows)))


TEACHER_VIEW: dict[str, Any] = {"weights": "teacher", "grad": False}
PRIOR_VIEW: dict[str, Any] = {"weights": "policy", "grad": False}
Recipe = Callable[[Batch, AnnotateContext], list[LossTerm]]


# ---- recipes ---------------------------------------------------------------------------------------------------


def grpo(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    return build_algorithm("grpo").annotate(batch, context)  # type: ignore[no-any-return]


def sdpo_rich(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    return build_algorithm("sdpo_rich").annotate(batch, context)  # type: ignore[no-any-return]


def sdpo_norich(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    return build_algorithm("sdpo_norich").annotate(batch, context)  # type: ignore[no-any-return]


PHRASE = {True: "Restated: ", False: "That was wrong. "}
REVISED = "so 7"


def sd_zero_revision(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    """Phase 1 (SRT), algorithms-core §5a: −log π([y, P, y'] | x) − log π(y' | x, y, P); rewritten rows."""
    generation, revision = [], []
    for i, row in enumerate(batch.rows):
        (view,) = student_views(batch, i)
        first = view.token_ids[:-1]  # the first copy loses its end-of-turn token
        phrase, second = CHAT.encode_text(PHRASE[row.success]), np.append(CHAT.encode_text(REVISED), CHAT.end_ids[0])
        whole = np.concatenate([first, phrase, second])
        sampled = np.where(np.arange(len(whole)) < len(first), np.arange(len(whole)), -1)
        rewritten = dataclasses.replace(
            view, token_ids=whole, loss_mask=np.ones(len(whole), bool), index_map=sampled, provenance="rewritten"
        )
        generation.append(LossItem(rewritten, np.ones(len(whole), np.float32)))
        late = np.arange(len(whole)) >= len(first) + len(phrase)
        revision.append(LossItem(dataclasses.replace(rewritten, loss_mask=late, index_map=sampled[late]), np.ones(len(second), np.float32)))
    return [LossTerm("generation", NLLLoss(), generation), LossTerm("revision", NLLLoss(), revision)]


def sd_zero_distill(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    """Phase 2, §5b: the teacher's prefix is x ∥ y ∥ P inside one assistant turn, then y again."""
    views = []
    for i, row in enumerate(batch.rows):
        (view,) = student_views(batch, i)
        prefix = np.concatenate([view.prefix_ids, view.token_ids[:-1], CHAT.encode_text(PHRASE[row.success])])
        views.append([dataclasses.replace(view, prefix_ids=prefix, kind="revision", **TEACHER_VIEW)])
    loss = DistillLoss("mixed", support="teacher_topk", top_k=64, residual="renorm")
    return [LossTerm("distill", loss, build_items(batch, context, every(batch), references=[views]))]


SKILL = "Skill: go around walls."


def skill_sd(batch: Batch, context: AnnotateContext, scale: float = 0.001) -> list[LossTerm]:
    """§6a: GRPO + λ·ρ·k3, sampled tokens, the skill in the system prompt and the same transcript."""
    views = [re_prompted(batch, i, told(row, SKILL), kind="skill", **TEACHER_VIEW) for i, row in enumerate(batch.rows)]
    loss = DistillLoss(support="sampled", estimator="k3", importance="differentiable")
    items = build_items(batch, context, every(batch), references=[views])
    return [*grpo(batch, context), LossTerm("skill", loss, items, coefficient=scale)]


def contexts(batch: Batch, **changes: Any) -> list[list[ScoringView]]:
    """VPD's C: each row under the feedback on itself."""
    return [
        re_prompted(batch, i, told(row, f"Feedback: {row.feedback[-1].text if row.feedback else 'correct'}"), **changes)
        for i, row in enumerate(batch.rows)
    ]


def vpd_e(batch: Batch, context: AnnotateContext, beta: float = 0.1) -> list[LossTerm]:
    """§7a, E: unpaired BCO on the *teacher's* context with gradient, the student as stop-gradient prior."""
    trained = contexts(batch, kind="feedback")
    priors = [[dataclasses.replace(view, **PRIOR_VIEW) for view in student_views(batch, i)] for i in every(batch)]
    flat = [view for pair in zip(trained, priors, strict=True) for views in pair for view in views]
    sums = torch.tensor([float(scores.logprobs.sum()) for scores in context.score(flat)]).reshape(-1, 2)
    rewards = beta * (sums[:, 0] - sums[:, 1])
    good = [i for i, row in enumerate(batch.rows) if row.success]
    bad = [i for i, row in enumerate(batch.rows) if not row.success]
    loss = BCOLoss(beta, float(bco_shift(rewards[good], rewards[bad])))
    return [
        LossTerm(name, loss, build_items(batch, context, rows, views=trained, references=[priors], label=label, ratios=False))
        for name, rows, label in (("accepted", good, 1), ("rejected", bad, -1))
    ]


def vpd_m(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    """§7a, M: reverse KL to the same weights in the context C."""
    items = build_items(batch, context, every(batch), references=[contexts(batch, **TEACHER_VIEW)])
    return [LossTerm("distill", DistillLoss("reverse_kl", top_k=20), items, aggregation="seq_mean_token_sum")]


def rltf_sd(batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    """Wider §5.9: −A·log π(y1|x0) with a first-turn baseline and no ratio, plus 0.1 of turn-wise REINFORCE."""
    rewards = turn_rewards(batch.rows)
    second = [row.turn_of_token() == 1 for row in batch.rows]
    views = []
    for i, mask in enumerate(second):
        (view,) = student_views(batch, i)
        tokens = batch.rows[i].action_ids()[mask]
        places = np.flatnonzero(mask)
        views.append([ScoringView(i, view.prefix_ids, tokens, np.ones(len(tokens), bool), places, provenance="reprompted")])
    advantage = np.repeat((rewards[:, 1] - rewards[:, 0].mean())[:, None], 2, axis=1)
    distill = build_items(batch, context, every(batch), views=views, advantage=advantage, ratios=False)
    turns = advantages(returns(rewards, "turn"), batch.groups, scale="none")
    both = build_items(batch, context, every(batch), advantage=turns, ratios=False)
    loss = PolicyGradientLoss("reinforce")
    return [
        LossTerm("second_turn", loss, distill, aggregation="seq_mean_token_sum"),
        LossTerm("turns", loss, both, 0.1, "seq_mean_token_sum"),
    ]


def spliced(batch: Batch, i: int, text: str, **changes: Any) -> list[ScoringView]:
    """The answer between the generation header and the response, as an insertion (CEPO)."""
    return [dataclasses.replace(view, insertions=((0, CHAT.encode_text(text)),), **changes) for view in student_views(batch, i)]


def cepo(batch: Batch, context: AnnotateContext, lam: float = 0.5, epsilon: float = 0.2, negative: str | None = None) -> list[LossTerm]:
    """Wider §5.3: Â = A·[(1−λ) + λ·clip(e^{sign(A)·Δ}, 1±ε)], Δ = log P⁺ − log P⁻, two contexts of the current weights."""
    per_turn = build_algorithm("grpo").advantages(batch)
    wrong = {i: next(j for j in group if not batch.rows[j].success) for group in batch.groups for i in group}
    positive = [spliced(batch, i, row.task.privileged["answer"], **PRIOR_VIEW) for i, row in enumerate(batch.rows)]
    negatives = [spliced(batch, i, negative or batch.rows[wrong[i]].actions[0], **PRIOR_VIEW) for i in every(batch)]
    scores = context.score([v for views in (*positive, *negatives) for v in views])
    items = build_items(batch, context, every(batch), advantage=per_turn)
    modulated = []
    for item, plus, minus in zip(items, scores[: len(items)], scores[len(items) :], strict=True):
        assert item.advantage is not None
        delta = np.clip(plus.logprobs - minus.logprobs, -20, 20)
        factor = np.clip(np.exp(np.sign(item.advantage) * delta), 1 - epsilon, 1 + epsilon)
        modulated.append(dataclasses.replace(item, advantage=(item.advantage * ((1 - lam) + lam * factor)).astype(np.float32)))
    return [LossTerm("policy", PolicyGradientLoss(clip_high=0.28), modulated)]


def srpo(batch: Batch, context: AnnotateContext, beta: float = 1.0, routed: Sequence[int] | None = None) -> list[LossTerm]:
    """Wider §5.1: failures with a correct sibling are distilled with weight e^{−βH}/mean, the rest gets GRPO; one Σmask."""
    conditioner = build_algorithm("sdpo_norich").conditioners[0]
    views = conditioner.views(batch, context)
    chosen = [i for i, row in enumerate(batch.rows) if not row.success and views[i] is not None] if routed is None else list(routed)
    entropies = {i: np.concatenate([s.entropy for s in context.score(views[i])]) for i in chosen}
    raw = {i: np.exp(-beta * h) for i, h in entropies.items()}
    mean = np.concatenate(list(raw.values())).mean() if raw else 1.0
    weight = [raw[i] / mean if i in raw else np.ones(row.action_length) for i, row in enumerate(batch.rows)]
    rest = [i for i in every(batch) if i not in chosen]
    per_turn = build_algorithm("grpo").advantages(batch)
    policy = build_items(batch, context, rest, advantage=per_turn)
    distill = build_items(batch, context, chosen, references=[views], weight=weight)
    terms = [
        LossTerm("policy", PolicyGradientLoss(clip_high=0.28), policy),
        LossTerm("distill", DistillLoss("jensen_shannon", importance="capped"), distill),
    ]
    return [dataclasses.replace(term, normaliser_key="routed") for term in terms if term.items]


def spans(row: Trajectory) -> np.ndarray:
    """What an annotator might mark: the second half of the answer."""
    return np.arange(row.action_length) >= row.action_length // 2


def trace(batch: Batch, context: AnnotateContext, lam: float = 0.5, start: float = 0.5) -> list[LossTerm]:
    """Wider §5.6: Σ_S/|y| of forward KL on key spans of successes and reverse KL on error spans of failures; GRPO elsewhere."""
    per_turn = build_algorithm("grpo").advantages(batch)
    views = [
        re_prompted(batch, i, told(row, "Contains key reasoning." if row.success else "Contains an error."), **TEACHER_VIEW)
        for i, row in enumerate(batch.rows)
    ]
    policy = []
    for item in build_items(batch, context, every(batch), advantage=per_turn):
        share = np.where(spans(batch.rows[item.view.row]), 1 - lam / start, 1.0)  # a coefficient of 0 stays in the denominator
        assert item.advantage is not None
        policy.append(dataclasses.replace(item, advantage=(item.advantage * share).astype(np.float32)))
    terms = [
        LossTerm(
            "policy", PolicyGradientLoss(clip_high=0.28), policy, aggregation="seq_mean_token_mean", count_empty=True, rows=len(batch.rows)
        )
    ]
    weight = [spans(row) / row.action_length for row in batch.rows]
    for name, divergence, success in (("key", "forward_kl", True), ("error", "reverse_kl", False)):
        rows = [i for i, row in enumerate(batch.rows) if row.success is success]
        items = build_items(batch, context, rows, references=[views], weight=weight)
        loss = DistillLoss(divergence, support="full", pointwise_clip=0.05)  # type: ignore[arg-type]
        terms.append(LossTerm(name, loss, items, lam, "seq_mean_token_sum", count_empty=True, rows=len(batch.rows)))
    return terms


HINT = "Hint: the answer is 7."


def privileged_rollouts() -> Batch:
    """π-Distill samples under the privileged prompt: that prompt is in the rows' own segments."""
    task = dataclasses.replace(TASK, messages=tuple(told(single_turn().rows[0], HINT)))
    return group_rows(
        [scripted_row(CHAT, task, i, [a], [r], policy=OLD) for i, (a, r) in enumerate([("7", 1.0), ("is 7", 1.0), ("5", 0.0)])]
    )


def pi_distill(
    batch: Batch, context: AnnotateContext, alpha: float = 0.5, beta: float = 0.25, prompt: Sequence[Message] = TASK.messages
) -> list[LossTerm]:
    """Wider §5.10: α·J_T + (1−α)·J_S; both contexts carry gradient, each with the other one detached."""
    per_turn = build_algorithm("dr_grpo").advantages(batch)
    plain = [re_prompted(batch, i, list(prompt), provenance="reprompted") for i in every(batch)]
    own = [student_views(batch, i) for i in every(batch)]
    fixed_plain, fixed_own = ([[dataclasses.replace(v, **PRIOR_VIEW) for v in views] for views in side] for side in (plain, own))
    behaviour = {view.row: s.logprobs for view, s in zip([v[0] for v in own], context.score([v[0] for v in own]), strict=True)}
    teacher = build_items(batch, context, every(batch), references=[fixed_plain], advantage=per_turn)
    student = [
        dataclasses.replace(item, old_logprobs=behaviour[item.view.row])
        for item in build_items(batch, context, every(batch), views=plain, references=[fixed_own], advantage=per_turn)
    ]
    policy, reverse, forward = PolicyGradientLoss(), DistillLoss("reverse_kl", support="full"), DistillLoss("forward_kl", support="full")
    bare = [[dataclasses.replace(item, references=()) for item in side] for side in (teacher, student)]
    return [
        LossTerm("teacher_policy", policy, bare[0], alpha, "seq_mean_token_sum"),
        LossTerm("teacher_kl", reverse, teacher, alpha * beta, "seq_mean_token_sum"),
        LossTerm("student_policy", policy, bare[1], 1 - alpha, "seq_mean_token_sum"),
        LossTerm("student_kl", forward, student, (1 - alpha) * beta, "seq_mean_token_sum"),
    ]


RECIPES: dict[str, tuple[Recipe, Callable[[], Batch]]] = {
    "grpo": (grpo, single_turn),
    "sdpo_rich": (sdpo_rich, single_turn),
    "sdpo_norich": (sdpo_norich, single_turn),
    "sd_zero_revision": (sd_zero_revision, single_turn),
    "sd_zero_distill": (sd_zero_distill, single_turn),
    "skill_sd": (skill_sd, multi_turn),
    "vpd_e": (vpd_e, single_turn),
    "vpd_m": (vpd_m, single_turn),
    "rltf_sd": (rltf_sd, multi_turn),
    "cepo": (cepo, single_turn),
    "srpo": (srpo, single_turn),
    "trace": (trace, single_turn),
    "pi_distill": (pi_distill, privileged_rollouts),
}


# ---- helpers of the oracles ------------------------------------------------------------------------------------


def logits(prefix: np.ndarray, tokens: np.ndarray, model: BagModel = POLICY) -> Tensor:
    """``[T, V]`` for ``tokens`` right behind ``prefix``."""
    ids = np.concatenate([prefix, tokens])
    return model.logits(ids, np.arange(len(prefix), len(ids)))


def logp(prefix: np.ndarray, tokens: np.ndarray, model: BagModel = POLICY) -> Tensor:
    return logits(prefix, tokens, model).log_softmax(-1).gather(-1, torch.from_numpy(tokens)[:, None])[:, 0]


def row_parts(row: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and everything after it (single-turn rows: the answer)."""
    segment = row.segments[0]
    return segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]


def standardised(batch: Batch) -> np.ndarray:
    out = np.zeros(len(batch.rows))
    for group in batch.groups:
        r = np.array([batch.rows[i].reward for i in group], dtype=float)
        out[group] = (r - r.mean()) / (r.std(ddof=1) + 1e-6)
    return out


def same_gradient(got: list[np.ndarray], expected: Tensor, tolerance: float = FLOAT32) -> None:
    found = torch.autograd.grad(expected, POLICY.parameters)
    for a, b in zip(got, found, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=tolerance)
    assert max(float(g.abs().max()) for g in found) > 1e-5, "an oracle without gradient proves nothing"


def interpreter(*, teacher: BagModel = TEACHER) -> Interpreter:
    return Interpreter(POLICY, teacher)


def terms_of(name: str, *, on_policy: bool = True, **arguments: Any) -> tuple[Batch, list[LossTerm]]:
    recipe, rows = RECIPES[name]
    batch = rows()
    return batch, recipe(batch, interpreter().context(CHAT, on_policy=on_policy), **arguments)


def clipped(w: Tensor, a: float | Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    return -torch.minimum(w * a, w.clamp(1 - low, 1 + high) * a)


# ---- every recipe, against its formula ---------------------------------------------------------------------------


def test_grpo() -> None:
    """Off-policy: π_old is scored before the first update, here by other weights, so that clipping is active."""
    batch = single_turn()
    terms = grpo(batch, Interpreter(OLD).context(CHAT, on_policy=False))
    total, active = torch.zeros((), dtype=torch.float64), 0
    for row, a in zip(batch.rows, standardised(batch), strict=True):
        prompt, answer = row_parts(row)
        w = torch.exp(logp(prompt, answer) - logp(prompt, answer, OLD).detach())
        active += int(((w > 1.2) | (w < 0.8)).sum())
        total = total + clipped(w, a).mean() / len(batch.rows)
    assert active
    assert interpreter().objective(terms).item() == pytest.approx(total.item(), abs=FLOAT32)
    same_gradient(interpreter().gradient(terms), total)


@pytest.mark.parametrize(("name", "k"), [("sdpo_rich", 20), ("sdpo_norich", 100)])
def test_sdpo(name: str, k: int) -> None:
    batch, terms = terms_of(name)
    (term,) = terms
    total = torch.zeros((), dtype=torch.float64)
    for item in term.items:
        prompt, answer = row_parts(batch.rows[item.view.row])
        p = logits(prompt, answer).softmax(-1)
        q = logits(item.references[0].prefix_ids, answer, TEACHER).softmax(-1).detach()
        ids = p.detach().argsort(-1, descending=True)[:, :k]
        pk, qk = p.gather(-1, ids), q.gather(-1, ids)
        pk, qk = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (pk, qk))
        m = (pk + qk) / 2
        jsd = 0.5 * (qk * (qk / m).log() + pk * (pk / m).log()).sum(-1)
        loss = (pk * (pk / qk).log()).sum(-1) if name == "sdpo_rich" else jsd
        correction = torch.exp(logp(prompt, answer).detach() - torch.from_numpy(batch.rows[item.view.row].action_logprobs())).clamp(max=2.0)
        total = total + (loss * correction).mean() / len(batch.rows)
    assert interpreter().objective(terms).item() == pytest.approx(total.item(), abs=1e-7)
    same_gradient(interpreter().gradient(terms), total, 1e-7)


def test_sd_zero_revision() -> None:
    batch, (generation, revision) = terms_of("sd_zero_revision")
    totals, counts = [torch.zeros((), dtype=torch.float64)] * 2, [0, 0]
    for row, whole, late in zip(batch.rows, generation.items, revision.items, strict=True):
        prompt, answer = row_parts(row)
        phrase, revised = CHAT.encode_text(PHRASE[row.success]), np.append(CHAT.encode_text(REVISED), CHAT.end_ids[0])
        assert int(whole.view.loss_mask.sum()) == len(answer) - 1 + len(phrase) + len(revised)
        assert int(late.view.loss_mask.sum()) == len(revised)
        head = np.concatenate([answer[:-1], phrase])
        for n, (prefix, tokens) in enumerate([(prompt, np.concatenate([head, revised])), (np.concatenate([prompt, head]), revised)]):
            totals[n], counts[n] = totals[n] - logp(prefix, tokens).sum(), counts[n] + len(tokens)
    expected = totals[0] / counts[0] + totals[1] / counts[1]
    assert interpreter().objective([generation, revision]).item() == pytest.approx(expected.item(), abs=1e-9)
    same_gradient(interpreter().gradient([generation, revision]), expected, 1e-9)
    stages = [Phase("generation", lambda b, c: [generation], rollouts=False), Phase("revision", lambda b, c: [revision], rollouts=False)]
    assert [p.name for p in stages] == ["generation", "revision"], "the repository's sequential form is two phases of the same terms"


def test_sd_zero_distill() -> None:
    batch, terms = terms_of("sd_zero_distill")
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, item in zip(batch.rows, terms[0].items, strict=True):
        prompt, answer = row_parts(row)
        phrase = CHAT.encode_text(PHRASE[row.success])
        (view,) = item.references
        _, positions = view.sequence()
        np.testing.assert_array_equal(positions - 1, len(prompt) + len(answer) - 1 + len(phrase) + np.arange(len(answer)) - 1)
        q = logits(np.concatenate([prompt, answer[:-1], phrase]), answer, TEACHER).detach().softmax(-1)
        ids = q.argsort(-1, descending=True)[:, :64]
        qk, pk = (x.gather(-1, ids) for x in (q, logits(prompt, answer).softmax(-1)))
        qk, pk = (x / x.sum(-1, keepdim=True) for x in (qk, pk))
        total = total + 0.5 * (qk * (qk / pk).log() + pk * (pk / qk).log()).sum()
        count += len(answer)
    assert interpreter().objective(terms).item() == pytest.approx((total / count).item(), abs=1e-9)
    same_gradient(interpreter().gradient(terms), total / count, 1e-9)


def test_sd_zero_distill_with_nothing_before_the_second_copy_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHRASE, True, "")
    monkeypatch.setitem(PHRASE, False, "")
    _, (term,) = terms_of("sd_zero_distill")
    plain = [dataclasses.replace(i, references=(dataclasses.replace(i.references[0], prefix_ids=i.view.prefix_ids),)) for i in term.items]
    same = dataclasses.replace(term, items=plain)
    assert interpreter(teacher=POLICY).objective([same]).item() == pytest.approx(0.0, abs=1e-12)
    assert interpreter(teacher=POLICY).objective([term]).item() > 1e-6, "with the first copy the context differs"


def test_skill_sd() -> None:
    batch = multi_turn()
    context = Interpreter(OLD, TEACHER).context(CHAT, on_policy=False)
    terms = skill_sd(batch, context)
    policy, skill = terms
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, item in zip(batch.rows, skill.items, strict=True):
        segment = row.segments[0]
        places = np.flatnonzero(segment.action_mask)
        own = POLICY.logprobs(segment.ids, places)
        with_skill = np.concatenate([CHAT.prompt_ids(told(row, SKILL)), segment.ids[segment.prompt_length :]])
        shift = len(with_skill) - len(segment.ids)
        assert shift > 0 and not segment.action_mask[places[0] : places[-1] + 1].all(), "the observation lies between scored tokens"
        assert SKILL in CHAT.tokenizer.decode(item.references[0].prefix_ids)
        ell = (own - TEACHER.logprobs(with_skill, places + shift)).detach()
        rho = torch.exp(own - OLD.logprobs(segment.ids, places)).detach()
        total, count = total + (rho * ell * own).sum(), count + len(places)  # whose gradient is ρ·ℓ·∇log π
    same_gradient(interpreter().gradient([dataclasses.replace(skill, coefficient=1.0)]), total / count, 1e-9)
    off = interpreter().gradient(skill_sd(batch, context, scale=0.0))
    assert all(np.array_equal(a, b) for a, b in zip(off, interpreter().gradient([policy]), strict=True)), "λ = 0 is GRPO"


def test_vpd_e() -> None:
    batch, terms = terms_of("vpd_e")
    rewards, detached = [], []
    for row, views in zip(batch.rows, contexts(batch), strict=True):
        prompt, answer = row_parts(row)
        r = 0.1 * (logp(views[0].prefix_ids, answer).sum() - logp(prompt, answer).sum().detach())
        rewards.append(r)
        detached.append(r.item())
    good, bad = ([i for i, row in enumerate(batch.rows) if row.success is s] for s in (True, False))
    delta = 0.5 * (np.mean([detached[i] for i in good]) + np.mean([detached[i] for i in bad]))
    side = [
        -torch.stack([torch.nn.functional.logsigmoid(s * (rewards[i] - delta)) for i in rows]).mean() for rows, s in ((good, 1), (bad, -1))
    ]
    expected = side[0] + side[1]
    assert interpreter().objective(terms).item() == pytest.approx(expected.item(), abs=1e-6)  # δ passes through a float32 loss record
    same_gradient(interpreter().gradient(terms), expected, 1e-7)


def test_vpd_e_without_context_is_two_ln_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "contexts", lambda batch, **changes: [student_views(batch, i) for i in every(batch)])
    _, terms = terms_of("vpd_e")
    assert interpreter().objective(terms).item() == pytest.approx(2 * math.log(2), abs=1e-9)
    assert max(np.abs(g).max() for g in interpreter().gradient(terms)) > 1e-5


def test_vpd_m_is_sdpo_with_a_live_teacher() -> None:
    batch, terms = terms_of("vpd_m")
    live = interpreter(teacher=POLICY)
    total = torch.zeros((), dtype=torch.float64)
    for row, views in zip(batch.rows, contexts(batch), strict=True):
        prompt, answer = row_parts(row)
        p, q = logits(prompt, answer).softmax(-1), logits(views[0].prefix_ids, answer).softmax(-1).detach()
        ids = p.detach().argsort(-1, descending=True)[:, :20]
        pk, qk = (torch.cat([x.gather(-1, ids), 1 - x.gather(-1, ids).sum(-1, keepdim=True)], -1) for x in (p, q))
        total = total + (pk * (pk / qk).log()).sum() / len(batch.rows)
    assert live.objective(terms).item() == pytest.approx(total.item(), abs=1e-8)
    same_gradient(live.gradient(terms), total, 1e-8)


def test_rltf_sd() -> None:
    batch, terms = terms_of("rltf_sd")
    r = np.array([row.turn_rewards for row in batch.rows])
    total = torch.zeros((), dtype=torch.float64)
    for row, (r0, r1) in zip(batch.rows, r, strict=True):
        segment = row.segments[0]
        prompt = segment.ids[: segment.prompt_length]
        first, second = (segment.ids[s.start : s.end] for s in segment.spans)
        total = total - (r1 - r[:, 0].mean()) * logp(prompt, second).sum()
        total = total - 0.1 * (r0 + r1 - r.sum(1).mean()) * logp(prompt, first).sum()
        total = (
            total
            - 0.1 * (r1 - r[:, 1].mean()) * POLICY.logprobs(segment.ids, np.arange(segment.spans[1].start, segment.spans[1].end)).sum()
        )
    same_gradient(interpreter().gradient(terms), total / len(batch.rows))
    assert terms[0].items[0].view.provenance == "reprompted", "π(y1|x0) is not what it was sampled from"


def test_cepo() -> None:
    batch, (term,) = terms_of("cepo")
    total, count, bounded = torch.zeros((), dtype=torch.float64), 0, 0
    for i, (row, a) in enumerate(zip(batch.rows, standardised(batch), strict=True)):
        prompt, answer = row_parts(row)
        wrong = next(batch.rows[j] for group in batch.groups if i in group for j in group if not batch.rows[j].success)
        plus, minus = (
            logp(np.concatenate([prompt, CHAT.encode_text(t)]), answer).detach() for t in (row.task.privileged["answer"], wrong.actions[0])
        )
        factor = torch.exp(np.sign(a) * (plus - minus)).clamp(0.8, 1.2)
        bounded += int(((factor == 0.8) | (factor == 1.2)).sum())
        total, count = total - (a * (0.5 + 0.5 * factor) * logp(prompt, answer)).sum(), count + len(answer)
    assert 0 < bounded < count
    same_gradient(interpreter().gradient([term]), total / count)


def test_cepo_reductions() -> None:
    """Lattice 1–3: λ = 0 and equal contexts are GRPO; 1−λε ≤ Â/A ≤ 1+λε."""
    batch, (plain,) = terms_of("cepo", lam=0.0)
    _, (equal,) = terms_of("cepo", negative="7")
    _, (full,) = terms_of("cepo", lam=0.5)
    base = {i: a for i, a in enumerate(standardised(batch))}
    for a, b, c in zip(plain.items, equal.items, full.items, strict=True):
        np.testing.assert_allclose(a.advantage, base[a.view.row], atol=1e-6)
        if batch.rows[b.view.row].task is TASK:  # there the positive context says "7" too
            np.testing.assert_allclose(b.advantage, base[b.view.row], atol=1e-6)
        share = c.advantage / base[c.view.row]
        assert (share >= 0.9 - 1e-6).all() and (share <= 1.1 + 1e-6).all()


def test_srpo() -> None:
    batch, terms = terms_of("srpo")
    policy, distill = terms
    assert [i.view.row for i in distill.items] == [1, 2, 3, 5] and [i.view.row for i in policy.items] == [0, 4]
    weights = np.concatenate([i.weight for i in distill.items])
    assert weights.mean() == pytest.approx(1.0, abs=1e-6) and weights.std() > 1e-3
    count = sum(row.action_length for row in batch.rows)
    total, raw = torch.zeros((), dtype=torch.float64), []
    for item in distill.items:
        prompt, answer = row_parts(batch.rows[item.view.row])
        q = logits(item.references[0].prefix_ids, answer, TEACHER).detach().softmax(-1)
        p = logits(prompt, answer).softmax(-1)
        ids = p.detach().argsort(-1, descending=True)[:, :100]
        pk, qk = (torch.cat([x.gather(-1, ids), 1 - x.gather(-1, ids).sum(-1, keepdim=True)], -1) for x in (p, q))
        m = (pk + qk) / 2
        u = torch.exp((q * q.log()).sum(-1))
        raw.append(u)
        total = total + (u * 0.5 * (qk * (qk / m).log() + pk * (pk / m).log()).sum(-1)).sum()
    total = total / torch.cat(raw).mean()
    for i in (0, 4):
        total = total - standardised(batch)[i] * logp(*row_parts(batch.rows[i])).sum()
    same_gradient(interpreter().gradient(terms), total / count)


def test_srpo_reductions() -> None:
    """Lattice 7: nothing routed is GRPO's token mean; everything routed with β = 0 is SDPO's."""
    batch, nothing = terms_of("srpo", routed=[])
    settings = {"aggregation": "token_mean_global", "clip_high": 0.28}
    grpo_mean = build_algorithm("grpo", settings).annotate(batch, interpreter().context(CHAT))
    for a, b in zip(interpreter().gradient(nothing), interpreter().gradient(grpo_mean), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    taught = [1, 2, 3, 5]
    _, terms = terms_of("srpo", routed=taught, beta=0.0)
    sdpo = build_algorithm("sdpo_norich", {"aggregation": "token_mean_global", "rollout_correction": "none"}).annotate(
        batch, interpreter().context(CHAT)
    )
    only = [t for t in terms if t.name == "distill"]
    assert all((i.weight == 1).all() for i in only[0].items)
    for a, b in zip(interpreter().gradient(only), interpreter().gradient(sdpo), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_trace() -> None:
    batch, terms = terms_of("trace", lam=0.25)
    total = torch.zeros((), dtype=torch.float64)
    for row, a in zip(batch.rows, standardised(batch), strict=True):
        prompt, answer = row_parts(row)
        marked = torch.from_numpy(spans(row))
        q = (
            logits(CHAT.prompt_ids(told(row, "Contains key reasoning." if row.success else "Contains an error.")), answer, TEACHER)
            .detach()
            .log_softmax(-1)
        )
        p = logits(prompt, answer).log_softmax(-1)
        entries = q.exp() * (q - p) if row.success else p.exp() * (p - q)
        distill = entries.clamp(max=0.05).sum(-1)
        policy = -a * torch.where(marked, 0.5, 1.0) * logp(prompt, answer)
        total = total + (policy + 0.25 * torch.where(marked, distill, 0.0)).sum() / len(answer) / len(batch.rows)
    same_gradient(interpreter().gradient(terms), total)


def test_trace_after_its_schedule_is_grpo() -> None:
    """Lattice 13, 20: λ = 0 gives GRPO's terms plus zeros; the policy part of span tokens vanishes at λ = λ₀."""
    batch, terms = terms_of("trace", lam=0.0)
    plain = build_algorithm("grpo", {"clip_high": 0.28}).annotate(batch, interpreter().context(CHAT))
    assert all(np.array_equal(a, b) for a, b in zip(interpreter().gradient(terms), interpreter().gradient(plain), strict=True))
    batch, (policy, *_) = terms_of("trace", lam=0.5)
    for item in policy.items:
        assert item.advantage is not None
        np.testing.assert_array_equal(item.advantage == 0, spans(batch.rows[item.view.row]))
        assert (item.weight == 1).all(), "a coefficient of 0 is not a mask"


def test_pi_distill() -> None:
    batch, terms = terms_of("pi_distill")
    r = np.array([row.reward for row in batch.rows], dtype=float)
    total = torch.zeros((), dtype=torch.float64)
    plain = CHAT.prompt_ids(TASK.messages)
    for row, a in zip(batch.rows, r - r.mean(), strict=True):
        hinted, answer = row_parts(row)
        assert len(hinted) > len(plain)
        t, s = logits(hinted, answer).log_softmax(-1), logits(plain, answer).log_softmax(-1)
        on_policy = torch.exp(logp(hinted, answer) - logp(hinted, answer).detach())
        total = total + 0.5 * (clipped(on_policy, a).sum() + 0.25 * (t.exp() * (t - s.detach())).sum())
        w = torch.exp(logp(plain, answer) - logp(hinted, answer).detach())
        total = total + 0.5 * (clipped(w, a).sum() + 0.25 * (t.detach().exp() * (t.detach() - s)).sum())
    total = total / len(batch.rows)
    assert interpreter().objective(terms).item() == pytest.approx(total.item(), abs=FLOAT32)
    same_gradient(interpreter().gradient(terms), total)


def test_pi_distill_without_a_hint_is_the_policy_gradient() -> None:
    batch = privileged_rollouts()
    terms = pi_distill(batch, interpreter().context(CHAT), prompt=batch.rows[0].task.messages)
    plain = build_algorithm("dr_grpo", {"aggregation": "seq_mean_token_sum"}).annotate(batch, interpreter().context(CHAT))
    for a, b in zip(interpreter().gradient(terms), interpreter().gradient(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_forward_kl_of_pi_distill_has_the_gradient_of_teacher_samples() -> None:
    """Lattice 17: ∇KL(sg T‖S) = −E_{v~T}[∇log S(v)], summed exactly."""
    batch, terms = terms_of("pi_distill")
    (forward,) = [t for t in terms if t.name == "student_kl"]
    total = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        hinted, answer = row_parts(row)
        total = total - (
            logits(hinted, answer).softmax(-1).detach() * logits(CHAT.prompt_ids(TASK.messages), answer).log_softmax(-1)
        ).sum() / len(batch.rows)
    same_gradient(interpreter().gradient([dataclasses.replace(forward, coefficient=1.0)]), total, 1e-9)


# ---- every recipe, through the learner -------------------------------------------------------------------------


class Transformer:
    """A real model with the interpreter's interface: one forward per view, no packing, no batching."""

    def __init__(self, model: Any) -> None:
        self.model, self.parameters = model, list(model.parameters())

    def logits(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        return self.model(torch.from_numpy(ids)[None]).logits[0, torch.from_numpy(positions) - 1].double()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", RECIPES)
def test_the_learner_takes_the_gradient_of_the_interpreter(name: str) -> None:
    """Packed and micro-batched in float32 against one item at a time: relative 1e-3, absolute 2e-5 of float order."""
    from sdgym.learner import Learner, OptimizerSettings
    from sdgym.ledger import Ledger
    from sdgym.teacher import Teacher
    from sdgym.testing_policy import random_policy

    model, other = random_policy(seed=3, context=512).model, random_policy(seed=4, context=512).model
    teacher = Teacher(model, "frozen")
    assert teacher.model is not None
    teacher.model.load_state_dict(other.state_dict())
    learner = Learner(model, teacher, Ledger(), OptimizerSettings(lr=0.0, grad_clip=0.0), micro_tokens=600)
    plain = Interpreter(Transformer(model), Transformer(other))  # type: ignore[arg-type]
    recipe, rows = RECIPES[name]
    batch = rows()
    terms = recipe(batch, dataclasses.replace(plain.context(CHAT), score=learner.score))
    learner.update(terms, batch.rows, [every(batch)])
    expected = plain.gradient(terms)
    got = [np.zeros(e.shape) if p.grad is None else p.grad.numpy() for p, e in zip(model.parameters(), expected, strict=True)]
    assert max(np.abs(e).max() for e in expected) > 1e-3
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-3, atol=2e-5)


def test_token_advantages_are_those_of_the_turn() -> None:
    batch = multi_turn()
    (view,) = student_views(batch, 0)
    spread = token_advantages(view, batch.rows[0], np.array([2.0, -1.0]))
    np.testing.assert_array_equal(spread, [2.0] * 3 + [-1.0] * 5)  # "up" and "left", each with its end token
