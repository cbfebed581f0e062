"""The composed presets against their formulas, written out in float64 on a one-line model; and the lattice of reductions between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.compose import Composed
from sdgym.algos.composition.rewards import cosine_length_reward
from sdgym.algos.composition.table import composition_of
from sdgym.algos.conditioning import build_conditioners
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.core import LossTerm, Trajectory
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
FLOAT32 = 5e-6  # advantages, weights and stored log-probs are float32; gradients here are of order 1
POLICY, TEACHER = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2)
INTERPRETER = Interpreter(POLICY, TEACHER)
LIVE = Interpreter(POLICY)
TASK, OTHER = scripted_task("a", "3+4?", solution="3+4 is 7"), scripted_task("b", "2*3?", answer="6", solution="two times three is 6")


def rows_of(task: Any, script: Sequence[tuple[str, float | None, str]]) -> list[Trajectory]:
    return [
        scripted_row(CHAT, task, i, [said], None if r is None else [r], feedback=f, policy=POLICY) for i, (said, r, f) in enumerate(script)
    ]


def mixed(*, all_wrong: bool = False) -> Batch:
    """Two groups: one success of three and an ungradable row; two of three (or none)."""
    first = [("is 7", 1.0, ""), ("5", 0.0, "too low"), ("twelve 12", 0.0, "too high"), ("?", None, "lost")]
    second = [("6", 0.0 if all_wrong else 1.0, "no"), ("66", 0.0, "far too high"), ("so 6.", 0.0 if all_wrong else 1.0, "no")]
    return group_rows([*rows_of(TASK, first), *rows_of(OTHER, second)])


def terms_of(
    name: str, overrides: dict[str, Any] | None = None, batch: Batch | None = None, live: bool = False, step: int = 0
) -> list[LossTerm]:
    interpreter = LIVE if live else INTERPRETER
    context = interpreter.context(CHAT, step=step)
    return build_algorithm(name, overrides).annotate(batch or mixed(), context)  # type: ignore[no-any-return]


def gradient(terms: Sequence[LossTerm], live: bool = False) -> list[np.ndarray]:
    return (LIVE if live else INTERPRETER).gradient(terms)


def same(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], atol: float = FLOAT32) -> None:
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, atol=atol)
    assert largest(got) > 1e-3, "an empty gradient equals anything"


def largest(values: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(v).max()) for v in values)


def differ(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return largest([x - y for x, y in zip(a, b, strict=True)]) > 1e-4


def derivative(total: Tensor) -> list[np.ndarray]:
    return [g.numpy() for g in torch.autograd.grad(total, POLICY.parameters)]


class Row:
    """One row's distributions: the student's ``logp [T, V]`` with gradient, ``own [T]`` of its tokens, and any teacher's."""

    def __init__(self, batch: Batch, index: int) -> None:
        self.batch, self.index, self.row = batch, index, batch.rows[index]
        segment = self.row.segments[0]
        self.ids, self.places = segment.ids, np.flatnonzero(segment.action_mask)
        self.tokens = torch.from_numpy(self.ids[self.places])[:, None]
        self.logp = POLICY.logits(self.ids, self.places).log_softmax(-1)
        self.own = self.logp.gather(-1, self.tokens)[:, 0]
        self.length = len(self.places)

    def told(self, kind: str, model: BagModel = TEACHER, options: dict[str, Any] | None = None, **shared: Any) -> Tensor:
        """``[T, V]`` of ``model`` under the prompt that the conditioner makes."""
        (conditioner,) = build_conditioners([kind], options or {}, **shared)
        views = conditioner.views(self.batch, LIVE.context(CHAT))[self.index]
        assert views is not None
        return model.logits(*views[0].sequence()).detach().log_softmax(-1)

    def of_tokens(self, logq: Tensor) -> Tensor:
        return logq.gather(-1, self.tokens)[:, 0]


def rows(batch: Batch, keep: Callable[[Trajectory], bool] = lambda row: True) -> list[Row]:
    return [Row(batch, i) for i, row in enumerate(batch.rows) if row.usable and keep(row)]


def has_sibling_success(batch: Batch, i: int) -> bool:
    group = next(g for g in batch.groups if i in g)
    return any(batch.rows[j].success for j in group if j != i)


def group_advantages(batch: Batch, reward: Callable[[Trajectory], float] = lambda row: float(row.reward or 0)) -> np.ndarray:
    out = np.zeros(len(batch.rows))
    for group in batch.groups:
        usable = [i for i in group if batch.rows[i].usable]
        values = np.array([reward(batch.rows[i]) for i in usable])
        out[usable] = (values - values.mean()) / (values.std(ddof=1) + 1e-6) if np.ptp(values) else 0.0
    return out


