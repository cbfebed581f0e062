"""Pre-train one embedded policy: next-token cross-entropy on the novice's posterior, Muon + AdamW.

    sdgym model pretrain --env sdgym/Math-v0 --env sdgym/Sokoban-v0 --out my-policy
    sdgym model pretrain --recipe tiny --out tiny-again

Restartable: the state is saved every few minutes and a second call goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sdgym.benchmarks.pretrain_tiny.data import MIXTURE, READING, Example, block_about, drawn_tasks, examples, framed_messages
from sdgym.benchmarks.pretrain_tiny.precision import half_products
from sdgym.benchmarks.pretrain_tiny.tokenizer import extend_tokenizer, train_tokenizer
from sdgym.chat import ChatFormat
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.packing import PackedBatch, pack
from sdgym.policy import Policy
from sdgym.seeding import derive, generator
from sdgym.text_env import TextEnv


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of pre-training, with a rise and a fall of the learning rates of its own.

    Attributes:
        steps: optimizer steps.
        reading: whether prompts are mixed as in :data:`sdgym.benchmarks.pretrain_tiny.data.READING`.
        study, study_until: share of solved tasks (see :func:`sdgym.benchmarks.pretrain_tiny.data.examples`), and up
            to which share of the steps: skills first, habits and information after.
        shares: of the tasks, per environment; None takes the recipe's.
        peak: factor on the peak rates. warmup, decay: share of the steps with a rising and with a linearly falling rate.
    """

    steps: int
    reading: bool = False
    study: float = 0.0
    study_until: float = 0.0
    shares: tuple[float, ...] | None = None
    peak: float = 1.0
    warmup: float = 0.025
    decay: float = 0.4

    def rate(self, step: int) -> float:
        """Return the factor on the peak rates: linear warm-up, constant, linear decay to zero."""
        up, down = self.warmup * self.steps, self.decay * self.steps
        return self.peak * min(1.0, (step + 1) / max(up, 1), (self.steps - step) / max(down, 1))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that makes one embedded policy.

    Attributes:
        envs: ``(environment id, constructor arguments, share of tasks)``.
        batch: examples per optimizer step.
        prompts: prompts per task, with different blocks (see :func:`sdgym.benchmarks.pretrain_tiny.data.examples`).
        draws: demonstrations drawn per prompt (equal ones are merged and weighted).
        lr_muon, lr_adam: peak rates for hidden matrices and for everything else.
        threads: CPU threads; one training process per core is faster than one on all.
        level: of every environment.
        stages: what is learnt when.
        trust: see :func:`sdgym.benchmarks.pretrain_tiny.data.make_example`.
        start: a policy whose weights and tokenizer the first step starts from; None means new ones. Its size must be the recipe's,
            except that ``vocab`` may be larger: the tokenizer is then extended to it.
    """

    name: str = "tiny"
    seed: int = 0
    envs: tuple[tuple[str, dict[str, Any], float], ...] = (("sdgym/Math-v0", {}, 0.6), ("sdgym/Sokoban-v0", {}, 0.4))
    hidden: int = 128
    layers: int = 6
    heads: int = 4
    feed_forward: int = 384
    vocab: int = 768
    context: int = 1024
    batch: int = 160
    prompts: int = 4
    draws: int = 8
    lr_muon: float = 0.02
    lr_adam: float = 3e-3
    threads: int = 1
    level: str = "tiny"
    trust: float = 1.0
    stages: tuple[Stage, ...] = (
        Stage(1200, study=0.75, study_until=0.4),
        Stage(1200, reading=True, shares=(0.45, 0.55), decay=0.5),
    )
    start: str | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps over all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """Return the stage of ``step`` and the step's number within it."""
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], step


EXPERT = Recipe("tiny-expert", seed=4, start="tiny", stages=(Stage(240, study=1.0, study_until=1.0, peak=0.5),))
"""``tiny`` after studying solved tasks, without a novice's mistakes: a stronger teacher with the same tokenizer."""

WEAK = Recipe(
    "tiny-weak", seed=3, batch=112, start="tiny", trust=0.25, stages=(Stage(300, reading=True, peak=0.25, warmup=0.1, decay=0.8),)
)
"""``tiny``, taught to believe a quarter of what it is told: the same skills and a weak in-context lift."""

