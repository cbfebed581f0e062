"""Names, lazy targets, nearest matches, plugins that fail, registered environments."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import gymnasium
import pytest

import sdgym.registry
from sdgym.envs import ENVIRONMENTS
from sdgym.errors import UnknownNameError, UserError
from sdgym.registry import Registry, load_plugins


def test_objects_and_lazy_targets() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("here", len)
    registry.register("there", "math:sqrt")
    assert registry.get("here") is len and registry.get("there")(9) == 3.0  # type: ignore[operator]
    assert registry.names() == ["here", "there"] and "here" in registry and "nowhere" not in registry
    assert registry.get("math:floor")(2.5) == 2, "an unregistered target is taken as it is"  # type: ignore[operator]


def test_an_unknown_name_offers_the_nearest() -> None:
    registry: Registry[object] = Registry("algorithm")
    registry.register("grpo", len)
    with pytest.raises(UnknownNameError, match="no algorithm called 'gpro': did you mean 'grpo'"):
        registry.get("gpro")


def test_a_name_is_not_taken_over_silently() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("x", len)
    registry.register("x", len)
    with pytest.raises(UserError, match="already registered; pass replace=True"):
        registry.register("x", max)
    registry.register("x", max, replace=True)
    assert registry.get("x") is max


@pytest.mark.parametrize("target", ["no_such_module:thing", "math:no_such_name"])
def test_a_target_that_cannot_be_loaded_names_itself(target: str) -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("broken", target)
    with pytest.raises(UserError, match=f"'broken' points to '{target}'"):
        registry.get("broken")


def test_a_failing_plugin_is_named_and_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = self.value = name

        def load(self) -> object:
            if self.name == "bad":
                raise RuntimeError("its own fault")
            return lambda: called.append(self.name)

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry("bad"), Entry("good")] if group == "sdgym.plugins" else [])
    monkeypatch.setattr(sdgym.registry, "_plugins_loaded", False)
    with pytest.warns(UserWarning, match="plugin 'bad'.*its own fault"):
        load_plugins()
    load_plugins()
    assert called == ["good"], "each plugin is called once"


def test_importing_the_package_registers_the_worlds_without_loading_torch() -> None:
    program = "import sys, sdgym, gymnasium; e = gymnasium.make('sdgym/Sokoban-v0'); e.reset(seed=0); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_specs_are_strings_that_survive_json() -> None:
    assert {"sdgym/Math-v0", "sdgym/Sokoban-v0"} <= set(ENVIRONMENTS)
    for env_id in ENVIRONMENTS:
        spec = gymnasium.spec(env_id)
        assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()) == spec
    assert gymnasium.make("sdgym:sdgym/Sokoban-v0").unwrapped.level == "tiny"  # type: ignore[attr-defined]