def policy_sum(batch: Batch, advantage: np.ndarray, keep: Callable[[Row], bool] = lambda row: True) -> Tensor:
    """−Σ A·log π: the on-policy gradient of the clipped surrogate."""
    return sum((-float(advantage[r.index]) * r.own.sum() for r in rows(batch) if keep(r)), torch.zeros((), dtype=torch.float64))


def tokens(batch: Batch) -> int:
    return sum(row.action_length for row in batch.rows if row.usable)


# ---- modulation: RLSD, CEPO -----------------------------------------------------------------------------------------


def modulated_objective(batch: Batch, delta: Callable[[Row], Tensor | None], lam: float, clip: float) -> Tensor:
    advantage, total = group_advantages(batch), torch.zeros((), dtype=torch.float64)
    for r in rows(batch):
        a, evidence = float(advantage[r.index]), delta(r)
        weight = torch.ones(r.length, dtype=torch.float64)
        if evidence is not None:
            weight = (1 - lam) + lam * torch.exp(np.sign(a) * evidence).clamp(1 - clip, 1 + clip)
        total = total - (a * weight * r.own).sum()
    return total / tokens(batch)


@pytest.mark.parametrize("step", [0, 20])
def test_rlsd(step: int) -> None:
    lam = 0.5 * (1 - step / 50)
    expected = modulated_objective(mixed(), lambda r: (r.of_tokens(r.told("answer")) - r.own).detach(), lam, 0.2)
    got = gradient(terms_of("rlsd", step=step))
    same(got, derivative(expected))
    assert differ(got, gradient(terms_of("grpo", {"aggregation": "token_mean_global", "clip_high": 0.28})))


def test_cepo_and_groups_without_a_wrong_answer() -> None:
    """All rows of a group read the same wrong answer; a group of successes alone is GRPO's."""
    right = rows_of(scripted_task("c", "1+1?", answer="2", solution="2"), [("2", 1.0, ""), ("so 2", 1.0, ""), ("2.", 0.75, "")])
    batch = group_rows([*mixed().rows, *right])  # a format bonus: 0.75 is above one half, and the group has advantages

    def delta(r: Row) -> Tensor | None:
        if r.row.task.task_id == "c":
            return None
        plus, minus = (r.of_tokens(r.told(kind, POLICY, placement="response")) for kind in ("answer", "wrong_answer"))
        return plus - minus

    got = gradient(terms_of("cepo", batch=batch, live=True), live=True)
    same(got, derivative(modulated_objective(batch, delta, 0.5, 0.2)))
    told = [item for term in terms_of("cepo", batch=batch, live=True) for item in term.items if item.references]
    assert {item.view.row for item in told} == {0, 1, 2, 4, 5, 6}
    assert [v.source for v in told[0].references] == ["answer", "row 1"] and told[0].references[1].prefix_ids.tolist()[
        -2:
    ] == CHAT.encode_text("5 ").tolist()


