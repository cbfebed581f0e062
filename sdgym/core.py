"""Frozen records that travel through the system: task, feedback, verdict, trajectory, scoring view, loss term.

Standard library and NumPy only. Dimension letters used as name suffixes everywhere: P tasks in a batch,
G rollouts per task, N = P·G rows, H turns, T tokens, S scored tokens, K top-k, V vocabulary, M teacher
contexts. Log-probs are natural and float32; times are seconds; lengths are tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np


class Message(TypedDict):
    """One chat message in the OpenAI layout; ``tool_calls`` only where an environment uses tools."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]


class Outcome(StrEnum):
    """What a verifier found. An infrastructure failure is an outcome of its own, never a reward of 0."""

    NONE = ""
    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INFRA_ERROR = "infra_error"
    GOLD_UNPARSABLE = "gold_unparsable"


MASKED_OUTCOMES = frozenset({Outcome.INFRA_ERROR, Outcome.GOLD_UNPARSABLE})
"""Outcomes whose rows leave rewards, group statistics and losses."""


class StopReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    TRUNCATED = "truncated"  # the environment's own limit
    MAX_TURNS = "max_turns"
    CONTEXT_FULL = "context_full"
    ERRORED = "errored"


FEEDBACK_KINDS = ("verifier", "runtime", "judge", "critique", "user")


