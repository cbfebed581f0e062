"""The schedule and the examples of pre-training; the policies themselves are judged by their bars."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from sdgym.benchmarks.pretrain_tiny import precision
from sdgym.benchmarks.pretrain_tiny.data import MIXTURE, READING, WINDOW, WORD_NOISE, drawn_tasks, examples, reworded
from sdgym.benchmarks.pretrain_tiny.train import RECIPES, Recipe, Stage, batch_loss, make_envs, pretrain, recipe_for, shortened
from sdgym.policy import Policy
from sdgym.seeding import generator
from sdgym.testing_policy import random_policy

TWO = Recipe(stages=(Stage(10, warmup=0.2, decay=0.5), Stage(4, peak=0.5, warmup=0.0, decay=1.0)))


def test_stages_follow_one_another_with_rates_of_their_own() -> None:
    assert TWO.steps == 14
    assert [TWO.at(step) for step in (0, 9, 10, 13)] == [(TWO.stages[0], 0), (TWO.stages[0], 9), (TWO.stages[1], 0), (TWO.stages[1], 3)]
    rates = [stage.rate(place) for stage, place in map(TWO.at, range(14))]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.5, 0.375, 0.25, 0.125])


def test_a_shortened_recipe_keeps_every_stage() -> None:
    assert [stage.steps for stage in shortened(TWO, 7).stages] == [5, 2]
    assert [stage.steps for stage in shortened(TWO, 1).stages] == [1, 1]
    assert all(stage.shares is None for stage in recipe_for("mine", ["sdgym/Math-v0"], "tiny").stages)


def test_mixtures_and_shares_sum_to_one() -> None:
    assert sum(MIXTURE.values()) == pytest.approx(1) and sum(READING.values()) == pytest.approx(1) and set(MIXTURE) == set(READING)
    for recipe in RECIPES.values():
        shares = [[share for _, _, share in recipe.envs], *(stage.shares for stage in recipe.stages if stage.shares)]
        assert all(sum(each) == pytest.approx(1) and len(each) == len(recipe.envs) for each in shares)


def test_prompts_of_a_task_share_it_and_differ_in_their_blocks() -> None:
    envs, chat = make_envs(Recipe(envs=(("sdgym/Math-v0", {}, 1.0),))), random_policy().chat
    stream = examples(envs, chat, [drawn_tasks(envs[0], 0, 0)], 5, draws=2, shares=[1.0], prompts=4)
    made = list(itertools.islice(stream, 24))
    texts = [chat.tokenizer.decode(example.prompt_ids) for example in made]
    questions = [text.split("\\boxed{}.")[0] for text in texts]
    assert max(len(list(group)) for _, group in itertools.groupby(questions)) == 4
    assert len({example.kind for example in made}) >= 5
    assert all(sum(share for _, _, share in example.continuations) == pytest.approx(1) for example in made)
    again = list(itertools.islice(examples(envs, chat, [drawn_tasks(envs[0], 0, 0)], 5, draws=2, shares=[1.0], prompts=4), 24))
    assert [a.prompt_ids.tolist() for a in again] == [a.prompt_ids.tolist() for a in made]


def test_study_shows_the_oracle_without_a_block() -> None:
    envs, chat = make_envs(Recipe(envs=(("sdgym/Math-v0", {}, 1.0),))), random_policy().chat
    for example in itertools.islice(examples(envs, chat, [drawn_tasks(envs[0], 0, 0)], 1, draws=2, shares=[1.0], study=1.0), 5):
        assert example.kind == "study" and len(example.continuations) == 1


def test_a_policy_that_is_taught_to_believe_less_is_shown_the_novice_instead() -> None:
    envs, chat = make_envs(Recipe(envs=(("sdgym/Math-v0", {}, 1.0),))), random_policy().chat

    def answers(trust: float) -> list[int]:
        """Return how many different demonstrations stand behind each reference: one where every one is believed."""
        told = {"reference": 1.0}
        stream = examples(envs, chat, [drawn_tasks(envs[0], 0, 0)], 5, draws=8, shares=[1.0], trust=trust, mixture=told)
        return [len(example.continuations) for example in itertools.islice(stream, 20)]

    assert set(answers(1.0)) == {1}
    assert sum(answers(0.0)) > 40
    assert 20 < sum(answers(0.5)) < sum(answers(0.0))


def test_half_precision_products_change_the_loss_a_little_and_leave_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    envs, policy = make_envs(Recipe(envs=(("sdgym/Math-v0", {}, 1.0),))), Policy.load("tiny")
    stream = examples(envs, policy.chat, [drawn_tasks(envs[0], 0, 0)], 5, draws=2, shares=[1.0])
    batch = list(itertools.islice(stream, 8))
    exact, _ = batch_loss(policy.model, batch)
    losses = {}
    for able in (True, False):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda able=able: able)
        with precision.half_products(policy.model):
            losses[able], _ = batch_loss(policy.model, batch)
        assert policy.model.config._attn_implementation == "sdpa"
    assert losses[False].item() == exact.item() != losses[True].item()
    assert losses[True].item() == pytest.approx(exact.item(), rel=0.02)
    losses[True].backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in policy.model.parameters())


def test_tasks_are_distinct_within_a_window_and_a_later_start_joins_the_same_series() -> None:
    env = make_envs(Recipe(envs=(("sdgym/Math-v0", {}, 1.0),)))[0]
    series = [task.task_id for task in itertools.islice(drawn_tasks(env, 3, 0), WINDOW + 20)]
    assert len({task_id.rsplit("-", 1)[1] for task_id in series[:WINDOW]}) == WINDOW
    assert [task.task_id for task in itertools.islice(drawn_tasks(env, 3, WINDOW - 5), 25)] == series[WINDOW - 5 :]
    assert [task.task_id for task in itertools.islice(drawn_tasks(env, 4, 0), 20)] != series[:20]


def test_the_expert_starts_from_its_students_weights_and_studies_only(tmp_path: Path) -> None:
    recipe = RECIPES["tiny-expert"]
    assert recipe.start == "tiny" and all(stage.study == stage.study_until == 1.0 for stage in recipe.stages)
    still = dataclasses.replace(recipe, stages=(Stage(1, study=1.0, study_until=1.0, peak=0.0),), batch=2)
    pretrain(still, tmp_path / "expert", tmp_path / "work")
    made, student = Policy.load(str(tmp_path / "expert")), Policy.load("tiny")
    assert made.state_hash() == student.state_hash(), "a step at rate zero must leave the student's weights as they are"
    assert made.tokenizer.get_vocab() == student.tokenizer.get_vocab()


def test_rewording_replaces_words_of_the_frame_and_never_the_slot() -> None:
    frame = "One of the attempts was correct: {text} Read it first."
    made = [reworded("peer", frame, generator(0, "rewording", i)).split(" ") for i in range(2000)]
    assert all(len(words) == 10 and words[6] == "{text}" for words in made)
    changed = sum(new != old for words in made for new, old in zip(words, frame.split(" "), strict=True)) / (2000 * 9)
    assert WORD_NOISE - 0.02 < changed < WORD_NOISE + 0.01  # standard error .003; a word may be replaced by itself
