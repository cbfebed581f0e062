"""What the configurations of the runs have in common and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.config import differences, merge
from sdgym.report.load import Run


def first_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return one run per (environment, method)."""
    found: dict[tuple[str, str, str, str], Run] = {}
    for run in runs:
        found.setdefault((run.env, run.level, run.model, run.arm), run)
    return list(found.values())


def config_differences(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return arm names and, per setting that differs between arms, its values; environments and seeds are left out."""
    arms: dict[str, dict[str, Any]] = {}
    for run in runs:
        arms.setdefault(
            run.arm, {**run.config, "algo": merge({"settings": resolved_settings(run)}, run.config["algo"]), "env": None, "seed": None}
        )
    base = next(iter(arms.values()), {})
    keys = sorted({line.split(": ", 1)[0] for config in arms.values() for line in differences(base, config)})
    return list(arms), [(key, [show(lookup(config, key)) for config in arms.values()]) for key in keys]


def resolved_settings(run: Run) -> dict[str, Any]:
    """Return the algorithm's full settings, {} where its code is not at hand."""
    from sdgym.algos.presets import build_algorithm
    from sdgym.errors import UserError

    try:
        return dict(build_algorithm(run.config["algo"]["name"], run.config["algo"]["overrides"]).config.model_dump(mode="json"))
    except UserError:
        return {}


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key, "" where there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ""
        config = config[part]
    return config


def show(value: Any) -> str:
    """Return a short text for a table cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)
