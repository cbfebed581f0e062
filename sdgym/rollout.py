"""The rollout driver: environments and a sampler played against each other in virtual time.

Time is the sampler's tick (one decode step). Episodes are admitted in (group, member) order and continued
in (group, member, turn) order; what an environment answers to the rows that finish at one tick is awaited
before the next tick, so nothing that a policy reads depends on a wall clock. The one exception costs no
determinism: after an episode's last possible turn nobody reads the answer, so its grading overlaps with
the generation of other rows.

Environments live in the driver's own event loop on its own thread; a notebook's running loop is not in
the way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from sdgym.chat import ChatFormat
from sdgym.core import MASKED_OUTCOMES, Feedback, Message, Outcome, StopReason, Task, Trajectory
from sdgym.episode import Context, Episode
from sdgym.errors import DataError, EnvError, InfraError
from sdgym.generation.base import Request, Sample, Sampler, SamplingParams
from sdgym.ledger import Ledger
from sdgym.seeding import derive

_SAMPLING_FIELDS = tuple(field.name for field in dataclasses.fields(SamplingParams))
Answer = tuple[str, float, bool, bool, dict[str, Any]]
Grading = deque[tuple[Episode, concurrent.futures.Future[Answer]]]
UNFIT_TASKS = 16
"""So many tasks in a row whose prompts do not fit the context end a training run; an evaluation ends where none of its tasks fits."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One batch of episodes.

    Attributes:
        stream: names the noise and the group ids ("train", "eval-greedy" …).
        step: rollout step.
        first_group: index of the first group (further batches of the same step continue the count).
        policy_version: recorded on the rows.
        evaluation: charge the ledger's evaluation counters instead of the training ones.
        seed: root of the noise; None takes the driver's.
    """

    stream: str
    step: int
    first_group: int = 0
    policy_version: int = 0
    evaluation: bool = False
    seed: int | None = None


class EventLoop:
    """An asyncio loop on a daemon thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sdgym-envs", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Schedule a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Cancel what still runs, stop the loop and join its thread."""
        concurrent.futures.wait([self.start(_cancel_others())], timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class RolloutDriver:
    """Plays tasks with a sampler and returns trajectories.

    Args:
        make_env: makes one environment instance; instances are reused through ``reset(options={"task": …})``.
        chat: turns messages into token ids.
        sampler: the generation back end; its weights are synchronised by the caller.
        ledger: charged for every token and step.
        seed: the run's seed, root of every row's noise.
        max_live: episodes in flight at once; as many again may wait for their last verdict.
    """

    def __init__(
        self, make_env: Callable[[], Any], chat: ChatFormat, sampler: Sampler, ledger: Ledger, seed: int, max_live: int = 256
    ) -> None:
        self.make_env, self.chat, self.sampler, self.ledger = make_env, chat, sampler, ledger
        self.seed, self.max_live = seed, max_live
        self._loop = EventLoop()
        self._free: list[Any] = []
        self._next_id = 0
        self._unfit = 0  # tasks in a row
        self._last_prompt: tuple[list[Message], np.ndarray] = ([], np.zeros(0, np.int64))

    def close(self) -> None:
        """Close the environments and stop the event loop."""
        for env in self._free:
            env.close()
        self._free.clear()
        self._loop.close()

    def __enter__(self) -> RolloutDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the batch ------------------------------------------------------------------------------

    def collect(
        self,
        tasks: Sequence[Task],
        group_size: int,
        sampling: SamplingParams,
        job: Job,
        prompts: Sequence[np.ndarray] | None = None,
    ) -> list[Trajectory]:
        """Play every task ``group_size`` times.

        Args:
            tasks: one group each.
            group_size: G.
            sampling: of every turn.
            job: names the batch.
            prompts: token ids that stand in place of each task's own prompt (they may end inside an assistant turn).

        Returns:
            ``len(tasks) · group_size`` rows in (group, member) order.

        Raises:
            EnvError: an environment broke its contract.
            DataError: no prompt fits the model's context (of an evaluation, or of :data:`UNFIT_TASKS` tasks in a row).
        """
        waiting = deque((g, m) for g in range(len(tasks)) for m in range(group_size))
        live: dict[int, Episode] = {}
        done: dict[tuple[int, int], Episode] = {}
        grading: Grading = deque()
        while waiting or live:
            while waiting and len(live) < self.max_live:
                g, m = waiting.popleft()
                episode = self._begin((g, m), tasks[g], None if prompts is None else prompts[g])
                if episode.stop is None:
                    live[self._submit(episode, episode.context.parts[0], sampling, job)] = episode
                else:
                    done[episode.order] = episode
            finished = [(live.pop(sample.request_id), sample) for sample in self.sampler.tick()] if live else []
            self._advance(sorted(finished, key=lambda pair: pair[0].order), live, done, grading, sampling, job)
            while grading and (len(grading) > self.max_live or not (waiting or live)):  # the oldest first, whichever is ready
                episode, future = grading.popleft()
                self._digest(episode, future.result())
                self._retire(episode, done)
        rows = [self._trajectory(done[key], sampling, job) for key in sorted(done)]
        self._charge(rows, job)
        if prompts is None:
            self._check_fit(rows, len(tasks), job)
        return rows

    def _check_fit(self, rows: Sequence[Trajectory], tasks: int, job: Job) -> None:
        """Raise where what does not fit is the rule and not one long task."""
        none = bool(rows) and all(row.error == "prompt_too_long" for row in rows)
        self._unfit = self._unfit + tasks if none else 0
        if none and (job.evaluation or self._unfit >= UNFIT_TASKS):
            raise DataError(
                f"no task fits the model: the prompts need up to {max(len(s.ids) for r in rows for s in r.segments)} tokens "
                f"and the context holds {self.sampler.context_limit}; take a lower level or another model"
            )

    def generate(self, prompts: Sequence[np.ndarray], sampling: SamplingParams, job: Job) -> list[Sample]:
        """Continue token ids freely, without an environment; charged as training.

        Returns:
            One sample per prompt, in order; an empty one (``stop="context"``) where the prompt fills the context.
        """
        waiting, numbers = deque(enumerate(prompts)), dict[int, int]()
        samples: dict[int, Sample] = {}
        while waiting or self.sampler.pending:
            while waiting and self.sampler.pending < self.max_live:
                i, prompt = waiting.popleft()
                key = derive(self._seed_of(job), job.stream, job.step, job.first_group + i, 0, 0)
                request = self._new_id()
                numbers[request] = i
                self.sampler.submit(Request(request, request, np.asarray(prompt, np.int64), key, sampling))
                self.ledger.prompt_tokens += len(prompt)
            for sample in self.sampler.tick():
                samples[numbers[sample.request_id]] = sample
                self.sampler.release(sample.request_id)
                self.ledger.charge_sampled(len(sample.ids), job.stream)
        return [samples[i] for i in range(len(prompts))]

    def _begin(self, order: tuple[int, int], task: Task, prompt: np.ndarray | None) -> Episode:
        env = self._free.pop() if self._free else self.make_env()
        observation, info = env.reset(options={"task": task})
        history: list[Message] = [dict(m) for m in info["messages"]]  # type: ignore[misc]
        prompt = self._prompt(history) if prompt is None else np.asarray(prompt, np.int64)
        episode = Episode(order, task, env, self._new_id(), history, Context(prompt), observation)
        if len(prompt) >= self.sampler.context_limit:
            episode.fail("prompt_too_long")
            self._free.append(env)
        return episode

    def _submit(self, episode: Episode, new_ids: np.ndarray, sampling: SamplingParams, job: Job) -> int:
        group, member = episode.order
        key = derive(self._seed_of(job), job.stream, job.step, job.first_group + group, member, episode.turn)
        request = self._new_id()
        keep = not self._is_last_turn(episode)
        self.sampler.submit(Request(request, episode.session, new_ids, key, sampling, keep))
        if job.evaluation:
            self.ledger.eval_prompt_tokens += len(new_ids)
        else:
            self.ledger.prompt_tokens += len(new_ids)
        return request

    def _advance(
        self,
        finished: Sequence[tuple[Episode, Sample]],
        live: dict[int, Episode],
        done: dict[tuple[int, int], Episode],
        grading: Grading,
        sampling: SamplingParams,
        job: Job,
    ) -> None:
        """Let the environments answer the rows that finished at this tick, and queue their next turns."""
        answers = []
        for episode, sample in finished:
            last = self._is_last_turn(episode)
            action = self._record(episode, sample)
            future = self._loop.start(_act(episode.env, action))
            if last:
                grading.append((episode, future))
            else:
                answers.append((episode, future))
        concurrent.futures.wait([future for _, future in answers])
        for episode, future in answers:
            new_ids = self._digest(episode, future.result())
            if new_ids is None:
                self._retire(episode, done)
            else:
                live[self._submit(episode, new_ids, sampling, job)] = episode

    # ---- one episode ----------------------------------------------------------------------------

    def _is_last_turn(self, episode: Episode) -> bool:
        """Whether the turn about to be sampled (or just sampled, before it is recorded) ends the episode."""
        return episode.turn + 1 >= _max_turns(episode.env)

    def _record(self, episode: Episode, sample: Sample) -> str:
        """Append a sampled turn exactly as it was drawn and return its text."""
        episode.context.append(np.asarray(sample.ids, np.int64), sample.logprobs, episode.turn)
        action = self.chat.decode_action(sample.ids)
        episode.observations.append(episode.observation)
        episode.actions.append(action)
        episode.history.append({"role": "assistant", "content": action})
        episode.last_stop = sample.stop
        episode.truncated_tokens |= sample.stop != "eos"
        return action

    def _digest(self, episode: Episode, answer: Answer) -> np.ndarray | None:
        """Take in the environment's answer; return the next turn's new tokens, or None at the end."""
        observation, reward, terminated, truncated, info = answer
        turn = episode.turn - 1
        episode.rewards.append(float(reward))
        episode.outcome = _outcome(episode, info)
        episode.success = bool(info.get("success", 0.0))
        if str(info.get("feedback", "")).strip():
            reveals, visible = bool(info.get("reveals_answer", 0.0)), bool(info.get("feedback_visible", 0.0))
            episode.feedback.append(Feedback(str(info.get("feedback_kind", "verifier")), str(info["feedback"]), turn, reveals, visible))
        if episode.outcome in MASKED_OUTCOMES:
            episode.fail(str(episode.outcome))
        elif terminated:
            episode.stop = StopReason.TERMINATED
        elif truncated:
            episode.stop = StopReason.MAX_TURNS if episode.turn >= _max_turns(episode.env) else StopReason.TRUNCATED
        elif episode.last_stop == "context":
            episode.stop = StopReason.CONTEXT_FULL
        if episode.stop is not None:
            return None
        episode.observation = observation
        return self._continue(episode, [dict(m) for m in info["messages"]])  # type: ignore[misc]

    def _continue(self, episode: Episode, messages: list[Message]) -> np.ndarray | None:
        """Append the observation's tokens, or open a new segment where the template rewrites history."""
        limit = self.sampler.context_limit
        ids = self.chat.continuation_ids(episode.history, messages, ended=episode.last_stop == "eos")
        episode.history += messages
        new_ids = np.asarray(self.chat.prompt_ids(episode.history) if ids is None else ids, np.int64)
        if len(new_ids) + (0 if ids is None else episode.context.length) >= limit:
            episode.stop = StopReason.CONTEXT_FULL
            return None
        if ids is None:
            self.sampler.release(episode.session)
            episode.session = self._new_id()
            episode.closed.append(episode.context.segment())
            episode.context = Context(new_ids)
        else:
            episode.context.append(new_ids, None)
        return new_ids

    def _retire(self, episode: Episode, done: dict[tuple[int, int], Episode]) -> None:
        self.sampler.release(episode.session)
        self._free.append(episode.env)
        done[episode.order] = episode

    def _prompt(self, messages: list[Message]) -> np.ndarray:
        """Return the prompt's ids; the members of a group, admitted one after another, render it once."""
        if self._last_prompt[0] != messages:
            self._last_prompt = ([*messages], np.asarray(self.chat.prompt_ids(messages), np.int64))
        return self._last_prompt[1]

    def _seed_of(self, job: Job) -> int:
        return self.seed if job.seed is None else job.seed

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _trajectory(self, episode: Episode, sampling: SamplingParams, job: Job) -> Trajectory:
        group, member = episode.order
        number = job.first_group + group
        assert episode.stop is not None
        return Trajectory(
            group_id=f"{job.stream}-{job.step}-{number}",
            member=member,
            task=episode.task,
            segments=[*episode.closed, episode.context.segment()],
            observations=episode.observations,
            actions=episode.actions,
            turn_rewards=episode.rewards,
            feedback=episode.feedback,
            outcome=episode.outcome,
            reward=None if episode.stop is StopReason.ERRORED else float(sum(episode.rewards)),
            success=episode.success and episode.stop is not StopReason.ERRORED,
            stop_reason=episode.stop,
            error=episode.error,
            policy_version=job.policy_version,
            key=(self._seed_of(job), job.stream, job.step, number, member),
            sampling={name: float(getattr(sampling, name)) for name in _SAMPLING_FIELDS},
            truncated_tokens=episode.truncated_tokens,
        )

    def _charge(self, rows: Sequence[Trajectory], job: Job) -> None:
        sampled, steps = sum(row.action_length for row in rows), sum(len(row.actions) for row in rows)
        if job.evaluation:
            self.ledger.eval_tokens += sampled
            self.ledger.eval_env_steps += steps
            self.ledger.eval_episodes += len(rows)
            return
        self.ledger.charge_sampled(sampled, job.stream)
        self.ledger.env_steps += steps
        self.ledger.verifier_calls += steps
        self.ledger.episodes += len(rows)
        self.ledger.errored_episodes += sum(row.stop_reason is StopReason.ERRORED for row in rows)


async def _act(env: Any, action: str) -> Answer:
    """Step an environment; a plain Gymnasium one runs on a worker thread.

    Raises:
        EnvError: the environment raised something else than :class:`InfraError`, which is its bug.
    """
    try:
        if hasattr(env, "astep"):
            return await env.astep(action)  # type: ignore[no-any-return]
        return await asyncio.to_thread(env.step, action)
    except InfraError as error:
        info = {"outcome": Outcome.INFRA_ERROR, "feedback": f"{type(error).__name__}: {error}", "feedback_kind": "runtime", "messages": ()}
        return "", 0.0, False, True, info
    except EnvError:
        raise
    except Exception as error:
        name = getattr(env.unwrapped, "env_id", "") or type(env.unwrapped).__name__
        raise EnvError(f"{name} raised {type(error).__name__} on the action {action[:200]!r}: {error}") from error


def _max_turns(env: Any) -> int:
    return int(getattr(env.unwrapped, "max_turns", 1 << 30))


def _outcome(episode: Episode, info: dict[str, Any]) -> Outcome:
    try:
        return Outcome(info.get("outcome", ""))
    except ValueError:
        name = type(episode.env.unwrapped).__name__
        raise EnvError(f"{name} returned the outcome {info['outcome']!r}; known: {', '.join(repr(str(o)) for o in Outcome)}") from None
