"""Controls as arms of their own, and the contrasts that a suite declares before anything runs."""

from __future__ import annotations

from sdgym.algos.base import Preset
from sdgym.algos.presets import resolve
from sdgym.benchmarks.head_to_head.suite import Arm, Control, Suite
from sdgym.errors import ConfigError
from sdgym.trees import merge


def has_controls(arm: Arm) -> bool:
    """Whether the arm's algorithm conditions a teacher on text that a control can replace."""
    config: type[Preset] = resolve(arm.algo)[0].Config
    return "control" in config.model_fields


def expand(suite: Suite) -> Suite:
    """Return the suite with an arm ``NAME-P0`` … after each arm that has controls (ARCHITECTURE §6).

    P0 the same update without text, P1 filler of the same length, P2 another task's text, P3 the outcome bit alone.

    Raises:
        ConfigError: an arm asks for controls and its algorithm has none.
    """
    names = {arm.name for arm in suite.arms}
    arms: list[Arm] = []
    for arm in suite.arms:
        arms.append(arm)
        wanted = suite.controls if arm.controls is None else arm.controls
        if arm.control_of is not None or not wanted:
            continue
        if has_controls(arm):
            arms += [twin for control in wanted if (twin := control_arm(arm, control)).name not in names]
        elif arm.controls:
            raise ConfigError(f"the arm {arm.name!r} asks for controls, but {arm.algo} shows its teacher no text that one could replace")
    return suite.model_copy(update={"arms": tuple(arms), "controls": ()})


def control_arm(arm: Arm, control: Control) -> Arm:
    """Return ``arm`` with its teacher's text replaced."""
    settings = merge(arm.settings, {"algo": {"control": control}})
    return Arm(name=f"{arm.name}-{control}", algo=arm.algo, settings=settings, engine=arm.engine, control_of=arm.name, controls=())


def declared_contrasts(suite: Suite) -> list[tuple[str, str]]:
    """Return the (treatment, control) pairs of an expanded suite.

    Each arm against the baseline, against the arms it names, and against its controls.
    """
    names = {arm.name for arm in suite.arms}
    real = [arm for arm in suite.arms if arm.control_of is None]
    pairs = [(arm.name, suite.baseline) for arm in real]
    pairs += [(arm.name, other) for arm in real for other in arm.against]
    pairs += [(arm.control_of, arm.name) for arm in suite.arms if arm.control_of is not None]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a != b and {a, b} <= names]
