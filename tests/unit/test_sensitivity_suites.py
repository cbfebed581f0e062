"""The sensitivity suites vary every unknown of a reconstruction, one at a time, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from sdgym.algos.presets import build_algorithm
from sdgym.benchmarks.head_to_head.suite import load_suite

UNKNOWN = {
    "sensitivity-vpd": {"e_length", "e_weight", "top_k"},
    "sensitivity-skill-sd": {"exploration", "shelf_size", "ratio_cap", "log_ratio_clip"},
}
ABLATED = {"sensitivity-vpd": {"e_every"}, "sensitivity-skill-sd": {"skill_weight"}}


def config_of(settings: dict[str, Any]) -> dict[str, Any]:
    algorithm = build_algorithm(settings["algo"]["name"], settings["algo"]["overrides"])
    return algorithm.config.model_dump()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(UNKNOWN))
def test_every_unknown_is_varied_and_only_one_at_a_time(name: str) -> None:
    suite = load_suite(name)
    base, *others = [suite.trial_settings(arm, suite.envs[0], 0) for arm in suite.arms]
    plain, varied = config_of(base), set()
    for settings in others:
        mine = config_of(settings)
        (changed,) = [key for key in plain if mine[key] != plain[key]]
        varied.add(changed)
        assert {k: v for k, v in settings.items() if k != "algo"} == {k: v for k, v in base.items() if k != "algo"}
    assert varied == UNKNOWN[name] | ABLATED[name] and suite.baseline == suite.arms[0].name


def test_ratios_can_differ_from_one_where_their_cap_is_varied() -> None:
    suite = load_suite("sensitivity-skill-sd")
    assert config_of(suite.trial_settings(suite.arms[0], suite.envs[0], 0))["minibatches"] > 1
