"""B-STaR and ReVISE: the balance score's fixtures, the search, pairs and their exact preference gradient, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import sdgym
from sdgym.algos.balance import balance, best_threshold, selection_score
from sdgym.algos.base import AnnotateContext, Batch, CollectContext
from sdgym.algos.pairs import preference_items
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import LossTerm, Outcome, Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.evaluation import final_answer, majority_success, weighted_vote
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID, LettersEnv
from sdgym.testing_policy import random_policy, small_tokenizer

CHAT = ChatFormat(small_tokenizer())
POLICY, BEFORE = (BagModel(len(CHAT.tokenizer), seed=s) for s in (1, 2))
INTERPRETER = Interpreter(POLICY, BEFORE)
TASK, OTHER = scripted_task("a", "3+4?"), scripted_task("b", "2*3?", answer="6", solution="2*3=6")


def rows_of(task: Task, texts: Sequence[str], policy: BagModel | None = None) -> list[Trajectory]:
    return [scripted_row(CHAT, task, i, [t], [float(task.privileged["answer"] in t)], policy=policy) for i, t in enumerate(texts)]


# ---- B-STaR ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "selected", "score"), [(8, 8, 1.0), (8, 16, 0.5), (4, 4, 0.5), (0, 5, 0.0), (0, 0, 0.0), (16, 16, 1.0)])
def test_balance(right: int, selected: int, score: float) -> None:
    """Printed: g(8, 8) = 1, g(8 of 16) = .5, g(4, 4) = .5."""
    assert balance(right, selected, 8) == pytest.approx(score)


def test_selection_score_is_verdict_and_a_fifth_of_confidence() -> None:
    row = rows_of(TASK, ["7"], POLICY)[0]
    sure = float(np.exp(row.action_logprobs()).mean())
    assert selection_score(row, 0.2) == pytest.approx(1 + 0.2 * sure) and 0 < sure < 1
    wrong = dataclasses.replace(row, reward=0.0)
    assert selection_score(wrong, 0.2) == pytest.approx(-1 + 0.2 * sure)


def test_the_threshold_cuts_wrong_answers_and_equal_ones_count_once() -> None:
    group = rows_of(TASK, ["7", "7", "is 7", "5"])  # log-probs of 0: every confidence is 1
    limit, score = best_threshold([group], [-1.0, -0.5, 0.0, 1.3], 2, 0.2)
    assert limit == 0.0, "−1 + .2 is out, and of equal scores that next to 0 wins"
    assert score == pytest.approx(min(2 / 2, 1) * 2 / 3), "three selected, two of them different"
    assert best_threshold([], [0.0, 1.0], 8, 0.2) == (0.0, 0.0)


def test_a_group_without_a_right_answer_lets_no_wrong_one_pass() -> None:
    """Its balance is 0 whatever is selected, so it has no say; the other group is served as well by 0 as by a threshold below −.8."""
    unsure, sure = rows_of(TASK, ["7", "is 7", "5", "6"], POLICY), rows_of(OTHER, ["5", "9", "8", "3"])
    limit, _ = best_threshold([unsure, sure], [-1.0 + 0.01 * i for i in range(201)], 2, 0.2)
    assert all(selection_score(row, 0.2) < limit for row in sure)


class Grid:
    """At .5 the answers are all the same, at .9 right and different, at 1.1 mostly wrong."""

    TEXTS: ClassVar[dict[float, list[str]]] = {0.5: ["7", "7", "7", "7"], 0.9: ["7", "is 7", "so 7", "5"], 1.1: ["5", "7", "8", "9"]}

    def __init__(self) -> None:
        self.played: list[tuple[str, float]] = []

    def tasks(self) -> list[Task]:
        return [TASK]

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int, temperature: float) -> list[Trajectory]:
        np.testing.assert_array_equal(prompts[0], CHAT.prompt_ids(list(TASK.messages)))
        self.played.append((stream, temperature))
        return rows_of(TASK, self.TEXTS[temperature][:samples])


def sampled(algorithm: Any, grid: Grid, step: int, seen: dict[str, float]) -> Batch:
    base = dataclasses.replace(INTERPRETER.context(CHAT, step=step), report=seen.__setitem__)
    context = CollectContext(**{f.name: getattr(base, f.name) for f in dataclasses.fields(AnnotateContext)}, draw=grid)  # type: ignore[arg-type]
    return group_rows(algorithm.sample(Batch((), ()), context))


def test_the_search_takes_the_temperature_with_the_best_balance_and_keeps_it() -> None:
    algorithm, grid, seen = build_algorithm("bstar", {"temperatures": [0.5, 0.9, 1.1], "wanted": 4, "every": 2}), Grid(), dict[str, float]()
    algorithm.validate(LettersEnv(), {"group_size": 4})
    batch = sampled(algorithm, grid, 0, seen)
    assert [t for _, t in grid.played] == [0.5, 0.9, 1.1] and len({s for s, _ in grid.played}) == 3, "each temperature has its own noise"
    assert seen["temperature"] == 0.9 and seen["balance"] == pytest.approx(3 / 4 * 3 / 3) and -0.8 <= seen["threshold"] < 1.2
    (term,) = algorithm.annotate(batch, INTERPRETER.context(CHAT))
    assert len(term.items) == 3, "the wrong one does not pass"
    copy = build_algorithm("bstar", {"temperatures": [0.5, 0.9, 1.1], "wanted": 4, "every": 2})
    copy.load_state_dict(decode(*encode(algorithm.state_dict())))
    copy.samples = 4
    grid.played.clear()
    sampled(copy, grid, 1, seen)
    assert [t for _, t in grid.played] == [0.9] and copy.threshold == algorithm.threshold
    with pytest.raises(ConfigError, match="collect_steps"):
        build_algorithm("bstar", {"collect_steps": 2})


def test_a_search_that_finds_nothing_right_leaves_the_choice_as_it_is() -> None:
    algorithm, grid = build_algorithm("bstar", {"temperatures": [0.5, 0.9, 1.1], "every": 1}), Grid()
    algorithm.validate(LettersEnv(), {"group_size": 4})
    algorithm.load_state_dict({"temperature": 0.9, "threshold": 0.25})
    grid.TEXTS = {heat: ["5", "8", "9", "6"] for heat in (0.5, 0.9, 1.1)}  # type: ignore[misc]
    assert not algorithm.annotate(sampled(algorithm, grid, 0, {}), INTERPRETER.context(CHAT))
    assert algorithm.state_dict() == {"temperature": 0.9, "threshold": 0.25}


# ---- ReVISE ------------------------------------------------------------------------------------------------------


def batch() -> Batch:
    return group_rows([*rows_of(TASK, ["7", "is 5", "12"]), *rows_of(OTHER, ["66", "no"])])  # "66" has a 6: right


def logp(prefix: np.ndarray, tokens: np.ndarray, model: BagModel = POLICY) -> torch.Tensor:
    ids = np.concatenate([prefix, tokens])
    return model.logprobs(ids, np.arange(len(prefix), len(ids))).sum()


def test_preference_weights_are_dpos_gradient() -> None:
    algorithm = build_algorithm("revise")
    pairs = algorithm.verdicts(batch(), INTERPRETER.context(CHAT))
    items, margins = preference_items(pairs, INTERPRETER.context(CHAT), 0.7)
    total, seen = torch.zeros((), dtype=torch.float64), []
    for good, bad in pairs:
        sides = [logp(v.prefix_ids, v.token_ids) - logp(v.prefix_ids, v.token_ids, BEFORE).detach() for v in (good, bad)]
        seen.append(0.7 * (sides[0] - sides[1]))
        total = total - torch.nn.functional.logsigmoid(seen[-1])
    np.testing.assert_allclose(margins, [float(m.detach()) for m in seen], atol=1e-9)
    assert len({round(float(m), 3) for m in margins}) > 1
    from sdgym.algos.losses import PolicyGradientLoss

    term = LossTerm("pairs", PolicyGradientLoss("reinforce"), items, float(len(items)), "seq_mean_token_sum")  # the sum over items
    for got, want in zip(INTERPRETER.gradient([term]), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)  # advantages are float32
    even = preference_items(pairs, Interpreter(POLICY).context(CHAT), 0.7)
    np.testing.assert_allclose([i.advantage[0] for i in even[0]], [0.35, -0.35] * len(pairs), atol=1e-6)
    assert np.abs(even[1]).max() < 1e-9, "where the reference is the policy, σ(−0) = ½"


def test_who_should_stop_and_who_go_on() -> None:
    pairs = build_algorithm("revise").verdicts(batch(), INTERPRETER.context(CHAT))
    phrase, end = "\n\nThat was wrong. Let me fix it.\n\n", CHAT.end_ids[0]
    for (good, bad), right, said in zip(pairs, [True, False, False, True, False], ["7", "is 5", "12", "66", "no"], strict=True):
        stay, go = (good, bad) if right else (bad, good)
        assert stay.token_ids.tolist() == [end] and CHAT.tokenizer.decode(go.token_ids) == phrase
        assert CHAT.tokenizer.decode(stay.prefix_ids).endswith(said), "the turn is still open"


def test_corrections_are_siblings() -> None:
    """Only the first group has a right answer and two wrong ones."""
    pairs = build_algorithm("revise").corrections(batch(), INTERPRETER.context(CHAT))
    told = [tuple(CHAT.decode_action(v.token_ids) for v in pair) for pair in pairs]
    assert told == [("7", "12"), ("7", "is 5")] and CHAT.tokenizer.decode(pairs[0][0].prefix_ids).endswith(
        "is 5\n\nThat was wrong. Let me fix it.\n\n"
    )


def test_stages_and_the_whole_objective() -> None:
    algorithm, seen = build_algorithm("revise"), dict[str, float]()
    first, second = algorithm.phases
    context = dataclasses.replace(INTERPRETER.context(CHAT), report=seen.__setitem__)
    assert [t.name for t in first.annotate(batch(), context)] == ["verify", "verify_preference"] and first.steps == 20
    terms = second.annotate(batch(), context)
    assert [t.name for t in terms] == ["verify", "verify_preference", "correct", "correct_preference"] and set(seen) == {
        "verify_margin",
        "correct_margin",
    }
    total = torch.zeros((), dtype=torch.float64)
    for pairs in (algorithm.verdicts(batch(), context), algorithm.corrections(batch(), context)):
        for good, bad in pairs:
            total = total - logp(good.prefix_ids, good.token_ids) / len(good.token_ids) / len(pairs)
            sides = [logp(v.prefix_ids, v.token_ids) - logp(v.prefix_ids, v.token_ids, BEFORE).detach() for v in (good, bad)]
            total = total - 0.1 * torch.nn.functional.logsigmoid(0.1 * (sides[0] - sides[1])) / len(pairs)
    for got, want in zip(INTERPRETER.gradient(terms), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    assert math.isfinite(INTERPRETER.objective(terms).item())


def test_confidence_is_the_share_of_stopping_behind_the_answer() -> None:
    algorithm, found = build_algorithm("revise"), batch()
    context = INTERPRETER.context(CHAT)
    end, refine = np.array(CHAT.end_ids[:1]), CHAT.encode_text("\n\nThat was wrong. Let me fix it.\n\n")
    want = []
    for row in found.rows:
        prefix = row.segments[0].ids[:-1]  # the turn still open
        stop, go = (float(logp(prefix, tokens).detach()) for tokens in (end, refine))
        want.append(math.exp(stop) / (math.exp(stop) + math.exp(go)))
    got = algorithm.confidence(found.rows, context)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert build_algorithm("grpo").confidence(found.rows, context) is None
    narrow = dataclasses.replace(context, max_context=len(found.rows[0].segments[0].ids))
    assert (algorithm.confidence(found.rows, narrow) == 0.5).all(), "no opinion where the phrase does not fit"


def test_votes_by_hand() -> None:
    """Two hesitant wrong answers against a sure right one: heads say wrong, confidences right; equal weights are the majority."""
    rows = rows_of(TASK, ["7", "is 5", "is 5"])
    assert majority_success(rows, final_answer) == 0.0
    assert majority_success(rows, final_answer, [0.9, 0.4, 0.4]) == 1.0
    assert majority_success(rows, final_answer, [0.8, 0.4, 0.4]) == 0.5, "a tie"
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(50):
        drawn = rows_of(TASK, [["7", "is 7", "5", "6", "no"][int(i)] for i in rng.integers(0, 5, 6)])
        assert majority_success(drawn, final_answer, [0.3] * 6) == majority_success(drawn, final_answer)
        assert majority_success(drawn[::-1], final_answer, [0.3] * 6) == majority_success(drawn, final_answer)
    lost = [*rows, *rows_of(OTHER, ["6", "no", "no"])]
    lost[4] = dataclasses.replace(lost[4], outcome=Outcome.INFRA_ERROR, reward=None)
    assert weighted_vote(lost, 3, final_answer, np.array([0.9, 0.4, 0.4, 0.6, 0.9, 0.5])) == 1.0, "a row that does not count has no vote"


def test_revise_refuses() -> None:
    with pytest.raises(ConfigError, match="one update per batch"):
        build_algorithm("revise", {"minibatches": 2})
    with pytest.raises(ConfigError, match="2 turns"):
        build_algorithm("revise").validate(LettersEnv(turns=2), {})
    with pytest.raises(ConfigError, match="steps=20"):
        build_algorithm("revise").validate(LettersEnv(), {"steps": 20})


def test_a_run_reports_the_vote_beside_the_majority_and_charges_nobody_for_it(tmp_path: pathlib.Path) -> None:
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=128).save(tmp_path / "model")
    run: dict[str, Any] = {"env": LETTERS_ID, "tasks_per_step": 2, "group_size": 2, "steps": 2, "device": "cpu"}
    run |= {"eval": {"every": 0, "tasks": 4, "samples": 3, "test_tasks": 4}}
    done = sdgym.train("revise", out=tmp_path / "run", model=str(tmp_path / "model"), set=["algo.stage_steps=1"], **run)
    first, *_, last = (json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines())
    assert 0 <= first["eval/vote@3"] <= 1 and {"eval/maj@3", "test/vote@3"} <= set(last)
    assert first["ledger/scored_tokens"] == first["ledger/score_inputs"] == 0
