"""A slow, plain reading of the objective: scripted rows, a model of one line, and an interpreter of loss terms.

What the learner does in packed micro-batches on a transformer, :class:`Interpreter` does one item at a time in
float64 on a :class:`BagModel`. It shares no code with the learner, so tests of algorithms and of the learner can
both be held against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.chat import ChatFormat
from sdgym.core import (
    Feedback,
    LossItem,
    LossTerm,
    Message,
    Outcome,
    ScoringView,
    Segment,
    StopReason,
    Task,
    Trajectory,
    TurnSpan,
    ViewScores,
)
from sdgym.objective import LossInputs
from sdgym.seeding import generator


def scripted_task(name: str, question: str, *, answer: str = "7", solution: str = "3+4=7") -> Task:
    """Return a task with a system prompt, an answer and a reference solution."""
    messages: tuple[Message, ...] = ({"role": "system", "content": "Solve."}, {"role": "user", "content": question})
    return Task(name, messages, "train", 0, {"answer": answer, "reference_solution": solution}, {"level": "tiny"})


def scripted_row(
    chat: ChatFormat,
    task: Task,
    member: int,
    actions: Sequence[str],
    rewards: Sequence[float] | None,
    *,
    observations: Sequence[str] = (),
    feedback: str = "",
    policy: BagModel | None = None,
    truncated: bool = False,
    max_tokens: int = 24,
) -> Trajectory:
    """Return the row that a policy saying ``actions`` would have left, token for token.

    Args:
        chat: renders the conversation.
        task: what it is about; its id is the group's.
        member: index in the group.
        actions: one text per turn.
        rewards: one per turn; None for a row whose grading failed.
        observations: user turns between the actions, one fewer than actions.
        feedback: said about the last turn.
        policy: records its log-probs; None records zeros.
        truncated: whether the last action hit the token limit (its end token is then missing).
        max_tokens: the limit written into ``sampling``.
    """
    ids, mask, spans, prompt = _transcript(chat, task, actions, observations, truncated)
    tokens, action_mask = np.array(ids, np.int64), np.array(mask)
    logprobs = np.zeros(len(ids))
    if policy is not None:
        logprobs[action_mask] = policy.logprobs(tokens, np.flatnonzero(action_mask)).detach().numpy()
    success = bool(rewards) and rewards is not None and rewards[-1] >= 1.0
    return Trajectory(
        group_id=task.task_id,
        member=member,
        task=task,
        segments=[Segment(tokens, action_mask, logprobs, tuple(spans), prompt)],
        observations=[task.messages[-1]["content"], *observations],
        actions=list(actions),
        turn_rewards=list(rewards or [0.0] * len(actions)),
        feedback=[Feedback("verifier", feedback, len(actions) - 1)] if feedback else [],
        outcome=Outcome.INFRA_ERROR if rewards is None else (Outcome.CORRECT if success else Outcome.WRONG),
        reward=None if rewards is None else float(sum(rewards)),
        success=success,
        stop_reason=StopReason.ERRORED if rewards is None else StopReason.TERMINATED,
        sampling={"temperature": 1.0, "max_tokens": max_tokens},
        truncated_tokens=truncated,
    )


def _transcript(
    chat: ChatFormat, task: Task, actions: Sequence[str], observations: Sequence[str], truncated: bool
) -> tuple[list[int], list[bool], list[TurnSpan], int]:
    """Return ids, action mask, turn spans and the prompt's length."""
    messages = list(task.messages)
    ids = chat.prompt_ids(messages).tolist()
    prompt, mask, spans = len(ids), [False] * len(ids), []
    for turn, text in enumerate(actions):
        last = turn == len(actions) - 1
        said = [*chat.encode_text(text).tolist(), *([] if truncated and last else chat.end_ids[:1])]
        spans.append(TurnSpan(turn, len(ids), len(ids) + len(said)))
        ids, mask = ids + said, mask + [True] * len(said)
        messages.append({"role": "assistant", "content": text})
        if not last:
            answer: Message = {"role": "user", "content": observations[turn]}
            between = chat.continuation_ids(messages, [answer], ended=True)
            assert between is not None
            ids, mask = ids + between.tolist(), mask + [False] * len(between)
            messages.append(answer)
    return ids, mask, spans, prompt


