"""π-Distill, ATESD, TSD-KD, CurioSFT: fixtures, limits and objectives against plain float64 code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.algos.base import AnnotateContext, Batch, CollectContext
from sdgym.algos.exposure import BetaController, PartialReference, progress_reward, shown
from sdgym.algos.losses.ranking import EntropyLoss, RankLoss, plackett_luce
from sdgym.algos.losses.tempered import CurioLoss, curious_temperature
from sdgym.algos.presets import build_algorithm
from sdgym.algos.privileged import told_prompts
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.seeding import generator
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY, TEACHER = (BagModel(VOCAB, seed=s) for s in (1, 2))
LIVE, TOLD = Interpreter(POLICY), Interpreter(POLICY, TEACHER)
TASK = scripted_task("a", "3+4?", answer="7", solution="3+4=7, so 7. Done.")
OTHER = scripted_task("b", "2*3?", answer="6", solution="2*3=6")
FLOAT32 = 2e-6


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient_of(terms: Any, interpreter: Interpreter = LIVE) -> list[np.ndarray]:
    return interpreter.gradient(terms)


def same_gradient(terms: Any, total: torch.Tensor, interpreter: Interpreter = LIVE, atol: float = 20 * FLOAT32) -> None:
    for got, want in zip(interpreter.gradient(terms), torch.autograd.grad(total, POLICY.parameters, retain_graph=True), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=atol)


def rows() -> Batch:
    script = [(TASK, "7", 1.0), (TASK, "is 5", 0.0), (OTHER, "66", 0.0), (OTHER, "6.", 1.0)]
    return group_rows([scripted_row(CHAT, t, i % 2, [a], [r], policy=POLICY) for i, (t, a, r) in enumerate(script)])


def tokens_of(row: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    segment = row.segments[0]
    return segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]


def logits(prefix: np.ndarray, tokens: np.ndarray, model: BagModel = POLICY) -> torch.Tensor:
    ids = np.concatenate([prefix, tokens])
    return model.logits(ids, np.arange(len(prefix), len(ids)))


def picked(logprobs: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    return logprobs.gather(-1, torch.from_numpy(tokens)[:, None])[:, 0]


# ---- TSD-KD ------------------------------------------------------------------------------------------------------


def test_plackett_luce_rewards_agreement() -> None:
    """§6.5: logits in the teacher's order cost 1.61, reversed 11.61; the repository's sum has them the other way round."""
    agreed = tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    assert plackett_luce(agreed).item() == pytest.approx(1.61, abs=5e-3)
    assert plackett_luce(agreed.flip(0)).item() == pytest.approx(11.61, abs=5e-3)
    repository = (agreed.logcumsumexp(-1) - agreed).sum()
    assert repository.item() == pytest.approx(11.61, abs=5e-3), "the trap"
    chosen, left = 0.0, list(agreed.tolist())
    while left:  # the definition, item by item
        chosen -= left[0] - math.log(sum(math.exp(x) for x in left))
        left.pop(0)
    assert plackett_luce(agreed).item() == pytest.approx(chosen, abs=1e-12)


def test_rank_loss_orders_the_students_best_by_the_teacher() -> None:
    student = tensor([[2.0, 1.0, 0.5, -1.0, -9.0]]).requires_grad_()
    teacher = tensor([[[0.0, 3.0, 1.0, 9.0, 99.0]]])
    value = RankLoss(3).token_features(student, teacher, torch.zeros(1, dtype=torch.int64))["rank"]
    assert value.item() == pytest.approx(plackett_luce(tensor([1.0, 0.5, 2.0])).item())
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert slope[0, 1] < 0 < slope[0, 0] and (slope[0, 3:] == 0).all(), "the teacher's first goes up, its last down, the rest stay"
    with pytest.raises(ConfigError, match="order"):
        RankLoss(1)


def test_the_entropy_term_lowers_entropy() -> None:
    student = tensor([[1.0, 0.0, -1.0]]).requires_grad_()
    value = EntropyLoss().token_features(student, student[None], torch.zeros(1, dtype=torch.int64))["entropy"]
    p = student.detach().softmax(-1)
    assert value.item() == pytest.approx(-(p * p.log()).sum().item())
    (slope,) = torch.autograd.grad(value.sum(), student)
    after = (student.detach() - 0.1 * slope).softmax(-1)
    assert -(after * after.log()).sum() < value.detach()


def test_tsd_kd_is_the_three_means() -> None:
    batch = rows()
    terms = build_algorithm("tsd_kd").annotate(batch, TOLD.context(CHAT))
    entropies, total, count = [], tensor(0.0), 0
    rank, opening = tensor(0.0), 0
    unsure: list[torch.Tensor] = []
    for row in batch.rows:
        x, y = tokens_of(row)
        s, t = logits(x, y).log_softmax(-1), logits(x, y, TEACHER).log_softmax(-1).detach()
        hs, ht = -(s.exp() * s).sum(-1), -(t.exp() * t).sum(-1)
        m = (0.9 * t.exp() + 0.1 * s.exp()).log()
        jsd = 0.9 * (t.exp() * (t - m)).sum(-1) + 0.1 * (s.exp() * (s - m)).sum(-1)
        total, count = total + (torch.sigmoid(hs.detach() - ht) * jsd).sum(), count + len(y)
        entropies.append(hs.detach().numpy())
        unsure.append(hs)
        mine = hs.detach().numpy()
        for k in range(len(y)):
            if mine[:k].sum() < 0.1 * mine.sum():
                best = s[k].detach().topk(10).indices
                order = best[t[k][best].argsort(descending=True)]
                rank, opening = rank + plackett_luce(s[k][order]), opening + 1
    limit = float(np.quantile(np.concatenate(entropies).astype(np.float32), 0.1))
    kept = [h[torch.from_numpy(e.astype(np.float32) >= np.float32(limit))] for h, e in zip(unsure, entropies, strict=True)]
    chosen = torch.cat(kept)
    assert 0 < len(chosen) < count and 4 <= opening < count
    expected = total / count + chosen.mean() + 0.1 * rank / opening
    assert TOLD.objective(terms).item() == pytest.approx(expected.item(), abs=1e-6)
    same_gradient(terms, expected, TOLD)


def test_tsd_kd_refuses_to_be_its_own_teacher() -> None:
    with pytest.raises(ConfigError, match="student itself"):
        build_algorithm("tsd_kd", {"teacher": "live"}).validate(LettersEnv(), {})
    assert build_algorithm("tsd_kd_self").supervision == "reference" and build_algorithm("tsd_kd").supervision == "none"


# ---- CurioSFT ----------------------------------------------------------------------------------------------------


def test_temperature_meets_the_entropy_it_aims_at() -> None:
    scores = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).normal(size=(64, 40))) * torch.linspace(0.2, 9.0, 64)[:, None]
    tau = curious_temperature(scores, low=0.5, high=40.0, top_k=40)
    p, q = scores.log_softmax(-1), (scores / tau[:, None]).log_softmax(-1)
    own, warm = -(p.exp() * p).sum(-1), -(q.exp() * q).sum(-1)
    aim = own + 0.5 * torch.sigmoid(2 * (own - 1.2))
    reachable = (own > 0.03) & (aim < math.log(40) - 1e-3)
    assert reachable.sum() > 30
    np.testing.assert_allclose(warm[reachable], aim[reachable], atol=1e-4)
    narrow = curious_temperature(scores)
    assert narrow.min() >= 1.1 and narrow.max() <= 1.5
    assert (curious_temperature(torch.tensor([[50.0, 0.0, 0.0]])) == torch.tensor([1.1])).all(), "certain: the lower bound"


def test_curious_gradient_and_where_it_stops() -> None:
    """Lattice 14: ∂L/∂z = −(1 + log q − log p)(1_y − p), zero where log p = 1 + log q."""
    student, teacher = tensor([[0.3, -0.2, 1.0, 0.1]]).requires_grad_(), tensor([[[1.0, 0.5, -0.5, 0.0]]])
    loss, ids = CurioLoss(), torch.tensor([1])
    features = loss.token_features(student, teacher, ids)
    logp = student.log_softmax(-1)[:, 1]
    inputs = _inputs(logp, ids, features)
    (slope,) = torch.autograd.grad(loss(inputs)[0].sum(), student)
    p, q = student.detach().softmax(-1)[0], features["tempered"][0]
    onehot = tensor([0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(slope[0], -(1 + q - logp.detach()[0]) * (onehot - p), atol=1e-12)
    balanced = tensor([-0.4]).requires_grad_()
    value = loss(_inputs(balanced, ids, {"tempered": tensor([-1.4]), "temperature": tensor([1.1])}))[0].sum()
    assert torch.autograd.grad(value, balanced)[0].item() == pytest.approx(0.0, abs=1e-12)


def _inputs(logprobs: torch.Tensor, ids: torch.Tensor, features: dict[str, torch.Tensor]) -> Any:
    from sdgym.objective import LossInputs

    zero = torch.zeros(len(ids), dtype=torch.float64)
    return LossInputs(ids, ids * 0, 1, logprobs, logprobs.detach(), None, zero[None], zero + 1, zero, ids * 0, features)


def test_curio_sft_is_its_formula_and_without_the_square_plain_fine_tuning() -> None:
    expected, nll, count = tensor(0.0), tensor(0.0), 0
    for task in (TASK, OTHER):
        x = CHAT.prompt_ids(list(task.messages))
        y = np.append(CHAT.encode_text(task.privileged["reference_solution"]), CHAT.end_ids[0])
        teacher = logits(x, y, TEACHER).detach()
        warm = picked((teacher / curious_temperature(teacher)[:, None]).log_softmax(-1), y)
        logp = picked(logits(x, y).log_softmax(-1), y)
        expected, nll, count = expected + (-logp + 0.5 * (logp - warm) ** 2).sum(), nll - logp.sum(), count + len(y)
    for settings, total in (({}, expected), ({"weight": 0.0}, nll)):
        algorithm = build_algorithm("curio_sft", settings)
        algorithm._tasks = [TASK, OTHER]
        terms = algorithm.annotate(Batch((), ()), TOLD.context(CHAT))
        assert TOLD.objective(terms).item() == pytest.approx((total / count).item(), abs=1e-9)
        same_gradient(terms, total / count, TOLD, 1e-9)


# ---- π-Distill ---------------------------------------------------------------------------------------------------


class Privileged:
    """Plays scripted answers behind whatever prompt it is given."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.prompts = texts, list[np.ndarray]()

    def tasks(self) -> list[Task]:
        return [TASK, dataclasses.replace(OTHER, privileged={"answer": "6"}), OTHER]

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1) -> list[Trajectory]:
        self.prompts, found = list(prompts), []
        for i, (task, prompt) in enumerate(zip(tasks, prompts, strict=True)):
            for k in range(samples):
                text = self.texts[(i * samples + k) % len(self.texts)]
                row = scripted_row(CHAT, task, k, [text], [float(task.privileged["answer"] in text)])
                y = row.segments[0].ids[row.segments[0].prompt_length :]
                ids, mask = np.concatenate([prompt, y]), np.arange(len(prompt) + len(y)) >= len(prompt)
                segment = dataclasses.replace(row.segments[0], ids=ids, action_mask=mask, logprobs=mask * -1.0, prompt_length=len(prompt))
                found.append(dataclasses.replace(row, segments=[segment]))
        return found


