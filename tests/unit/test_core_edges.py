"""Edge cases of the named methods (algorithms-core, sections e and g) as terms: who takes part, and with what."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from sdgym.algos.base import Batch, CollectContext
from sdgym.algos.conditioning.frames import attempt_text
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.core import LossTerm, StopReason, Task
from sdgym.errors import ConfigError
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY, TEACHER = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2)
BOTH = Interpreter(POLICY, TEACHER)
TASK, OTHER = scripted_task("a", "3+4?", solution="3+4=7"), scripted_task("b", "2*3?", answer="6", solution="2*3=6")


def rewarded(rewards: list[float], task: Task = TASK, texts: tuple[str, ...] = ("7", "is 5", "77")) -> Batch:
    return group_rows([scripted_row(CHAT, task, i, [texts[i]], [r], policy=POLICY) for i, r in enumerate(rewards)])


def annotate(name: str, batch: Batch, overrides: dict[str, Any] | None = None) -> list[LossTerm]:
    return build_algorithm(name, overrides).annotate(batch, BOTH.context(CHAT))  # type: ignore[no-any-return]


def assert_same_gradient(a: list[LossTerm], b: list[LossTerm], tolerance: float = 0.0) -> None:
    first, second = BOTH.gradient(a), BOTH.gradient(b)
    assert max(np.abs(g).max() for g in first) > 1e-4
    for x, y in zip(first, second, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


# ---- OPSD and SDFT -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["opsd_v1", "opsd_v3", "sdft"])
def test_the_outcome_does_not_matter_to_a_method_without_rewards(name: str) -> None:
    """An all-correct batch teaches exactly what an all-wrong one with the same words does (§3e)."""
    settings = {"skip_first": 0} if name == "sdft" else None
    assert_same_gradient(annotate(name, rewarded([1.0, 1.0, 1.0]), settings), annotate(name, rewarded([0.0, 0.0, 0.0]), settings))


def test_an_empty_answer_has_no_part() -> None:
    rows = [scripted_row(CHAT, TASK, i, [text], [0.0], truncated=True, policy=POLICY) for i, text in enumerate(["", "55"])]
    for name in ("opsd_v1", "sdft", "grpo", "vpd"):
        terms = annotate(name, group_rows(rows), {"one_sided": True} if name == "vpd" else None)
        assert all([item.view.row for item in term.items] == [1] for term in terms), name
    assert annotate("opsd_v1", group_rows(rows[:1])) == []


def test_sampled_opsd_is_sampled_sdpo_without_a_cap() -> None:
    """Told the same in the same frame: one surrogate, bit for bit (§3g)."""
    batch = rewarded([0.0, 0.0, 0.0])
    sampled: dict[str, Any] = {"divergence": "reverse_kl", "support": "sampled", "importance": "none", "rollout_correction": "none"}
    sampled |= {"aggregation": "token_mean_global", "count_empty": False}
    opsd = annotate("opsd_v1", batch, sampled)
    sdpo = annotate("sdpo_rich", batch, {**sampled, "context": "outcome"})
    told = [dataclasses.replace(theirs, references=mine.references) for mine, theirs in zip(opsd[0].items, sdpo[0].items, strict=True)]
    assert_same_gradient(opsd, [dataclasses.replace(sdpo[0], items=told)])


def test_only_closed_thinking_is_taken_out_of_a_demonstration() -> None:
    """The source's expression needs both ends; a block that was never closed stays (§4e)."""
    assert attempt_text(["<think>hm</think>7"]) == "7" and attempt_text(["<think>hm 7"]) == "<think>hm 7"


# ---- rejection fine-tuning -----------------------------------------------------------------------------------------


def test_where_everything_is_right_rejection_is_plain_fine_tuning() -> None:
    """Two tasks whose only rollouts are their reference solutions, both accepted: SFT on these texts (§2g)."""
    rows = [scripted_row(CHAT, task, 0, [task.privileged["reference_solution"]], [1.0]) for task in (TASK, OTHER)]
    sft = build_algorithm("sft_reference")
    sft._tasks = [TASK, OTHER]
    assert_same_gradient(annotate("rft", group_rows(rows)), sft.annotate(Batch((), ()), BOTH.context(CHAT)), 1e-12)


def test_rejection_trains_the_actions_of_every_turn_and_no_observation() -> None:
    row = scripted_row(CHAT, TASK, 0, ["up", "left left"], [0.0, 1.0], observations=["a wall"], policy=POLICY)
    ((item,),) = [term.items for term in annotate("rft", group_rows([row]))]
    np.testing.assert_array_equal(item.view.scored_ids(), row.action_ids())
    assert "a wall" in CHAT.tokenizer.decode(item.view.token_ids) and "a wall" not in CHAT.tokenizer.decode(item.view.scored_ids())
    assert len(item.weight) == row.action_length < len(item.view.token_ids)