@dataclasses.dataclass(frozen=True, slots=True)
class Feedback:
    """Text about an attempt.

    Attributes:
        kind: one of :data:`FEEDBACK_KINDS`.
        text: what is said.
        turn: the turn it speaks of, from 0.
        reveals_answer: whether it contains the answer.
        visible: whether the student saw it (in a later observation of the same episode).
    """

    kind: str
    text: str
    turn: int = 0
    reveals_answer: bool = False
    visible: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's finding on one answer.

    Attributes:
        outcome: see :class:`Outcome`.
        score: in [0, 1], or None if the answer could not be judged (the row is masked).
        feedback: text that says what is wrong without giving the answer.
        seconds: wall time; telemetry only, never part of ``info``.
    """

    outcome: Outcome
    score: float | None
    feedback: str = ""
    seconds: float = 0.0


def content_hash(content: Any) -> str:
    """Return the SHA-256 hex digest of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem. Frozen; equal content gives an equal ``content_hash``.

    Attributes:
        task_id: ``level-split-seed-hash``: an environment can rebuild the task from its id alone.
        messages: the initial chat (system prompt if any, then the user's message).
        split: ``pretrain``, ``train``, ``val``, ``test`` or ``heldout``.
        seed: the seed that produced it.
        privileged: text the student never sees: ``reference_solution``, ``answer``, ``hint`` …
        meta: plain data (level, family, difficulty …).
    """

    task_id: str
    messages: tuple[Message, ...]
    split: str
    seed: int
    privileged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "privileged", MappingProxyType(dict(self.privileged)))
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def __hash__(self) -> int:
        return hash((self.task_id, self.split))

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (self.task_id, self.messages, self.split, self.seed, dict(self.privileged), dict(self.meta))


@dataclasses.dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where one turn's action lies in its segment: token indices ``[start, end)`` of sampled tokens."""

    turn: int
    start: int
    end: int


@dataclasses.dataclass
class Segment:
    """Contiguous token ids exactly as they passed through the policy.

    A trajectory has one segment unless the chat template rewrites history; then a new one starts.

    Attributes:
        ids: int64 ``[L]``: prompt, sampled tokens and observation tokens, in order.
        action_mask: bool ``[L]``, True on sampled tokens (end-of-turn included when it was sampled).
        logprobs: float32 ``[L]``, log-prob at the sampling temperature before truncation; 0 off the mask.
        spans: one :class:`TurnSpan` per turn in this segment.
        prompt_length: tokens before the first sampled one.
    """

    ids: np.ndarray
    action_mask: np.ndarray
    logprobs: np.ndarray
    spans: tuple[TurnSpan, ...]
    prompt_length: int


@dataclasses.dataclass
class Trajectory:
    """One finished episode: data even when it failed.

    Attributes:
        group_id: rows with the same id share a task and a group baseline.
        member: index within the group, from 0.
        segments: see :class:`Segment`.
        observations, actions: the text of each turn, H entries (observation before the action).
        turn_rewards: float ``[H]``.
        feedback: everything said about the attempt, in turn order.
        reward: sum of ``turn_rewards``, or None for a row to be masked.
        success: whether the environment counts the task as solved.
        stop_reason, error: why it ended; ``error`` names the kind for ``errored``.
        policy_version: optimizer steps taken when it was sampled.
        key: the seed-stream path (run seed, stream, step, group, member).
        sampling: the sampling parameters used.
        truncated_tokens: True if any action hit its token limit.
    """

    group_id: str
    member: int
    task: Task
    segments: list[Segment]
    observations: list[str]
    actions: list[str]
    turn_rewards: list[float]
    feedback: list[Feedback]
    outcome: Outcome
    reward: float | None
    success: bool
    stop_reason: StopReason
    error: str = ""
    policy_version: int = 0
    key: tuple[int | str, ...] = ()
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    truncated_tokens: bool = False

    @property
    def usable(self) -> bool:
        """Whether the row counts in rewards, group statistics and losses."""
        return self.reward is not None and self.stop_reason is not StopReason.ERRORED

    @property
    def action_length(self) -> int:
        """Sampled tokens, all turns: T of this row."""
        return int(sum(int(s.action_mask.sum()) for s in self.segments))

    def turn_of_token(self) -> np.ndarray:
        """Return int64 ``[T]``: the turn of each sampled token, for broadcasting per-turn values."""
        return np.concatenate(
            [np.full(s.end - s.start, s.turn, np.int64) for g in self.segments for s in g.spans] or [np.zeros(0, np.int64)]
        )

    def action_ids(self) -> np.ndarray:
        """Return int64 ``[T]``: the sampled tokens in order."""
        return np.concatenate([g.ids[g.action_mask] for g in self.segments] or [np.zeros(0, np.int64)])

    def action_logprobs(self) -> np.ndarray:
        """Return float32 ``[T]``: log-probs recorded at sampling."""
        return np.concatenate([g.logprobs[g.action_mask] for g in self.segments] or [np.zeros(0, np.float32)])


Provenance = Literal["sampled", "rewritten", "reprompted"]
Weights = Literal["policy", "teacher"]


@dataclasses.dataclass(frozen=True)
class ScoringView:
    """One token sequence to be scored by the policy or the teacher.

    Attributes:
        row: index of the trajectory in its batch.
        prefix_ids: int64 ``[Lp]``, ends where the first token of ``token_ids`` is predicted (which may
            be inside an assistant turn).
        token_ids: int64 ``[L]``, everything after the prefix: sampled and observation tokens.
        loss_mask: bool ``[L]``, the tokens to be scored (S of them). Not an attention mask: every
            token is attended to.
        index_map: int64 ``[S]``, for each scored token its index among the row's sampled tokens, or -1
            where it has none (rewritten text).
        insertions: ``(offset, ids)`` pairs: tokens put before ``token_ids[offset]``, never scored.
        weights: whose weights score it.
        grad: whether a gradient flows.
        provenance: ``sampled``; ``rewritten`` or ``reprompted`` void recorded log-probs.
        kind, source: what privileged text the view holds and where it came from (for reports).
        truncated: whether the privileged slot was cut to fit.
    """

    row: int
    prefix_ids: np.ndarray
    token_ids: np.ndarray
    loss_mask: np.ndarray
    index_map: np.ndarray
    insertions: tuple[tuple[int, np.ndarray], ...] = ()
    weights: Weights = "policy"
    grad: bool = True
    provenance: Provenance = "sampled"
    kind: str = "student"
    source: str = ""
    truncated: bool = False

    def scored_ids(self) -> np.ndarray:
        """Return int64 ``[S]``: the tokens whose log-probs are asked for."""
        scored: np.ndarray = self.token_ids[self.loss_mask]
        return scored

    def sequence(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(ids [L'], positions [S])``: the full input and where each scored token sits in it.

        The logits that predict ``ids[p]`` are those at index ``p - 1``.
        """
        parts, offset_of, cursor, done = [self.prefix_ids], np.zeros(len(self.token_ids), np.int64), len(self.prefix_ids), 0
        for offset, ids in (*sorted(self.insertions, key=lambda pair: pair[0]), (len(self.token_ids), np.zeros(0, np.int64))):
            parts += [self.token_ids[done:offset], ids]
            offset_of[done:offset] = cursor + np.arange(offset - done)
            cursor += offset - done + len(ids)
            done = offset
        return np.concatenate(parts).astype(np.int64), offset_of[self.loss_mask]


Need = Literal["sampled", "student_topk", "teacher_topk", "full"]
Aggregation = Literal["token_mean_global", "token_mean_micro", "seq_mean_token_mean", "seq_mean_token_sum", "token_sum_norm"]


@dataclasses.dataclass(frozen=True)
class LossItem:
    """One row's part in a loss term.

    Attributes:
        view: the view that is trained (``grad=True``).
        references: M ≥ 0 views that score the *same* token ids under another context or other weights
            (teachers, a negative context, the student as VPD's prior); no gradient.
        reference_logprobs: float32 ``[M, S]`` of the references where they are known already (a loss on sampled tokens then
            does not have them scored again); or None.
        weight: float32 ``[S]``, 0 removes a token from mask *and* denominator.
        advantage: float32 ``[S]`` or None.
        old_logprobs: float32 ``[S]`` at rollout time by the trainer's policy; None means "on-policy":
            the learner uses the stop-gradient of the current log-probs, so every ratio is exactly 1.
        rollout_logprobs: float32 ``[S]`` recorded by the sampler, for mismatch corrections; or None.
        label: +1 / -1 / 0, for sequence losses over accepted and rejected rows.
    """

    view: ScoringView
    weight: np.ndarray
    references: tuple[ScoringView, ...] = ()
    advantage: np.ndarray | None = None
    old_logprobs: np.ndarray | None = None
    rollout_logprobs: np.ndarray | None = None
    label: int = 0
    reference_logprobs: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One summand of the objective, as data; the learner knows nothing else.

    Attributes:
        name: metric prefix, for example ``policy`` or ``distill``.
        loss: an object from :mod:`sdgym.algos.losses` (see :class:`sdgym.learner.TokenLoss`).
        items: the rows it covers; rows without a usable view are absent, not zero.
        coefficient: factor on the aggregated value.
        aggregation: how per-token values become a scalar, by name (algorithms-core §0.1).
        max_length: L_max of ``token_sum_norm``; None takes the learner's, the longest possible episode.
        count_empty: whether ``seq_mean_*`` counts sequences without an unmasked token.
        normaliser_key: terms with the same key share one denominator Σmask; None gives each its own.
        rows: N of the batch, the denominator's row count where ``count_empty`` is true.
    """

    name: str
    loss: Any
    items: Sequence[LossItem]
    coefficient: float = 1.0
    aggregation: Aggregation = "token_mean_global"
    max_length: int | None = None
    count_empty: bool = False
    normaliser_key: str | None = None
    rows: int | None = None


@dataclasses.dataclass(frozen=True)
class ViewScores:
    """What one forward pass without gradient says about a view.

    Attributes:
        logprobs: float32 ``[S]`` of the scored tokens.
        entropy: float32 ``[S]`` of the full distribution that predicted each.
    """

    logprobs: np.ndarray
    entropy: np.ndarray


Scorer = Callable[[Sequence[ScoringView]], list[ViewScores]]

LearningRate = Callable[[int], float]
"""The learning rate after so many optimizer updates."""
