"""Presets: an algorithm with every value of one source, as YAML with the source beside each value.

A preset file holds ``algorithm`` (registry name) or ``like`` (another preset to start from), ``title``, ``paper``,
``status``, ``about`` (equation, deviations and known traps, where the algorithm's file cannot say them), ``config`` (the algorithm's settings) and ``run`` (the paper's optimizer, sampling and batch sizes in the
layout of the run config; they belong to large models, so a trainer uses them only on request).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
import yaml

from sdgym.config import explain
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.trees import merge, nest

FOLDER = pathlib.Path(__file__).parent
Status = Literal["code-read", "paper-read", "reconstruction", "own"]


@dataclasses.dataclass(frozen=True)
class PresetFile:
    """One preset, with what it inherits merged in.

    Attributes:
        name: file name without ``.yaml``.
        algorithm: name in :data:`sdgym.algos.algorithms`.
        title, paper: for people.
        status: what the numbers rest on; reconstructions stay out of rankings.
        about: equation, deviations and traps of a preset that shares its algorithm's file with others.
        config: settings of the algorithm.
        run: the source's own optimizer, sampling and batch sizes, in the layout of :class:`sdgym.config.RunConfig`.
    """

    name: str
    algorithm: str
    title: str
    paper: str
    status: Status
    config: Mapping[str, Any]
    run: Mapping[str, Any]
    about: str = ""


def preset_names() -> list[str]:
    """Return the names of all shipped presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@functools.cache
def load_preset(name: str) -> PresetFile:
    """Read a preset. Raises :class:`UnknownNameError` if there is none of that name."""
    if name not in preset_names():
        raise UnknownNameError("preset", name, preset_names())
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    if "like" in tree:
        base = load_preset(tree.pop("like"))
        tree = merge(dataclasses.asdict(base), tree)
    fields = {"title": "", "paper": "", "config": {}, "run": {}} | tree
    return PresetFile(**fields | {"name": name})


@functools.cache
def value_sources(name: str) -> Mapping[str, str]:
    """Return dotted setting → where a preset's value comes from: the comment beside it, inherited ones included."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    base = re.search(r"^like: (\w+)", text, re.MULTILINE)
    found = dict(value_sources(base[1])) if base else {}
    block, section = re.search(r"^config:.*\n((?:  .*\n)*)", text, re.MULTILINE), ""
    for line in (block[1] if block else "").splitlines():
        if match := re.match(r"( +)(\w+):(.*?)(?:\s+# (.*))?$", line):
            indent, key, value, source = match.groups()
            section = f"{key}." if len(indent) == 2 and not value.strip() else section if len(indent) > 2 else ""
            if value.strip() and source:
                found[f"{section}{key}"] = source
    return found


def algorithm_names() -> list[str]:
    """Return everything :func:`build_algorithm` accepts: presets and registered algorithms, sorted."""
    from sdgym.algos import algorithms

    return sorted({*preset_names(), *algorithms.names()})


def build_algorithm(name: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """Return a ready :class:`sdgym.algos.base.Algorithm`.

    Args:
        name: a preset (``dr_grpo``) or a registered algorithm (which then has its class's defaults).
        overrides: settings that differ from the preset's; nested mappings or dotted keys.

    Raises:
        UnknownNameError: no such preset or algorithm.
        ConfigError: an unknown setting (with the nearest one), a wrong value, or values that exclude each other.
    """
    cls, settings = resolve(name)
    for key, value in (overrides or {}).items():
        settings = merge(settings, nest(key.split("."), value))
    try:
        config = cls.Config.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ConfigError(f"algorithm {name!r}: {explain(error, cls.Config)}") from None
    try:
        return cls(config)
    except ConfigError as error:
        raise ConfigError(f"algorithm {name!r}: {error}") from None


def resolve(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the algorithm's class and the preset's settings. Raises :class:`UnknownNameError`."""
    from sdgym.algos import algorithms

    if name in preset_names():
        preset = load_preset(name)
        return algorithms.get(preset.algorithm), dict(preset.config)
    try:
        return algorithms.get(name), {}
    except UnknownNameError:
        raise UnknownNameError("algorithm", name, algorithm_names()) from None


def paper_run(name: str) -> dict[str, Any]:
    """Return the source's run settings of a preset (optimizer, sampling, batch sizes), {} where it has none."""
    return dict(load_preset(name).run) if name in preset_names() else {}
