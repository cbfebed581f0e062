"""What a run has consumed: tokens, verifier calls, environment steps, and the arithmetic they imply.

Methods are compared at equal cost, so nothing is free here: discarded groups, second passes and the rows
an algorithm only looks at are all charged. Evaluation is charged too, but apart, since it is the same for
every method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sdgym.errors import CheckpointError


@dataclasses.dataclass
class Ledger:
    """Running totals.

    Attributes:
        parameters: of the policy, for FLOPs.
        sampled_tokens: every token drawn for training, kept or not.
        discarded_tokens: those of groups an algorithm rejected (a part of ``sampled_tokens``).
        second_pass_tokens: those drawn beside the rollouts: revisions, summaries, critiques, retries, data of a phase
            (a part of ``sampled_tokens``).
        prompt_tokens: prompt and observation tokens read by the generator, per row, whatever it shared.
        teacher_tokens: tokens scored under teacher weights.
        scored_tokens: tokens scored without gradient under the policy's own weights.
        trained_tokens: tokens scored with gradient, once per loss term and optimizer update they take part in.
        score_inputs, train_inputs: tokens pushed through the model for those scores, prefixes included
            and shared prefixes counted once, as they are computed.
        verifier_calls: actions judged.
        env_steps: environment steps taken (equal to ``verifier_calls`` unless an environment answers
            without judging).
        episodes, errored_episodes: finished, and of these masked by an infrastructure failure.
        eval_tokens, eval_prompt_tokens, eval_episodes, eval_env_steps: the same for evaluation.
        updates: optimizer updates.
    """

    parameters: int = 0
    sampled_tokens: int = 0
    discarded_tokens: int = 0
    second_pass_tokens: int = 0
    prompt_tokens: int = 0
    teacher_tokens: int = 0
    scored_tokens: int = 0
    trained_tokens: int = 0
    score_inputs: int = 0
    train_inputs: int = 0
    verifier_calls: int = 0
    env_steps: int = 0
    episodes: int = 0
    errored_episodes: int = 0
    eval_tokens: int = 0
    eval_prompt_tokens: int = 0
    eval_episodes: int = 0
    eval_env_steps: int = 0
    updates: int = 0

    def charge_sampled(self, tokens: int, stream: str) -> None:
        """Charge tokens drawn for training; every ``stream`` but ``train``, that of the rollouts, is a second pass."""
        self.sampled_tokens += tokens
        if stream != "train":
            self.second_pass_tokens += tokens

    @property
    def flops(self) -> float:
        """Training FLOPs: 2 per parameter and token read, sampled or scored, 6 per token trained.

        The usual dense-transformer count (Kaplan et al. 2020, §2.1), attention's own cost left out;
        evaluation is not in it.
        """
        forward = self.sampled_tokens + self.prompt_tokens + self.score_inputs
        return float(self.parameters) * (2.0 * forward + 6.0 * self.train_inputs)

    def metrics(self) -> dict[str, float]:
        """Return ``ledger/*`` for the metric log."""
        return {f"ledger/{name}": value for name, value in self.summary().items() if name != "parameters"}

    def summary(self) -> dict[str, float]:
        """Return every counter and the FLOPs, as ``ledger.json`` holds them."""
        return {**dataclasses.asdict(self), "flops": self.flops}

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over the counters; a missing or unknown one is an error of the checkpoint."""
        names = {field.name for field in dataclasses.fields(self)}
        if names != set(state):
            raise CheckpointError(
                f"the saved ledger has other counters than this version ({', '.join(sorted(names ^ set(state)))}); start a new run"
            )
        for name in names:
            setattr(self, name, int(state[name]))