GRPO_OF_RLSD = {"aggregation": "token_mean_global", "clip_high": 0.28}
LATTICE: list[tuple[str, tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = [
    ("CEPO whose negative is the student ≡ RLSD", ("cepo", {"contexts": ["answer", "plain"], "placement": "user"}),
     ("rlsd", {"teacher": "live"})),
    ("CEPO whose negative is its positive ≡ GRPO", ("cepo", {"contexts": ["answer", "answer"]}), ("grpo", GRPO_OF_RLSD)),
    ("RLSD at λ = 0 ≡ GRPO", ("rlsd", {"strength": {"start": 0.0}}), ("grpo", GRPO_OF_RLSD)),
    ("RLSD whose teacher is the student ≡ GRPO", ("rlsd", {"contexts": ["plain"], "evidence": {"clip": 3.0}}), ("grpo", GRPO_OF_RLSD)),
    ("AVSD of one view ≡ the user-interactions loss without its masks", ("avsd", {"contexts": ["reference"], "context_options": {}}),
     ("hindsight", {"contexts": ["reference"], "skip_first": 0, "aggregation": "token_mean_global", "teacher": "frozen"})),
    ("AVSD of identical views ≡ one", ("avsd", {"contexts": ["answer"] * 3, "context_options": {}}),
     ("avsd", {"contexts": ["answer"], "mixture": "single", "context_options": {}})),
    ("SELFCI as a product of experts ≡ its sum of reverse KLs", ("selfci", {}), ("selfci", {"mixture": "geometric"})),
    ("SELFCI of one view ≡ plain reverse KL", ("selfci", {"contexts": ["reference"]}),
     ("opsd", {"divergence": "reverse_kl", "pointwise_clip": None, "aggregation": "token_mean_global"})),
    ("SRPO at β = 0 has no weights", ("srpo", {"token_weight": {"beta": 0.0}}), ("srpo", {"token_weight": {"kind": "none"}})),
    ("SRPO with everything routed and β = 0 ≡ SDPO", ("srpo", {"route": "all", "token_weight": {"beta": 0.0}, "contexts": ["outcome"]}),
     ("sdpo_norich", {"context": "outcome", "aggregation": "token_mean_global"})),
    ("SRPO with nothing routed ≡ GRPO", ("srpo", {"contexts": ["feedback"], "route": "successes"}), ("grpo", GRPO_OF_RLSD)),
    ("PW-OPSD with w_min = 1 ≡ OPSD", ("pw_opsd", {"token_weight": {"minimum": 1.0}}), ("opsd_v3", {"aggregation": "seq_mean_token_mean"})),
    ("PACED(0, 0) ≡ unweighted", ("paced", {"sample_weight": {"alpha": 0.0, "beta": 0.0}}),
     ("opsd", {"divergence": "reverse_kl", "aggregation": "seq_mean_token_mean", "count_empty": True})),
    ("SC-SDPO(0, 0) ≡ SDPO", ("sc_sdpo", {"sample_weight": {"alpha": 0.0, "beta": 0.0}}), ("sdpo_norich", {})),
    ("UniSD without agreement and hinge ≡ forward KL", ("unisd", {"token_weight": {"gamma": 0.0}, "hinge": {"weight": 0.0}}),
     ("opsd", {"divergence": "forward_kl", "aggregation": "seq_mean_token_mean"})),
    ("CaOPD without its rewriting ≡ SDFT", ("caopd", {"rewrite": "none"}), ("sdft", {})),
    ("π-Distill's OPSD at β = 0 ≡ GRPO", ("pi_opsd", {"strength": {"start": 0.0}}), ("grpo", {"aggregation": "seq_mean_token_sum", "count_empty": True})),
    ("TT-OPD without hint and average ≡ GRPO and a KL", ("tt_opd", {"contexts": ["plain"], "teacher": "frozen"}), ("tt_opd_ran", {})),
    ("a sum at λ = 0 is GRPO", ("compose", {"combine": "sum", "strength": {"start": 0.0}}), ("grpo", {"aggregation": "token_mean_global"})),
    ("top-k of the whole vocabulary is the full reverse KL", ("sg_topk", {"top_k": VOCAB}), ("sg_topk", {"support": "full"})),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), [pair[1:] for pair in LATTICE], ids=[pair[0] for pair in LATTICE])
def test_reduction_lattice(left: tuple[str, dict[str, Any]], right: tuple[str, dict[str, Any]], request: pytest.FixtureRequest) -> None:
    live = "cepo" in (left[0], right[0]) or "whose teacher is the student" in request.node.name
    batch = mixed()
    got, expected = (gradient(terms_of(name, overrides, batch, live), live) for name, overrides in (left, right))
    same(got, expected)


def test_the_lattice_compares_things_that_differ_otherwise() -> None:
    """Each pair's left side without the reduction is another gradient: no equality above is empty."""
    for name, other in (
        ("cepo", "rlsd"),
        ("rlsd", "grpo"),
        ("selfci", "opsd"),
        ("srpo", "grpo"),
        ("pw_opsd", "opsd_v3"),
        ("paced", "opsd"),
    ):
        assert differ(gradient(terms_of(name)), gradient(terms_of(other))), (name, other)


# ---- routing: SRPO ----------------------------------------------------------------------------------------------------


def jensen_shannon_with_tail(r: Row, logq: Tensor, k: int) -> Tensor:
    ids = r.logp.detach().topk(k, -1).indices
    p, q = (torch.cat([x.gather(-1, ids), (1 - x.gather(-1, ids).exp().sum(-1, keepdim=True)).log()], -1) for x in (r.logp, logq))
    m = ((p.exp() + q.exp()) / 2).log()
    return 0.5 * (q.exp() * (q - m)).sum(-1) + 0.5 * (p.exp() * (p - m)).sum(-1)


def test_srpo() -> None:
    """Failures with a successful sibling are distilled, everything else is GRPO's, under one denominator; u has mean one."""
    batch = mixed()
    routed = [r for r in rows(batch) if not r.row.success and has_sibling_success(batch, r.index)]
    assert [r.index for r in routed] == [1, 2, 5]
    told = [r.told("peer") for r in routed]
    entropy = [-(q.exp() * q).sum(-1) for q in told]
    mean = torch.cat([torch.exp(-h) for h in entropy]).mean()
    total = policy_sum(batch, group_advantages(batch), lambda r: r.index not in (1, 2, 5))
    for r, q, h in zip(routed, told, entropy, strict=True):
        total = total + (torch.exp(-h) / mean * jensen_shannon_with_tail(r, q, 100)).sum()
    terms = terms_of("srpo")
    same(gradient(terms), derivative(total / tokens(batch)))
    weights = np.concatenate([np.asarray(item.advantage) for item in terms[-1].items])
    assert weights.mean() == pytest.approx(1.0, abs=1e-6) and weights.std() > 0.01
    assert {term.normaliser_key for term in terms} == {"all rows"}


# ---- sampled evidence: AVSD, user interactions, Uni-OPD -----------------------------------------------------------------


def test_avsd() -> None:
    batch, total = mixed(), torch.zeros((), dtype=torch.float64)
    for r in rows(batch):
        kinds = (("reference", None), ("partial_reference", {"share": 0.5}), ("answer", None))
        q = torch.stack([r.of_tokens(r.told(kind, options=options)) for kind, options in kinds])
        p = r.own.detach()
        consensus, low, high = (q - p).mean(0), q.mean(0), q.exp().mean(0).log()
        gate = consensus.abs() / (q - p).abs().mean(0) * consensus.abs() / (consensus.abs() + high - low)
        total = total - ((low + gate * (high - low) - p) * r.own).sum()
    same(gradient(terms_of("avsd")), derivative(total / tokens(batch)))


@pytest.mark.parametrize("online", [False, True])
def test_user_interactions(online: bool) -> None:
    batch, total = mixed(), torch.zeros((), dtype=torch.float64)
    told = [r for r in rows(batch)]
    for r in told:
        delta = (r.of_tokens(r.told("follow_up", POLICY)) - r.own).detach()
        kept = slice(0 if online else 2, None)
        delta = delta - delta.mean() if online else delta
        total = total - (delta * r.own)[kept].sum() / max(1, r.length - (0 if online else 2)) / sum(
            x.length > (0 if online else 2) for x in told
        )
    terms = terms_of("hindsight_online" if online else "hindsight", live=True)
    same(gradient(terms, live=True), derivative(total))
    if online:
        assert all(abs(float(np.sum(item.advantage))) < 1e-5 for item in terms[0].items), "centred: the response as a whole has no credit"


def test_uni_opd() -> None:
    """Evidence beyond 10 nats is dropped, sides are balanced, and the smaller gap is lifted to δ."""
    batch = mixed()
    total, count = torch.zeros((), dtype=torch.float64), 0
    stay = [0, 1, 4, 5]  # one success and one failure per group, the first of each
    delta = {r.index: (r.of_tokens(r.told("plain")) - r.own).detach() for r in rows(batch)}
    kept = {i: d.abs() < 1.5 for i, d in delta.items()}
    mean = {i: float(delta[i][kept[i]].mean()) for i in stay}
    for good, bad in ((0, 1), (4, 5)):
        missing = max(0.0, 0.4 - (mean[good] - mean[bad]))
        for i, sign in ((good, 1.0), (bad, -1.0)):
            total = total - ((delta[i] + sign * missing / 2) * Row(batch, i).own)[kept[i]].sum()
            count += int(kept[i].sum())
    assert any(not bool(k.all()) for k in kept.values()) and any(mean[g] - mean[b] < 0.4 for g, b in ((0, 1), (4, 5)))
    same(gradient(terms_of("uni_opd", {"evidence": {"drop_above": 1.5}})), derivative(total / count))


# ---- targets: SELFCI, PACED, PW-OPSD, top-k, π-Distill, TT-OPD, UniSD -----------------------------------------------------


def reverse_kl(r: Row, logq: Tensor) -> Tensor:
    return (r.logp.exp() * (r.logp - logq)).sum(-1)


def forward_kl(r: Row, logq: Tensor, clip: float | None = None) -> Tensor:
    terms = logq.exp() * (logq - r.logp)
    return (terms if clip is None else terms.clamp(max=clip)).sum(-1)


@pytest.mark.parametrize("adaptive", [False, True])
def test_selfci(adaptive: bool) -> None:
    batch, total = mixed(), torch.zeros((), dtype=torch.float64)
    for r in rows(batch):
        w = 1.0 - float(r.row.reward or 0) if adaptive else 1.0
        each = [reverse_kl(r, r.told(kind)).sum() for kind in ("verdict", "reference")]
        total = total + w * sum(each) / max(2 * w, 1.0)
    overrides = {"context_weights": "failure"} if adaptive else {}
    terms = terms_of("selfci", overrides)
    same(gradient(terms), derivative(total / tokens(batch)))
    assert [term.name for term in terms] == ["distill-1", "distill-2"]


@pytest.mark.parametrize("siblings_only", [False, True])
def test_paced_keeps_the_denominator_of_groups_that_weigh_nothing(siblings_only: bool) -> None:
    """p = ⅓ and 0 in two groups: the second teaches nothing and still counts as rows, unless its teacher is its own feedback."""
    batch = mixed(all_wrong=True)
    contexts = {"contexts": ["peer+feedback"], "sample_weight": {"siblings_only": siblings_only}}
    total = torch.zeros((), dtype=torch.float64)
    for r in rows(batch):
        if r.row.success:
            continue  # the only success of its group reads nothing
        weight = {"a": 2 / 9, "b": 1.0 if siblings_only else 0.0}[r.row.task.task_id]
        total = total + weight * reverse_kl(r, r.told("peer+feedback")).mean() / len(batch.rows)
    same(gradient(terms_of("paced", contexts, batch)), derivative(total))


def test_sc_sdpo_weighs_by_the_square_root() -> None:
    batch, total = mixed(), torch.zeros((), dtype=torch.float64)
    rates = {"a": 1 / 3, "b": 2 / 3}
    for r in rows(batch):
        if has_sibling_success(batch, r.index):
            p = rates[r.row.task.task_id]
            total = total + np.sqrt(p * (1 - p)) * jensen_shannon_with_tail(r, r.told("peer"), 100).mean() / len(batch.rows)
    same(gradient(terms_of("sc_sdpo")), derivative(total))


def test_pw_opsd() -> None:
    batch = mixed()
    total = torch.zeros((), dtype=torch.float64)
    for r in rows(batch):
        f = (torch.arange(r.length) + 0.5) / r.length
        w = 0.25 + 0.75 * torch.sigmoid((f - 0.3) / 0.1)
        total = total + (w * forward_kl(r, r.told("reference"), 0.05)).mean() / len(rows(batch))
    same(gradient(terms_of("pw_opsd")), derivative(total))


@pytest.mark.parametrize("name", ["sg_topk", "sg_topk_rule"])
def test_stopped_top_k(name: str) -> None:
    batch, total, count = mixed(), torch.zeros((), dtype=torch.float64), 0
    for r in rows(batch):
        q = r.told("reference") if name == "sg_topk" else r.told("rule", placement="system")
        ids = r.logp.detach().topk(20, -1).indices
        p, log_q = r.logp.gather(-1, ids), q.gather(-1, ids)
        total = total + (p.exp() * (p - log_q).detach()).sum(-1)[:2].sum()
        count += min(2, r.length)
    same(gradient(terms_of(name, {"last_token": 2})), derivative(total / count))


def test_pi_distill_opsd() -> None:
    batch = mixed()
    kl = sum(reverse_kl(r, r.told("reference", POLICY, placement="system")).sum() for r in rows(batch))
    total = (policy_sum(batch, group_advantages(batch)) + 0.5 * kl) / len(batch.rows)
    same(gradient(terms_of("pi_opsd", live=True), live=True), derivative(total))


@pytest.mark.parametrize(("name", "kind"), [("tt_opd", "outcome_hint"), ("tt_opd_ran", "plain")])
def test_tt_opd(name: str, kind: str) -> None:
    batch = mixed()
    shaped = group_advantages(batch, lambda row: cosine_length_reward(row.success, row.action_length / 24))
    kl = sum(((r.own - r.of_tokens(r.told(kind))).detach() * r.own).sum() for r in rows(batch))
    same(gradient(terms_of(name)), derivative((policy_sum(batch, shaped) + 4.0 * kl) / tokens(batch)))
    assert differ(gradient(terms_of(name)), gradient(terms_of(name, {"reward": "environment"})))


def test_unisd() -> None:
    more = [
        row for k in range(2) for row in rows_of(scripted_task(f"t{k}", f"{k}+1?", solution=f"{k} and 1"), [("7", 1.0, ""), ("5", 0.0, "")])
    ]
    batch, told = group_rows([*mixed().rows, *more]), {}
    for r in rows(batch):
        told[r.index] = torch.stack([r.of_tokens(r.told("example", options={"shift": k})) for k in (1, 2, 3)])
    spread = {i: q.var(0, correction=0) for i, q in told.items()}
    q95 = torch.quantile(torch.cat(list(spread.values())), 0.95)
    total = torch.zeros((), dtype=torch.float64)
    hinged = []
    for r in rows(batch):
        d = spread[r.index] / q95
        w = (1 / (1 + 2.0 * d.clamp(max=10))).clamp(min=0.01)
        demonstration = r.told("reference")
        total = total + (w * forward_kl(r, demonstration)).sum() / w.sum() / len(rows(batch))
        others = [j for j in next(g for g in batch.groups if r.index in g) if j != r.index]
        if any(batch.rows[j].usable and not batch.rows[j].success for j in others):
            good, bad = ((r.own - r.of_tokens(q)).abs() for q in (demonstration, r.told("wrong_peer")))
            hinged.append(torch.relu(0.1 + good - bad).mean())
    assert len(hinged) == 7, "the only failure of a group has no failed sibling"
    total = total + 0.01 * torch.stack(hinged).mean()
    same(gradient(terms_of("unisd", {"token_weight": {"gamma": 2.0}}, batch)), derivative(total))
    alone = gradient(terms_of("unisd", {"token_weight": {"gamma": 2.0}}))  # one other task: three equal contexts, whose spread is rounding
    same(alone, gradient(terms_of("unisd", {"token_weight": {"gamma": 0.0}})))


def test_examples_differ_where_there_are_other_tasks_enough() -> None:
    batch = group_rows([row for k in range(4) for row in rows_of(scripted_task(f"t{k}", f"{k}+1?"), [("7", 1.0, ""), ("5", 0.0, "")])])
    contexts = [build_conditioners(["example"], {"shift": k})[0].views(batch, LIVE.context(CHAT)) for k in (1, 2, 3)]
    for i in range(len(batch.rows)):
        sources = {c[i][0].source for c in contexts if c[i]}  # type: ignore[index]
        assert len(sources) == 3 and f"example t{i // 2}" not in sources


# ---- updates off-policy, several turns ------------------------------------------------------------------------------------


def test_off_policy_evidence_is_taken_against_the_policy_of_the_rollouts() -> None:
    """With two optimizer steps per batch Δ and the ratio both use π_old, scored once."""
    calls: list[int] = []

    def counting(views: Any) -> Any:
        calls.append(len(views))
        return INTERPRETER.score(views)

    context: AnnotateContext = dataclasses.replace(INTERPRETER.context(CHAT, on_policy=False), score=counting)
    (term,) = build_algorithm("hindsight_online", {"epochs": 2}).annotate(mixed(), context)
    assert calls == [6, 6], "old log-probs once, then the teachers alone"
    assert all(item.old_logprobs is not None and item.reference_logprobs is not None for item in term.items)


@pytest.mark.parametrize("name", ["rlsd", "srpo", "avsd", "pw_opsd", "hindsight", "tt_opd"])
def test_several_turns(name: str) -> None:
    """Two turns with an observation between: every sampled token of both turns is weighed, the observation is not."""
    script = [(["up", "left"], [0.0, 1.0]), (["down", "up up"], [0.0, 0.0])]
    batch = group_rows(
        [scripted_row(CHAT, TASK, i, a, r, observations=["wall"], feedback="stuck", policy=POLICY) for i, (a, r) in enumerate(script)]
    )
    terms = terms_of(name, batch=batch)
    assert largest(gradient(terms)) > 1e-4
    for term in terms:
        for item in term.items:
            assert len(item.weight) == batch.rows[item.view.row].action_length == int(item.view.loss_mask.sum())


@pytest.mark.parametrize("name", ["opsd_v1", "opsd_v3", "sdft", "sdpo_rich", "sdpo_norich"])
def test_presets_with_a_class_of_their_own_are_the_composition_that_the_table_shows(name: str) -> None:
    config = composition_of(build_algorithm(name))
    assert config is not None
    batch = mixed()
    same(gradient(Composed(config).annotate(batch, INTERPRETER.context(CHAT))), gradient(terms_of(name, batch=batch)))
