from __future__ import annotations

import pathlib

import pytest
import yaml

from sdgym.config import RunConfig, dump_config, make_config, resolve_config
from sdgym.errors import ConfigError
from sdgym.trees import differences, merge, parse_set


def test_a_dump_makes_an_equal_config() -> None:
    config = make_config(
        {"algo": "dapo", "env": {"id": "sdgym/Sokoban-v0", "level": "easy"}, "optimizer": {"lr": 1e-3, "betas": [0.8, 0.9]}}
    )
    again = make_config(yaml.safe_load(dump_config(config)))
    assert again == config
    assert again.env.kwargs == {"level": "easy"} and again.optimizer.betas == (0.8, 0.9)


def test_later_sources_win(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("algo: grpo\nsteps: 3\noptimizer: {lr: 0.1, warmup: 7}\n")
    config = resolve_config([file], ["optimizer.lr=3e-4", "algo.clip_high=0.28", "env.level=easy"], steps=5, algo__name="rft", device=None)
    assert (config.steps, config.optimizer.lr, config.optimizer.warmup) == (5, 3e-4, 7)
    assert config.algo.name == "rft" and config.algo.overrides == {"clip_high": 0.28}
    assert config.env.kwargs == {"level": "easy"}


def test_values_of_set_are_yaml() -> None:
    assert parse_set("a.b=[1, x]") == {"a": {"b": [1, "x"]}}
    assert parse_set("a=true") == {"a": True}
    assert parse_set("note=a=b") == {"note": "a=b"}
    assert parse_set("x=") == {"x": None}


def test_a_section_may_be_written_short_in_one_source_and_long_in_another() -> None:
    assert merge({"algo": "sdpo"}, {"algo": {"top_k": 5}}) == {"algo": {"name": "sdpo", "top_k": 5}}
    assert merge({"algo": {"name": "sdpo", "top_k": 5}}, {"algo": "opsd"}) == {"algo": {"name": "opsd", "top_k": 5}}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"stepz": 3}, ["'stepz'", "did you mean 'steps'?"]),
        ({"optimizer": {"learning_rate": 1}}, ["'optimizer.learning_rate'", "Known:", "lr"]),
        ({"optimizer": {"warmpu": 1}}, ["'optimizer.warmpu'", "did you mean 'warmup'?"]),
        ({"steps": 0}, ["'steps'", "greater than 0", "got 0"]),
        ({"steps": "many"}, ["'steps'", "valid integer", "'many'"]),
        ({"sampling": {"top_p": 1.5}}, ["'sampling.top_p'", "less than or equal to 1"]),
        ({"optimizer": {"lr": float("nan")}}, ["'optimizer.lr'", "got nan"]),
        ({"device": "gpu"}, ["'device'", "'gpu'"]),
        ({"eval": {"split": "dev"}}, ["'eval.split'", "'val'"]),
        ({"generation": {"url": "http://127.0.0.1:8000"}}, ["generation: url", "engine=torch", "engine=vllm"]),
        ({"generation": {"dtype": "bfloat16"}}, ["generation: dtype", "engine=torch"]),
        (
            {"generation": {"engine": "vllm", "url": "http://127.0.0.1:8000", "memory": 0.9}},
            ["generation: memory", "http://127.0.0.1:8000"],
        ),
        ({"steps": 9, "curriculum": {"env": "sdgym/Math-v0", "steps": 9}}, ["curriculum.steps=9", "steps=9"]),
        ({"scheduler": "async"}, ["'scheduler'", "'deterministic'"]),
    ],
)
def test_mistakes_are_one_sentence(tree: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(tree)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=1", ".a=1"])
def test_a_malformed_override_says_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_set(text)


def test_bad_yaml_is_named() -> None:
    with pytest.raises(ConfigError, match="'steps' is not YAML"):
        parse_set("steps=[1")


@pytest.mark.parametrize(("content", "word"), [("- 1\n- 2\n", "mapping"), ("a: [1\n", "valid YAML"), (None, "cannot be read")])
def test_a_bad_file_is_named(tmp_path: pathlib.Path, content: str | None, word: str) -> None:
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=word) as caught:
        resolve_config([file])
    assert str(file) in str(caught.value)


def test_an_empty_file_is_all_defaults(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("")
    assert resolve_config([file]) == RunConfig()


def test_differences_name_leaves() -> None:
    a, b = make_config({"steps": 3}), make_config({"steps": 4, "algo": {"name": "grpo", "x": 1}})
    found = list(differences(a.model_dump(), b.model_dump()))
    assert found == ["algo.overrides.x: None != 1", "steps: 3 != 4"]


def test_the_config_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        RunConfig().steps = 3  # type: ignore[misc]