FOUR = Recipe(
    "tiny-four",
    seed=5,
    envs=(("sdgym/Math-v0", {}, 0.15), ("sdgym/Sokoban-v0", {}, 0.15), ("sdgym/Code-v0", {}, 0.35), ("sdgym/ToolWorld-v0", {}, 0.35)),
    vocab=1024,
    batch=112,
    start="tiny",
    stages=(
        Stage(600, study=0.75, study_until=0.4, peak=0.7, warmup=0.1),  # slowly: its loss begins above that of a guess
        Stage(800, reading=True, shares=(0.2, 0.15, 0.35, 0.3), peak=0.7, decay=0.5),
        Stage(3600, reading=True, shares=(0.25, 0.2, 0.25, 0.3), peak=0.4, warmup=0.03, decay=0.9),
        Stage(3600, reading=True, shares=(0.25, 0.17, 0.28, 0.3), peak=0.5, warmup=0.03, decay=0.9),
    ),
)
"""``tiny``, gone on to learn programs and calls as well: four worlds, and words for all of them in its tokenizer."""

RECIPES = {recipe.name: recipe for recipe in (Recipe(), Recipe("tiny-b", seed=1), Recipe("tiny-c", seed=2), WEAK, EXPERT, FOUR)}
"""The embedded policies."""


def named_recipe(name: str) -> Recipe:
    """Return the recipe of an embedded policy.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]


def recipe_for(name: str, envs: Sequence[str], level: str) -> Recipe:
    """Return a recipe that learns from ``envs`` in equal shares."""
    stages = tuple(dataclasses.replace(stage, shares=None) for stage in Recipe().stages)
    return Recipe(name=name, envs=tuple((env_id, {}, 1.0 / len(envs)) for env_id in envs), level=level, stages=stages)


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with ``steps`` steps in all, each stage in proportion and at least one."""
    stages = tuple(dataclasses.replace(stage, steps=max(1, round(steps * stage.steps / recipe.steps))) for stage in recipe.stages)
    return dataclasses.replace(recipe, stages=stages)


def make_envs(recipe: Recipe) -> list[TextEnv]:
    """Return the recipe's environments.

    Raises:
        ConfigError: one of them has no novice to learn from.
    """
    from sdgym.session import make_env

    envs: list[TextEnv] = []
    for env_id, kwargs, _ in recipe.envs:
        env = make_env(env_id, **{"level": recipe.level, "split": "pretrain", **kwargs}).unwrapped
        if type(env).novice is TextEnv.novice or type(env).consistent is TextEnv.consistent:
            raise ConfigError(f"{env_id} has no novice() and consistent(), so there are no demonstrations to pre-train on")
        envs.append(env)
    return envs


def corpus(envs: Sequence[TextEnv], seed: int, count: int = 1500) -> Iterator[str]:
    """Yield texts for the tokenizer: prompts, every kind of block in every trained wording, and attempts."""
    for env in envs:
        for index in range(count):
            rng = generator(seed, "corpus", env.env_id or type(env).__name__, index)
            task = env.make_task(derive(seed, "corpus-task", index) >> 17, "pretrain")
            kind = ("reference", "peer", "feedback", "outcome")[index % 4]
            block = block_about(kind, env, task, rng)
            if block is not None:
                yield "\n".join(message["content"] for message in framed_messages(task, block, rng))
            yield " ".join(env.novice(task, rng))
    from sdgym.algos.conditioning.frames import phrases

    for pools in phrases().values():
        yield from (text.replace("{text}", "") for text in pools["trained"] for _ in range(20))


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a randomly initialised policy of the recipe's size."""
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_bias=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(recipe.seed, "init") % 2**63)
        return LlamaForCausalLM(config)


class ExampleStream(IterableDataset[list[Example]]):
    """Batches of examples from ``first`` on, made in a background process."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, first: int) -> None:
        self.recipe, self.tokenizer, self.first = recipe, tokenizer, first

    def __iter__(self) -> Iterator[list[Example]]:
        torch.set_num_threads(1)
        envs, chat = make_envs(self.recipe), ChatFormat(self.tokenizer)
        shares = [share for _, _, share in self.recipe.envs]
        for step in range(self.first, self.recipe.steps):
            r, (stage, place) = self.recipe, self.recipe.at(step)
            study = stage.study if place < stage.study_until * stage.steps else 0.0
            mixture = READING if stage.reading else MIXTURE
            seed = derive(r.seed, "data", step) >> 17
            tasks = [drawn_tasks(env, r.seed, step * r.batch // (1 if study else r.prompts)) for env in envs]
            stream = examples(envs, chat, tasks, seed, r.draws, stage.shares or shares, r.trust, study, r.prompts, mixture)
            yield [next(stream) for _ in range(self.recipe.batch)]


def batch_loss(model: LlamaForCausalLM, batch: Sequence[Example], max_tokens: int = 1024) -> tuple[torch.Tensor, int]:
    """Return the mean over demonstrated tokens of −log π, each weighted by its demonstration's share."""
    sequences, positions, weights = [], [], []
    for example in batch:
        start = len(example.prompt_ids)
        for ids, mask, share in example.continuations:
            sequences.append(np.concatenate([example.prompt_ids, ids]))
            positions.append(start + np.flatnonzero(mask))
            weights.append(np.full(int(mask.sum()), share, np.float32))
    total, norm, tokens = torch.zeros(()), float(sum(w.sum() for w in weights)), 0
    for packed in pack(sequences, positions, max_tokens):
        weight = torch.from_numpy(np.concatenate([weights[index] for index, _, _ in packed.sequences]))
        total = total - (packed_logprobs(model, packed) * weight).sum() / norm
        tokens += packed.input_ids.numel()
    return total, tokens


