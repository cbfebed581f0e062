from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest

from sdgym.chat import ChatFormat
from sdgym.core import Feedback, Outcome, StopReason, Task, Trajectory
from sdgym.errors import DataError, EnvError
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.rollout import UNFIT_TASKS, Job, RolloutDriver
from sdgym.seeding import derive
from sdgym.testing_engine import KINDS, LETTERS_ID, LettersEnv, ScriptedSampler
from sdgym.testing_policy import small_tokenizer

SAMPLING = SamplingParams(max_tokens=3)


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(small_tokenizer())


def letters(chat: ChatFormat) -> list[int]:
    return [int(chat.encode_text(c)[0]) for c in "abcXYZ019+-"]


def make_driver(
    chat: ChatFormat, *, env: dict[str, Any] | None = None, max_live: int = 256, seed: int = 5, **sampler: Any
) -> RolloutDriver:
    back_end = ScriptedSampler(letters(chat), chat.end_ids[0], **sampler)
    return RolloutDriver(lambda: gymnasium.make(LETTERS_ID, **(env or {})), chat, back_end, Ledger(), seed, max_live)


@pytest.fixture
def driver(chat: ChatFormat) -> Iterator[RolloutDriver]:
    with make_driver(chat, env={"turns": 3}) as made:
        yield made


def tasks(count: int) -> list[Task]:
    return list(LettersEnv().tasks("train", 1, count))


