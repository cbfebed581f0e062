"""Presets: they load, say their source and status, and refuse what is not there in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import yaml

from sdgym.algos import algorithms
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Preset
from sdgym.algos.presets import FOLDER, algorithm_names, build_algorithm, load_preset, paper_run, preset_names, value_sources
from sdgym.api import above_paper, settings_tree
from sdgym.config import make_config
from sdgym.core import LossTerm
from sdgym.errors import ConfigError, UnknownNameError

REQUIRED = {"grpo", "dr_grpo", "dapo", "rloo", "gspo", "cispo", "rft", "rft_offline", "opsd", "opsd_v1", "opsd_v3", "sdpo"}
REQUIRED |= {"sdpo_rich", "sdpo_norich", "sdpo_hybrid", "sharpen", "sd_zero", "sd_zero_repo", "sd_zero_paper", "sd_zero_iterative"}
REQUIRED |= {"sdft", "sdft_paper", "sdft_tinker", "sdft_trl", "sft_reference", "star", "grpo_ema"}


def test_all_promised_presets_exist() -> None:
    assert set(preset_names()) >= REQUIRED


@pytest.mark.parametrize("name", preset_names())
def test_preset(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name and preset.title and preset.status in ("code-read", "paper-read", "reconstruction", "own")
    assert re.search(r"arXiv \d{4}\.\d{5}", preset.paper) or preset.paper == "none"
    algorithm = build_algorithm(name)
    assert isinstance(algorithm, Algorithm) and algorithm.name == preset.algorithm
    assert algorithm.config.model_dump().items() >= {k: v for k, v in preset.config.items() if not isinstance(v, dict)}.items()


@pytest.mark.parametrize("name", preset_names())
def test_every_value_of_a_preset_names_its_source(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    config = re.search(r"^config:\n((?:  .*\n)*)", text, re.MULTILINE)
    for line in (config[1] if config else "").splitlines():
        opens_a_section = re.fullmatch(r"\s*\w+:(\s+#.*)?", line)
        assert opens_a_section or re.search(r": \S+\s+# \S", line), f"{name}.yaml: {line.strip()!r} has no source"


@pytest.mark.parametrize("name", preset_names())
def test_the_papers_run_settings_fit_the_run_config(name: str) -> None:
    run = paper_run(name)
    algo = {"name": name} | run.pop("algo", {})
    config = make_config(run | {"algo": algo})
    build_algorithm(name, config.algo.overrides)


def test_names_that_stand_for_another_preset() -> None:
    assert build_algorithm("opsd").config == build_algorithm("opsd_v1").config
    assert build_algorithm("sdpo").config == build_algorithm("sdpo_rich").config


def test_inheritance_keeps_what_is_not_said_again() -> None:
    dapo, grpo = load_preset("dapo"), load_preset("grpo")
    assert dapo.config["epsilon"] == grpo.config["epsilon"] and dapo.config["clip_high"] != grpo.config["clip_high"]
    assert "like" not in yaml.safe_load((FOLDER / "grpo.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("dapo", {"clip_hihg": 0.3}, r"'dapo': there is no setting 'clip_hihg': did you mean 'clip_high'\?"),
        ("sdpo_hybrid", {"policy.clip_hihg": 0.3}, r"no setting 'policy\.clip_hihg': did you mean 'clip_high'\?"),
        ("sdpo_hybrid", {"policy": {"scle": "group"}}, r"did you mean 'scale'\?"),
        ("grpo", {"clip_low": "much"}, r"the setting 'clip_low' should be a valid number, .* got 'much'"),
        ("grpo", {"clip_low": -0.1}, r"the setting 'clip_low' should be greater than or equal to 0, got -0\.1"),
        ("grpo", {"objective": "pro"}, r"the setting 'objective' should be 'ppo', 'gspo', .* got 'pro'"),
        ("opsd_v1", {"alpha": 1.0}, r"'opsd_v1': jensen_shannon needs 0 < alpha < 1, not 1\.0"),
        ("sdpo", {"support": "sampled", "divergence": "forward_kl"}, "support=sampled estimates reverse_kl only"),
        ("sdpo", {"control": "P4"}, r"the setting 'control' should be 'none', 'P0'"),
        ("sdpo", {"teacher_rate": 1.5}, "'teacher_rate' should be less than or equal to 1"),
        ("grpo", {"discount": 0.9}, "discount is read by credit=turn alone"),
        (
            "skill_sd",
            {"teacher": "frozen", "policy": {"kl_beta": 0.1, "reference": "ema"}},
            "reference KL would be taken to a moving teacher",
        ),
        ("opsd", {"teacher": "ema"}, "weights of the kind ema never move at a rate of 0"),
        ("vpd", {"teacher": "trust_region"}, "weights of the kind trust_region never move at a rate of 0"),
        ("sdpo", {"support": "sampled", "token_clip": 1.0}, "bound a divergence, which support=sampled does not compute"),
        ("sdpo", {"support": "sampled", "pointwise_clip": 1.0}, "bound a divergence, which support=sampled does not compute"),
    ],
)
def test_wrong_settings_get_one_sentence(name: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_algorithm(name, overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_algorithm_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"no algorithm called 'dr_grop': did you mean 'dr_grpo'\?"):
        build_algorithm("dr_grop")


def test_overrides_change_only_themselves() -> None:
    changed = build_algorithm("sdpo_hybrid", {"policy.clip_high": 0.5, "top_k": "7"}).config.model_dump()
    plain = build_algorithm("sdpo_hybrid").config.model_dump()
    assert changed.pop("top_k") == 7 and plain.pop("top_k") == 20
    assert changed["policy"].pop("clip_high") == 0.5 and plain["policy"].pop("clip_high") == 0.28
    assert changed == plain


def test_sources_of_values_are_inherited_and_replaced_with_the_value() -> None:
    hybrid = value_sources("sdpo_hybrid")
    assert hybrid["top_k"] == "Table 12" and hybrid["policy_weight"] == "Eq. 3: λ of the reported hybrid runs"
    assert hybrid["policy.clip_high"] == "Table 13" and "policy" not in hybrid
    dapo, grpo = value_sources("dapo"), value_sources("grpo")
    assert dapo["clip_high"] == "§3.1, clip-higher" != grpo["clip_high"] and dapo["epsilon"] == grpo["epsilon"]


@pytest.mark.parametrize("name", preset_names())
def test_every_value_that_a_preset_sets_has_its_source_in_what_is_shown(name: str) -> None:
    def leaves(tree: Mapping[str, object], path: str = "") -> set[str]:
        return {p for key, value in tree.items() for p in (leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key})}

    assert set(value_sources(name)) == leaves(load_preset(name).config)


class OtherConfig(Preset):
    strength: float = 1.0


class Other(Algorithm):
    """A third party's method."""

    name, Config = "other-method", OtherConfig

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        return []


def test_a_registered_algorithm_needs_no_preset() -> None:
    algorithms.register("other-method", Other, replace=True)
    try:
        assert "other-method" in algorithm_names()
        assert build_algorithm("other-method", {"strength": 2}).config.strength == 2.0
        assert paper_run("other-method") == {}
        with pytest.raises(ConfigError, match=r"did you mean 'strength'\?"):
            build_algorithm("other-method", {"strenght": 2})
    finally:
        del algorithms._table["other-method"]


def test_paper_settings_lie_below_what_is_asked_for() -> None:
    config = make_config(above_paper(settings_tree(algo="sdpo", sets=["algo.top_k=5", "optimizer.lr=3e-4"])))
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (3e-4, 0.01)  # asked for; run_sdpo.sh
    assert config.algo.name == "sdpo" and config.algo.overrides == {"minibatches": 32, "top_k": 5}
    with pytest.raises(ConfigError, match=r"no source's run settings.*sharpen"):
        above_paper(settings_tree(algo="sharpen"))