# ---- Skill-SD and SD-Zero ------------------------------------------------------------------------------------------


def test_an_episode_that_ran_out_of_turns_counts_with_its_partial_reward() -> None:
    """Skill-SD §6e: cut by the turn limit is a normal end, in the group's baseline, in both terms and in the skill's outcome."""
    rows = [scripted_row(CHAT, TASK, i, ["up", "left"], [0.25 * i, 0.0], observations=["wall"], policy=POLICY) for i in range(3)]
    rows[2] = dataclasses.replace(rows[2], stop_reason=StopReason.MAX_TURNS)
    algorithm, batch = build_algorithm("skill_sd", {"scope": "task"}), group_rows(rows)
    algorithm.bank.add("a", "push the box", "earlier", 0.0)
    plain = BOTH.context(CHAT)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    (phase,) = algorithm.phases
    phase.collect(batch, CollectContext(**fields, draw=None))  # type: ignore[arg-type]
    policy, distill = phase.annotate(batch, plain)
    assert [item.view.row for item in policy.items] == [item.view.row for item in distill.items] == [0, 1, 2]
    assert policy.items[2].advantage is not None and (policy.items[2].advantage > 0).all()
    assert algorithm.bank.shelves["a"][0].total == pytest.approx(0.25)


def test_sd_zero_can_skip_first_tokens_too() -> None:
    (term,) = annotate("sd_zero", rewarded([0.0, 1.0]), {"skip_first": 2})
    for item in term.items:
        np.testing.assert_array_equal(item.weight, (np.arange(len(item.weight)) >= 2).astype(np.float32))
    (whole,) = annotate("sd_zero", rewarded([0.0, 1.0]))
    assert all(item.weight.all() for item in whole.items)


# ---- what cannot work is refused before the first rollout ----------------------------------------------------------


class Silent(LettersEnv):
    """Says nothing about wrong answers."""

    async def respond(self, action: str) -> Any:
        return dataclasses.replace(await super().respond(action), feedback="")


RUN: dict[str, Any] = {"group_size": 4, "tasks_per_step": 4, "steps": 99, "sampling": {"temperature": 1.0, "max_tokens": 8}}


@pytest.mark.parametrize(
    ("name", "overrides", "run", "words"),
    [
        ("sdpo_norich", {}, {"group_size": 1}, "sibling needs group_size of at least 2: or use context=feedback"),
        ("sdpo", {"context": "feedback"}, {}, "Letters-v0 gives no feedback on a wrong answer: use context=peer, or grpo"),
        ("sdpo", {}, {"group_size": 1}, "gives no feedback on a wrong answer: use context=peer"),
        ("sdpo", {"control": "P2"}, {"tasks_per_step": 1}, "another task: use tasks_per_step of at least 2, or control=P1"),
        ("opsd", {"control": "P2"}, {"tasks_per_step": 1}, "another task: use tasks_per_step of at least 2"),
        ("skill_sd", {"control": "P2"}, {"tasks_per_step": 1}, "another task: use tasks_per_step of at least 2"),
        ("sdft", {"skip_first": 8}, {}, "skip_first=8 leaves nothing of answers of at most 8 tokens: use skip_first=0"),
        ("grpo", {}, {"sampling": {"temperature": 0.0}}, r"at temperature 0 are all alike.*: use sampling\.temperature=1"),
        ("skill_sd", {}, {"sampling": {"temperature": 0.0}}, "at temperature 0 are all alike"),
    ],
)
def test_a_run_that_could_teach_nothing_is_refused(name: str, overrides: dict[str, Any], run: dict[str, Any], words: str) -> None:
    algorithm = build_algorithm(name, overrides)
    with pytest.raises(ConfigError, match=words) as caught:
        algorithm.check(Silent(), {**RUN, **run})
    assert "\n" not in str(caught.value)
    build_algorithm(name).check(LettersEnv(), RUN)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("sdpo", {"teacher_model": "tiny"}, "teacher_model=tiny is read by teacher=external alone, not by teacher=ema"),
        ("sdpo_hybrid", {"policy.minibatches": 4}, "have no effect, a batch has one schedule: set epochs and minibatches"),
        ("skill_sd", {"policy.epochs": 2}, "set epochs and minibatches"),
        ("vpd", {"teacher": "external", "teacher_model": "tiny"}, "teacher=external never learns from the E-step: use teacher=live"),
    ],
)
def test_settings_that_nobody_would_read_are_refused(name: str, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_algorithm(name, overrides)
    assert len(str(caught.value)) < 200 and "setting ''" not in str(caught.value)
