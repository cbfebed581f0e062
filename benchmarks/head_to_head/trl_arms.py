"""TRL's GRPOTrainer and SDPOTrainer as arms: their loop, losses and generation, our tasks, grading, evaluation and ledger.

``python -m sdgym.benchmarks.head_to_head.trl_arms --config settings.yaml --out RUN`` leaves the same run folder as
``sdgym train``, so that the report treats both alike. Tasks are those that our trainer would draw with this seed.
FLOPs are counted from the lengths without padding, as for our own arms, and without the text that the teacher reads more.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from sdgym.benchmarks.head_to_head.trl_settings import Translation, translate
from sdgym.config import RunConfig, make_config
from sdgym.core import MASKED_OUTCOMES, Outcome, Task
from sdgym.errors import ConfigError, UserError
from sdgym.seeding import derive
from sdgym.tracking import RunFolder
from sdgym.trainer import RunResult, Trainer, save_model
from sdgym.trees import read_yaml

if TYPE_CHECKING:
    from datasets import Dataset

MISSING = "missing.json"


class HostedRun(Trainer):
    """A run whose steps TRL takes; logs, evaluation, budget and folder are ours.

    Raises:
        ConfigError: the environment plays several turns, or TRL has no such trainer.
    """

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        super().__init__(config, folder)
        world = self.session.env.unwrapped
        if world.max_turns > 1:
            raise ConfigError(f"engine: trl plays single turns and {config.env.id!r} has up to {world.max_turns}: leave the arm out there")
        self.translation = translate(config, self.session.group_size, self.session.sampling.max_tokens, self.session.policy.vocab_size)
        folder.write_json(MISSING, {"trainer": self.translation.trainer, "missing": list(self.translation.missing)})
        self._rows: list[tuple[float | None, bool, int]] = []  # reward, success, tokens of the step under way
        self._step_began = time.monotonic()
        self._asked = self.tasks()

    def run(self) -> RunResult:
        """Train to the last step or to the end of the budget."""
        self.progress.start(self.folder.path.name, self.session.header(), 0, self.total)
        try:
            self._log(self._evaluate_if_due())
            with tempfile.TemporaryDirectory() as scratch:
                self._trl_trainer(pathlib.Path(scratch)).train()
            save_model(self.session.policy, self.folder.path)
            return RunResult(self.folder.path, self.step, self._last)
        finally:
            self.progress.finish()
            self.session.close()

    def tasks(self) -> list[Task]:
        """Return the tasks of all steps, in order, as our own trainer draws them."""
        world, count = self.session.env.unwrapped, self.config.tasks_per_step
        return [
            task
            for step in range(self.config.steps)
            for task in world.tasks(self.session.split, derive(self.config.seed, "tasks", step, 0) >> 16, count)
        ]

    def grade(self, completion_ids: list[list[int]], task: list[int], **_: Any) -> list[float | None]:
        """Judge answers with the environment (a reward function in TRL's sense) and charge the ledger; None cannot be graded."""
        session, ledger = self.session, self.session.ledger
        rewards: list[float | None] = []
        for ids, number in zip(completion_ids, task, strict=True):
            this = self._asked[number]
            session.env.reset(options={"task": this})
            _, reward, _, _, info = session.env.step(session.policy.chat.decode_action(ids))
            masked = Outcome(info["outcome"]) in MASKED_OUTCOMES
            rewards.append(None if masked else float(reward))
            self._rows.append((rewards[-1], bool(info["success"]) and not masked, len(ids)))
            prompt = len(session.policy.chat.prompt_ids(list(this.messages)))
            passes = self.translation.epochs
            ledger.sampled_tokens += len(ids)
            ledger.prompt_tokens += prompt
            ledger.trained_tokens += passes * len(ids)
            ledger.train_inputs += passes * (prompt + len(ids))
            if self.translation.trainer == "sdpo":  # the teacher scores every row, with or without a demonstration
                ledger.teacher_tokens += passes * len(ids)
                ledger.score_inputs += passes * (prompt + len(ids))
            ledger.env_steps += 1
            ledger.verifier_calls += 1
            ledger.episodes += 1
            ledger.errored_episodes += masked
        return rewards

    def after_optimizer_step(self, count: int) -> bool:
        """Log a finished rollout step; returns whether it was the last."""
        ledger = self.session.ledger
        ledger.updates = count
        if count % (self.translation.minibatches * self.translation.epochs):
            return False
        self.step += 1
        self._end_if_spent()
        usable = [(r, ok, n) for r, ok, n in self._rows if r is not None]
        metrics = {"time/step": time.monotonic() - self._step_began}
        if usable:
            reward, success, length = np.mean(np.array(usable, np.float64), axis=0)
            metrics |= {"train/reward": float(reward), "train/success": float(success), "train/length": float(length)}
        self._rows = []
        self.session.sampler.sync_weights()
        self._log({**metrics, **self._evaluate_if_due(), **self._test_if_over()})
        self._step_began = time.monotonic()
        return self.step >= self.total

    def _trl_trainer(self, scratch: pathlib.Path) -> Any:
        from transformers import TrainerCallback
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        host, policy = self, self.session.policy
        policy.save(scratch / "start")
        policy.model.config._name_or_path = str(scratch / "start")  # where SDPOTrainer takes its teacher's weights from

        class Report(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= host.after_optimizer_step(state.global_step)

        config_class, trainer_class = trl_classes(self.translation)
        more = {"output_dir": str(scratch), "report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
        more |= {"use_cpu": self.session.device == "cpu", "remove_unused_columns": False}
        arguments = config_class(**self.translation.arguments, **more)
        policy.tokenizer.padding_side = "left"
        trainer = trainer_class(
            model=policy.model,
            reward_funcs=[self.grade],
            args=arguments,
            train_dataset=self._dataset(),
            processing_class=policy.tokenizer,
            callbacks=[Report()],
        )
        for quiet in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(quiet)
        return trainer

    def _dataset(self) -> Dataset:
        from datasets import Dataset as Table

        prompts = [[{"role": m["role"], "content": m["content"]} for m in task.messages] for task in self._asked]
        return Table.from_dict({"prompt": prompts, "task": list(range(len(prompts)))})


def trl_classes(translation: Translation) -> tuple[Any, Any]:
    """Return TRL's config and trainer classes; its warning that SDPO is experimental is not news here."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    logging.getLogger("trl").setLevel(logging.ERROR)
    if translation.trainer == "grpo":
        from trl.trainer.grpo_config import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer

        return GRPOConfig, GRPOTrainer
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    return SDPOConfig, SDPOTrainer


def train(config: RunConfig, out: pathlib.Path) -> RunResult:
    """Run one arm in ``out``, which must be empty."""
    folder = RunFolder(out)
    try:
        return HostedRun(config, folder).run()
    finally:
        folder.close()


def main() -> int:
    """Parse the arguments and train; user errors are one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    chosen = parser.parse_args()
    try:
        result = train(make_config(read_yaml(chosen.config)), chosen.out)
    except UserError as error:
        print(f"sdgym: {error}", file=sys.stderr)
        return 2
    print(f"{result.steps} steps in {result.folder}")
    return result.exit_code


if __name__ == "__main__":
    from sdgym.api import quiet_threads

    quiet_threads()
    sys.exit(main())