def test_rows_come_in_group_and_member_order(driver: RolloutDriver) -> None:
    chosen = tasks(3)
    rows = driver.collect(chosen, 4, SAMPLING, Job("train", 7, first_group=10, policy_version=2))
    assert [(r.group_id, r.member) for r in rows] == [(f"train-7-{10 + g}", m) for g in range(3) for m in range(4)]
    assert [r.task for r in rows] == [t for t in chosen for _ in range(4)]
    assert all(r.policy_version == 2 and r.key == (5, "train", 7, 10 + i // 4, i % 4) for i, r in enumerate(rows))
    assert rows[0].sampling == {"temperature": 1.0, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0, "max_tokens": 3.0}


def test_segments_hold_exactly_what_passed_through_the_sampler(chat: ChatFormat) -> None:
    """The driver's record of a row equals the context its session had in the back end, token by token."""
    driver = make_driver(chat, env={"turns": 3})
    contexts: dict[tuple[int, ...], list[int]] = {}
    sampler: Any = driver.sampler
    release = sampler.release

    def remember(session: int) -> None:
        if session in sampler.sessions:
            contexts[tuple(sampler.sessions[session])] = sampler.sessions[session]
        release(session)

    sampler.release = remember
    with driver:
        rows = driver.collect(tasks(2), 3, SAMPLING, Job("train", 0))
    for row in rows:
        (segment,) = row.segments
        assert tuple(segment.ids) in contexts
        assert np.array_equal(segment.ids[: segment.prompt_length], chat.prompt_ids(list(row.task.messages)))
        assert len(segment.spans) == len(row.actions) == len(row.turn_rewards) == len(row.observations) == 3
        for span in segment.spans:
            assert segment.action_mask[span.start : span.end].all() and not segment.action_mask[span.end : span.end + 1].any()
            length = span.end - span.start
            assert segment.logprobs[span.start : span.end].tolist() == [-float(i) for i in range(1, length + 1)]
            assert chat.decode_action(segment.ids[span.start : span.end]) == row.actions[span.turn]
        assert not segment.logprobs[~segment.action_mask].any()
        assert segment.action_mask.sum() == row.action_length
        between = [segment.ids[a.end : b.start] for a, b in zip(segment.spans, segment.spans[1:], strict=False)]
        for turn, ids in enumerate(between):
            assert row.observations[turn + 1] in chat.tokenizer.decode(ids.tolist())


def test_the_whole_context_is_the_rendered_conversation_when_turns_ended(chat: ChatFormat) -> None:
    with make_driver(chat, env={"turns": 2}, end_rate=1.0) as driver:
        rows = driver.collect(tasks(2), 2, SAMPLING, Job("train", 0))
    for row in rows:
        history = [*row.task.messages, {"role": "assistant", "content": row.actions[0]}, {"role": "user", "content": row.observations[1]}]
        expected = np.concatenate([chat.prompt_ids(history), chat.encode_text(row.actions[1]), chat.end_ids[:1]])
        assert np.array_equal(row.segments[0].ids, expected)


def test_rewards_feedback_and_outcome_are_the_environments(driver: RolloutDriver) -> None:
    for row in driver.collect(tasks(4), 4, SAMPLING, Job("train", 0)):
        kind = KINDS[str(row.task.meta["kind"])]
        right = [action[:1] in kind for action in row.actions]
        assert row.turn_rewards == [float(r) for r in right] and row.reward == sum(right)
        assert row.success is right[-1] and row.outcome is (Outcome.CORRECT if right[-1] else Outcome.WRONG)
        assert [f.turn for f in row.feedback] == [t for t, r in enumerate(right) if not r]
        assert all(f == Feedback("verifier", f.text, f.turn, False, False) and "is not a" in f.text for f in row.feedback)
        assert row.stop_reason is StopReason.TERMINATED and row.usable


def test_noise_depends_on_the_row_and_turn_alone(chat: ChatFormat) -> None:
    with make_driver(chat, env={"turns": 2}, seed=9) as driver:
        driver.collect(tasks(2), 2, SAMPLING, Job("train", 4, first_group=3))
        keys = {r.noise_key for r in driver.sampler.log}  # type: ignore[attr-defined]
        driver.collect(tasks(1), 1, SAMPLING, Job("train", 4, seed=77))
        other = driver.sampler.log[-2].noise_key  # type: ignore[attr-defined]
    assert keys == {derive(9, "train", 4, 3 + g, m, t) for g in range(2) for m in range(2) for t in range(2)}
    assert other == derive(77, "train", 4, 0, 0, 0)


def test_admission_order_and_bound(chat: ChatFormat) -> None:
    with make_driver(chat, env={"turns": 2}, max_live=3, slots=3) as driver:
        sampler: Any = driver.sampler
        most, tick = 0, sampler.tick

        def watched() -> Any:
            nonlocal most
            most = max(most, sampler.pending)
            return tick()

        sampler.tick = watched
        driver.collect(tasks(3), 3, SAMPLING, Job("train", 0))
        admitted = list(dict.fromkeys(request.session for request in sampler.log))
    assert most == 3
    assert admitted == sorted(admitted) and len(admitted) == 9  # sessions are numbered as episodes begin: (group, member) order


def test_slow_verdicts_keep_a_bounded_number_of_environments(chat: ChatFormat) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(gymnasium.make(LETTERS_ID, jitter=0.05))
        return made[-1]

    sampler = ScriptedSampler(letters(chat), chat.end_ids[0])
    with RolloutDriver(make, chat, sampler, Ledger(), 0, max_live=2) as driver:
        rows = driver.collect(tasks(10), 2, SAMPLING, Job("train", 0))
    assert len(made) <= 2 * 2 and all(row.usable for row in rows)
    assert [row.task for row in rows] == [task for task in tasks(10) for _ in range(2)]


def test_environments_are_reused(chat: ChatFormat) -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(gymnasium.make(LETTERS_ID, turns=2))
        return made[-1]

    sampler = ScriptedSampler(letters(chat), chat.end_ids[0])
    with RolloutDriver(make, chat, sampler, Ledger(), 0, max_live=4) as driver:
        driver.collect(tasks(3), 4, SAMPLING, Job("train", 0))
        count = len(made)
        driver.collect(tasks(3), 4, SAMPLING, Job("train", 1))
    assert len(made) == count <= 12


def test_infrastructure_failures_mask_the_row_and_no_other(chat: ChatFormat) -> None:
    with make_driver(chat, env={"trouble": "infra"}) as driver:
        rows = driver.collect(tasks(12), 2, SAMPLING, Job("train", 0))
    masked = [r for r in rows if r.task.meta["number"] % 3 == 0]
    assert masked and len(masked) < len(rows)
    for row in rows:
        assert row.usable is (row not in masked)
    for row in masked:
        assert row.reward is None and row.stop_reason is StopReason.ERRORED and row.error == "infra_error" and not row.success
        assert row.outcome is Outcome.INFRA_ERROR and "no grader today" in row.feedback[0].text
    assert driver.ledger.errored_episodes == len(masked)


def test_a_bug_of_the_environment_is_not_hidden(chat: ChatFormat) -> None:
    with make_driver(chat, env={"trouble": "bug"}) as driver, pytest.raises(EnvError, match=r"ValueError.*a bug in this world") as caught:
        driver.collect(tasks(2), 2, SAMPLING, Job("train", 0))
    assert isinstance(caught.value.__cause__, ValueError)


class Strange(LettersEnv):
    async def astep(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = await super().astep(action)
        return observation, reward, terminated, truncated, {**info, "outcome": "splendid"}


def test_an_unknown_outcome_is_the_environments_bug(chat: ChatFormat) -> None:
    sampler = ScriptedSampler(letters(chat), chat.end_ids[0])
    with RolloutDriver(Strange, chat, sampler, Ledger(), 0) as driver, pytest.raises(EnvError, match="'splendid'"):
        driver.collect(tasks(1), 1, SAMPLING, Job("train", 0))


def test_a_full_context_ends_the_episode_with_what_it_earned(chat: ChatFormat) -> None:
    prompt = max(len(chat.prompt_ids(list(t.messages))) for t in tasks(4))
    with make_driver(chat, env={"turns": 9}, context_limit=prompt + 40) as driver:
        rows = driver.collect(tasks(4), 4, SAMPLING, Job("train", 0))
    assert {r.stop_reason for r in rows} == {StopReason.CONTEXT_FULL}
    for row in rows:
        assert row.usable and 1 <= len(row.actions) < 9 and row.reward == sum(row.turn_rewards)
        assert len(row.segments[0].ids) <= prompt + 40 and row.segments[0].action_mask[-1]  # nothing after the last action


def test_a_prompt_that_does_not_fit_masks_its_rows(chat: ChatFormat) -> None:
    lengths = sorted({len(chat.prompt_ids(list(t.messages))) for t in tasks(8)})
    with make_driver(chat, context_limit=lengths[-1]) as driver:
        rows = driver.collect(tasks(8), 1, SAMPLING, Job("train", 0))
    assert {r.error for r in rows if not r.usable} == {"prompt_too_long"} and any(r.usable for r in rows)


def test_one_long_task_is_no_reason_to_stop_but_many_in_a_row_are(chat: ChatFormat) -> None:
    by_length = sorted(tasks(64), key=lambda task: len(chat.prompt_ids(list(task.messages))))
    lengths = [len(chat.prompt_ids(list(task.messages))) for task in by_length]
    short, long = by_length[0], [task for task, length in zip(by_length, lengths, strict=True) if length > lengths[0]]
    assert len(long) > UNFIT_TASKS
    with make_driver(chat, context_limit=lengths[0] + 1) as driver:
        for step in range(2):
            for task in long[: UNFIT_TASKS - 1]:  # as with one task a step, or one group drawn again
                (row,) = driver.collect([task], 1, SAMPLING, Job("train", step))
                assert row.error == "prompt_too_long"
            assert driver.collect([short], 1, SAMPLING, Job("train", step))[0].usable
        with pytest.raises(DataError, match=r"no task fits the model"):
            driver.collect(long[:UNFIT_TASKS], 1, SAMPLING, Job("train", 2))
        with pytest.raises(DataError, match=r"no task fits the model"):
            driver.collect(long[:1], 1, SAMPLING, Job("eval", 3, evaluation=True))


class Forgetful(ChatFormat):
    """A template that rewrites history at every turn."""

    def continuation_ids(self, *_: Any, **__: Any) -> None:
        return None


def test_a_template_that_rewrites_history_opens_a_new_segment(chat: ChatFormat) -> None:
    forgetful = Forgetful(chat.tokenizer)
    with make_driver(forgetful, env={"turns": 3}) as driver:
        rows = driver.collect(tasks(2), 2, SAMPLING, Job("train", 0))
        requests = driver.sampler.log  # type: ignore[attr-defined]
    for row in rows:
        assert len(row.segments) == 3 and [s.spans[0].turn for s in row.segments] == [0, 1, 2]
        assert row.turn_of_token().tolist() == sorted(row.turn_of_token().tolist())
        assert sum(int(s.action_mask.sum()) for s in row.segments) == row.action_length
        second = row.segments[1]
        messages = [*row.task.messages, {"role": "assistant", "content": row.actions[0]}, {"role": "user", "content": row.observations[1]}]
        assert np.array_equal(second.ids[: second.prompt_length], chat.prompt_ids(messages))
    assert len({r.session for r in requests}) == len(requests)


def test_the_ledger_is_charged_for_everything(chat: ChatFormat) -> None:
    with make_driver(chat, env={"turns": 2}) as driver:
        rows = driver.collect(tasks(3), 2, SAMPLING, Job("train", 0))
        ledger = driver.ledger
        sampled = sum(r.action_length for r in rows)
        assert (ledger.sampled_tokens, ledger.env_steps, ledger.verifier_calls, ledger.episodes) == (sampled, 12, 12, 6)
        assert ledger.prompt_tokens == sum(len(s.ids) - int(s.action_mask.sum()) for r in rows for s in r.segments)
        before = ledger.state_dict()
        evaluated = driver.collect(tasks(2), 1, SAMPLING, Job("eval", 0, evaluation=True))
        assert ledger.eval_tokens == sum(r.action_length for r in evaluated) and ledger.eval_episodes == 2 and ledger.eval_env_steps == 4
        assert {k: v for k, v in ledger.state_dict().items() if not k.startswith("eval")} == {
            k: v for k, v in before.items() if not k.startswith("eval")
        }


class PlainWorld(gymnasium.Env[str, str]):
    """A text world that knows nothing of this library's own interface."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        assert options is not None
        return "hello", {"messages": options["task"].messages}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float("a" in action), False, True, {}


def test_a_plain_gymnasium_world_works(chat: ChatFormat) -> None:
    sampler = ScriptedSampler(letters(chat), chat.end_ids[0])
    with RolloutDriver(PlainWorld, chat, sampler, Ledger(), 0) as driver:
        rows = driver.collect(tasks(2), 3, SAMPLING, Job("train", 0))
    assert all(r.reward == float("a" in r.actions[0]) and r.stop_reason is StopReason.TRUNCATED for r in rows)


def test_the_driver_works_inside_a_running_event_loop(chat: ChatFormat) -> None:
    async def notebook() -> Sequence[Trajectory]:
        with make_driver(chat) as driver:
            return driver.collect(tasks(2), 2, SAMPLING, Job("train", 0))

    assert len(asyncio.run(notebook())) == 4