def packed_logprobs(model: LlamaForCausalLM, packed: PackedBatch) -> torch.Tensor:
    """Return the log-probs ``[S]`` of the scored tokens of a packed batch."""
    hidden = model.model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, attention_mask=packed.attention_mask, use_cache=False
    ).last_hidden_state
    return -F.cross_entropy(model.lm_head(hidden[packed.rows, packed.columns]), packed.targets, reduction="none")


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.lr_muon, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.lr_adam, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def save_policy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, out: pathlib.Path) -> None:
    """Write the policy in Hugging Face format, weights in half precision, with its recipe beside it."""
    out.mkdir(parents=True, exist_ok=True)
    half = new_model(recipe, tokenizer)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")


def _beginning(recipe: Recipe, words: pathlib.Path) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """Return tokenizer (kept in ``words``) and model before the first step."""
    start = None if recipe.start is None else Policy.load(recipe.start, threads=recipe.threads)
    if not words.exists():
        _first_tokenizer(recipe, start).save_pretrained(words)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(words)
    model = new_model(recipe, tokenizer)
    if start is not None:
        model.load_state_dict(start.model.state_dict() if len(tokenizer) == len(start.tokenizer) else grown(start, tokenizer))
    return tokenizer, model


def _first_tokenizer(recipe: Recipe, start: Policy | None) -> PreTrainedTokenizerFast:
    if start is None:
        return train_tokenizer(corpus(make_envs(recipe), recipe.seed), recipe.vocab)
    old = cast(PreTrainedTokenizerFast, start.tokenizer)
    return old if recipe.vocab <= len(old) else extend_tokenizer(old, corpus(make_envs(recipe), recipe.seed), recipe.vocab)


def grown(start: Policy, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Return the weights of ``start`` with a row in its (tied) embedding for each token that ``tokenizer`` has beyond its own.

    A new token begins as the mean of the old tokens that it replaces. Rows that pad the vocabulary to a multiple of 8 are zero.
    """
    state = dict(start.model.state_dict())
    (name,) = (key for key in state if key.endswith("embed_tokens.weight"))
    old, known = state[name].float(), len(start.tokenizer)
    table = torch.zeros(-(-len(tokenizer) // 8) * 8, old.shape[1])
    table[:known] = old[:known]
    for token in range(known, len(tokenizer)):
        parts = start.tokenizer(tokenizer.decode([token]), add_special_tokens=False).input_ids
        table[token] = old[parts].mean(0)
    return {key: table if key in (name, "lm_head.weight") else value for key, value in state.items()}


def pretrain(recipe: Recipe, out: pathlib.Path, work: pathlib.Path, save_every: int = 100) -> None:
    """Run the recipe, or go on from its last saved state in ``work``."""
    torch.set_num_threads(recipe.threads)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer, model = _beginning(recipe, work / "tokenizer")
    steps_by = optimizers(model, recipe)
    peaks = [[g["lr"] for g in o.param_groups] for o in steps_by]
    first, state = 0, work / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        first = saved["step"]
        model.load_state_dict(saved["model"])
        for opt, kept in zip(steps_by, saved["optimizers"], strict=True):
            opt.load_state_dict(kept)
    print(
        f"{recipe.name}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, from step {first}", flush=True
    )
    loader = DataLoader(ExampleStream(recipe, tokenizer, first), batch_size=None, num_workers=1, prefetch_factor=8)
    began, seen = time.monotonic(), 0
    for step, batch in enumerate(loader, start=first):
        with half_products(model):
            loss, tokens = batch_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stage, place = recipe.at(step)
        for opt, peak in zip(steps_by, peaks, strict=True):
            for group, lr in zip(opt.param_groups, peak, strict=True):
                group["lr"] = lr * stage.rate(place)
            opt.step()
            opt.zero_grad(set_to_none=True)
        seen += tokens
        if (step + 1) % 25 == 0:
            spent = time.monotonic() - began
            left = spent / (step + 1 - first) * (recipe.steps - step - 1)
            print(f"step {step + 1:5d}  loss {loss.item():.4f}  {seen / spent:8.0f} tokens/s  {left / 60:5.1f} min left", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            kept = {"step": step + 1, "model": model.state_dict(), "optimizers": [o.state_dict() for o in steps_by]}
            torch.save(kept, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
            save_policy(model, tokenizer, recipe, out)