def played(algorithm: Any, texts: Sequence[str], samples: int = 2) -> Batch:
    base, draws = LIVE.context(CHAT), Privileged(texts)
    algorithm.validate(LettersEnv(), {"group_size": samples})
    context = CollectContext(**{f.name: getattr(base, f.name) for f in dataclasses.fields(AnnotateContext)}, draw=draws)  # type: ignore[arg-type]
    batch = group_rows(algorithm.play(Batch((), ()), context))
    assert len(draws.prompts) == 2, "a task without a reference is not played"
    assert all("3+4=7, so 7" in CHAT.tokenizer.decode(p) or "2*3=6" in CHAT.tokenizer.decode(p) for p in draws.prompts)
    return batch


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_pi_distill_is_the_papers_objective(alpha: float) -> None:
    algorithm = build_algorithm("pi_distill", {"alpha_end": alpha})
    batch = played(algorithm, ["7", "5", "6", "66"])  # the second group agrees: popped
    terms = algorithm.annotate(batch, LIVE.context(CHAT))
    total = tensor(0.0)
    for row, a in zip(batch.rows[:2], (0.5, -0.5), strict=True):
        told, y = tokens_of(row)
        t, s = logits(told, y).log_softmax(-1), logits(CHAT.prompt_ids(list(row.task.messages)), y).log_softmax(-1)
        pt, ps = picked(t, y), picked(s, y)
        on_policy, w = (pt - pt.detach()).exp(), (ps - pt.detach()).exp()
        clipped = [torch.minimum(r * a, r.clamp(0.8, 1.2) * a).sum() for r in (on_policy, w)]
        joint_t = clipped[0] - 0.25 * (t.exp() * (t - s.detach())).sum()
        joint_s = clipped[1] - 0.25 * (t.detach().exp() * (t.detach() - s)).sum()
        total = total - (alpha * joint_t + (1 - alpha) * joint_s) / 2
    assert LIVE.objective(terms).item() == pytest.approx(total.item(), abs=1e-5)
    same_gradient(terms, total)
    assert [t.name for t in terms] == [
        n
        for n in ("teacher_policy", "teacher_kl", "student_policy", "student_kl")
        if (n[0] == "t" and alpha) or (n[0] == "s" and alpha < 1)
    ]