def group_rows(rows: Sequence[Trajectory]) -> Batch:
    """Return the batch of ``rows``, grouped by ``group_id`` in order of appearance."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.group_id, []).append(i)
    return Batch(rows, list(groups.values()))


class BagModel:
    """An autoregressive model in one line: logits = (mean of all embeddings so far + embedding of the last) · W.

    Every token of the context moves every later distribution, so views with different prefixes disagree.

    Args:
        vocab_size: V.
        seed: of the weights.
        width: D.
    """

    def __init__(self, vocab_size: int, seed: int = 0, width: int = 6) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = [
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in ((vocab_size, width), (vocab_size, width), (width, vocab_size))
        ]
        self.parameters = [parameter.requires_grad_() for parameter in draw]

    def logits(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """Return float64 ``[S, V]``: what predicts ``ids[p]`` for each ``p`` in ``positions`` (p ≥ 1)."""
        context, last, out = self.parameters
        tokens = torch.from_numpy(ids)
        before = torch.from_numpy(positions) - 1
        mean = context[tokens].cumsum(0)[before] / (before + 1)[:, None]
        return (3.0 * mean + last[tokens[before]]) @ out

    def logprobs(self, ids: np.ndarray, positions: np.ndarray) -> Tensor:
        """Return float64 ``[S]``: log-probs of ``ids`` at ``positions``."""
        chosen = torch.from_numpy(ids[positions])[:, None]
        return self.logits(ids, positions).log_softmax(-1).gather(-1, chosen)[:, 0]

    def copy(self) -> BagModel:
        """Return an independent model with the same weights."""
        other = object.__new__(BagModel)
        other.parameters = [p.detach().clone().requires_grad_() for p in self.parameters]
        return other


class Interpreter:
    """Evaluates loss terms item by item, straight from their documentation.

    Args:
        policy: whose gradient is asked for.
        teacher: the weights of views with ``weights="teacher"``.
    """

    def __init__(self, policy: BagModel, teacher: BagModel | None = None, longest_answer: int | None = None) -> None:
        self.policy, self.teacher, self.longest = policy, teacher or policy, longest_answer

    def logits(self, view: ScoringView) -> Tensor:
        """Return ``[S, V]`` of a view; detached where it carries no gradient."""
        model = self.policy if view.weights == "policy" else self.teacher
        found = model.logits(*view.sequence())
        return found if view.grad else found.detach()

    def score(self, views: Sequence[ScoringView]) -> list[ViewScores]:
        """The context's scorer: log-probs and entropies without gradient."""
        out = []
        for view in views:
            logs = self.logits(view).detach().log_softmax(-1)
            chosen = logs.gather(-1, torch.from_numpy(view.scored_ids())[:, None])[:, 0]
            out.append(ViewScores(chosen.numpy(), -(logs.exp() * logs).sum(-1).numpy()))
        return out

    def context(self, chat: ChatFormat, *, step: int = 0, on_policy: bool = True, seed: int = 0) -> AnnotateContext:
        """Return what ``annotate`` is given."""
        return AnnotateContext(step, chat, generator(seed, "interpreter"), self.score, on_policy, 10_000)

    def values(self, loss: object, item: LossItem) -> Tensor:
        """Return one item's loss: ``[S]``, or ``[1]`` for a sequence loss."""
        ids = torch.from_numpy(item.view.scored_ids())
        own = self.logits(item.view)
        others = [self.logits(view).detach() for view in item.references]
        references = torch.stack(others) if others else own.new_zeros((0, *own.shape))
        logprobs = own.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        size = len(ids)
        column = [
            None if a is None else torch.as_tensor(a, dtype=torch.float64)
            for a in (item.old_logprobs, item.rollout_logprobs, item.advantage)
        ]
        inputs = LossInputs(
            token_ids=ids,
            item_index=torch.zeros(size, dtype=torch.int64),
            num_items=1,
            logprobs=logprobs,
            old_logprobs=logprobs.detach() if column[0] is None else column[0],
            rollout_logprobs=column[1],
            reference_logprobs=references.log_softmax(-1).gather(-1, ids[None, :, None].expand(len(others), -1, 1))[..., 0],
            weight=torch.as_tensor(item.weight, dtype=torch.float64),
            advantage=torch.zeros(size, dtype=torch.float64) if column[2] is None else column[2],
            label=torch.tensor([item.label]),
            features=loss.token_features(own, references, ids),  # type: ignore[attr-defined]
        )
        return loss(inputs)[0]  # type: ignore[operator, no-any-return]

    def objective(self, terms: Sequence[LossTerm]) -> Tensor:
        """Return the scalar to be minimised."""
        return sum((term.coefficient * self.term(term, terms) for term in terms), torch.zeros((), dtype=torch.float64))

    def term(self, term: LossTerm, terms: Sequence[LossTerm]) -> Tensor:
        """Return one term's aggregated value, without its coefficient (algorithms-core §0.1)."""
        pairs = [(self.values(term.loss, item), item) for item in term.items]
        if term.loss.scope == "sequence":
            return sum((v[0] for v, item in pairs if item.weight.any()), torch.zeros(())) / max(
                1, sum(bool(i.weight.any()) for i in term.items)
            )
        sums, counts = [], []
        for values, item in pairs:
            kept = np.flatnonzero(item.weight)
            weight = torch.as_tensor(item.weight[kept], dtype=torch.float64)
            sums.append((values[torch.from_numpy(kept)] * weight).sum())
            counts.append(len(kept))
        total = torch.stack(sums).sum()
        if term.aggregation in ("token_mean_global", "token_mean_micro"):
            return total / max(1, _tokens(term, terms))
        sequences = (term.rows or len(counts)) if term.count_empty or term.aggregation == "token_sum_norm" else sum(c > 0 for c in counts)
        if term.aggregation == "token_sum_norm":
            longest = term.max_length or self.longest
            assert longest
            return total / (max(1, sequences) * longest)
        means = [s / max(1, c) for s, c in zip(sums, counts, strict=True)] if term.aggregation == "seq_mean_token_mean" else sums
        return torch.stack(means).sum() / max(1, sequences)

    def gradient(self, terms: Sequence[LossTerm]) -> list[np.ndarray]:
        """Return the objective's gradient with respect to the policy's parameters; zeros where there is none."""
        found = torch.autograd.grad(self.objective(terms), self.policy.parameters, allow_unused=True)
        return [np.zeros(tuple(p.shape)) if g is None else g.numpy() for g, p in zip(found, self.policy.parameters, strict=True)]


def _tokens(term: LossTerm, terms: Sequence[LossTerm]) -> int:
    """Σmask of a term; terms with one key share the union of their tokens."""
    if term.normaliser_key is None:
        return sum(int(np.count_nonzero(item.weight)) for item in term.items)
    sharing = [item for other in terms if other.normaliser_key == term.normaliser_key for item in other.items]
    return len({(item.view.row, int(place)) for item in sharing for place in item.view.index_map[item.weight != 0]})