def test_without_a_hint_pi_distill_is_the_policy_gradient() -> None:
    """(g): with nothing told both sides reduce to GRPO without scaling, and the KLs vanish."""
    algorithm = build_algorithm("pi_distill", {"control": "P0"})
    base, draws = LIVE.context(CHAT), Privileged(["7", "5", "6", "5"])
    algorithm.samples = 2
    context = CollectContext(**{f.name: getattr(base, f.name) for f in dataclasses.fields(AnnotateContext)}, draw=draws)  # type: ignore[arg-type]
    batch = group_rows(algorithm.play(Batch((), ()), context))
    terms = algorithm.annotate(batch, base)
    plain = build_algorithm("dr_grpo", {"aggregation": "seq_mean_token_sum"}).annotate(batch, base)
    for a, b in zip(gradient_of(terms), gradient_of(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_alpha_rises() -> None:
    algorithm = build_algorithm("pi_distill_annealed")
    batch, seen = played(algorithm, ["7", "5", "6", "66"]), dict[str, float]()
    for step, expected in ((0, 0.0), (50, 0.25), (100, 0.5), (500, 0.5)):
        algorithm.annotate(batch, dataclasses.replace(LIVE.context(CHAT, step=step), report=seen.__setitem__))
        assert seen["alpha"] == pytest.approx(expected)


# ---- ATESD -------------------------------------------------------------------------------------------------------


def test_what_is_shown() -> None:
    solution = TASK.privileged["reference_solution"]
    assert shown(solution, "7", 1.0) == solution and shown(solution, "7", 0.0) == "The answer is 7."
    assert shown(solution, "7", 0.34) == "3+4=7, The answer is 7." and shown(solution, "7", 0.99) == "3+4=7, so 7. The answer is 7."
    assert shown("", "", 0.5) == ""


def test_full_exposure_is_opsd() -> None:
    batch, settings = rows(), {"divergence": "forward_kl", "support": "full", "aggregation": "seq_mean_token_mean", "teacher": "frozen"}
    full = build_algorithm("atesd_fixed", {"exposure": 1.0}).annotate(batch, TOLD.context(CHAT))
    plain = build_algorithm("opsd_v3", {**settings, "pointwise_clip": None, "skip_first": 0}).annotate(batch, TOLD.context(CHAT))
    for a, b in zip(TOLD.gradient(full), TOLD.gradient(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    half = build_algorithm("atesd_fixed").annotate(batch, TOLD.context(CHAT))
    prefixes = [CHAT.tokenizer.decode(item.references[0].prefix_ids) for item in half[0].items]
    assert "3+4=7, The answer is 7." in prefixes[0] and "so 7" not in prefixes[0]


def test_progress() -> None:
    """Gains only: luck that is lost again still pays; without the cut the sum telescopes to ℓ_0 − ℓ_L."""
    losses = [3.0, 2.5, 2.9, 2.0]
    assert progress_reward(losses, 1.0) == pytest.approx(0.5 + 0.9) and progress_reward(losses, 0.5) == pytest.approx(0.5 + 0.25 * 0.9)
    assert progress_reward(losses, 1.0, gains_only=False) == pytest.approx(losses[0] - losses[-1])


STATE = [1.0, 0.5, 0.9, 0.1, 0.3, 0.0]


def controller(**changes: float) -> BetaController:
    return BetaController(
        **{"rate": 0.1, "horizon": 2, "discount": 0.9, "solution_weight": 0.0, "entropy_limit": 0.0, "entropy_weight": 0.0} | changes
    )  # type: ignore[arg-type]


def test_controllers_gradient_is_that_of_the_beta_density() -> None:
    mine = controller(entropy_weight=0.3, entropy_limit=-0.5)
    mine.weights = np.random.Generator(np.random.PCG64(1)).normal(size=(2, 6)) * 0.3

    def objective(weights: np.ndarray) -> float:
        a, b = 1 + np.log1p(np.exp(weights @ np.array(STATE)))
        logbeta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
        logpdf = (a - 1) * math.log(0.7) + (b - 1) * math.log(0.3) - logbeta
        grid = (np.arange(200_000) + 0.5) / 200_000
        density = np.exp((a - 1) * np.log(grid) + (b - 1) * np.log1p(-grid) - logbeta)
        entropy = -float(np.mean(density * np.log(density)))
        return 1.3 * logpdf - 0.3 * max(0.0, entropy + 0.5) ** 2

    slope, step = np.zeros((2, 6)), 1e-5
    for place in np.ndindex(2, 6):
        up, down = mine.weights.copy(), mine.weights.copy()
        up[place] += step
        down[place] -= step
        slope[place] = (objective(up) - objective(down)) / (2 * step)
    np.testing.assert_allclose(mine.gradient(STATE, 0.7, 1.3), slope, atol=1e-5)


def test_controller_starts_at_a_half_and_learns_which_share_pays() -> None:
    mine, rng = controller(rate=0.05), generator(0, "controller")
    a, b = mine.shape(STATE)
    assert a == b > 1
    level = 10.0
    for _ in range(400):  # progress is the exposure itself: more is better
        action = mine.act(STATE, level, rng)
        level -= action
        assert [mine.observe(level), mine.observe(level)] == [0, 1]
    a, b = mine.shape(STATE)
    assert a / (a + b) > 0.65


def test_controller_and_probe_survive_a_restart() -> None:
    first, second = (build_algorithm("atesd", {"every": 1, "horizon": 2}) for _ in range(2))
    seen: dict[str, float] = {}

    def step(algorithm: Any, number: int) -> float:
        context = dataclasses.replace(TOLD.context(CHAT, step=number, seed=number), report=seen.__setitem__)
        algorithm.annotate(rows(), context)
        return seen["exposure"]

    for number in range(4):
        step(first, number)
    second.load_state_dict(decode(*encode(first.state_dict())))
    np.testing.assert_array_equal(second.controller.weights, first.controller.weights)
    assert [step(first, n) for n in range(4, 7)] == [step(second, n) for n in range(4, 7)] and len(first.controller.rewards) == 5
    assert seen["probe"] > 0 and 0 < seen["exposure"] < 1


def test_told_prompts_are_the_teachers() -> None:
    batch, conditioner = rows(), PartialReference(0.5)
    views = conditioner.views(batch, LIVE.context(CHAT))
    prompts = told_prompts([TASK, OTHER, dataclasses.replace(TASK, privileged={})], conditioner, LIVE.context(CHAT))
    np.testing.assert_array_equal(prompts[0], views[0][0].prefix_ids)
    np.testing.assert_array_equal(prompts[1], views[2][0].prefix_ids)
    assert prompts[2] is None
    assert told_prompts([TASK], conditioner, dataclasses.replace(LIVE.context(CHAT), max_context=len(prompts[0]))) == [None]
