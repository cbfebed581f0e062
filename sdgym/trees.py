"""Settings as plain data: nested mappings from YAML files and ``key=value`` strings, merged and compared."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from sdgym.errors import ConfigError


def parse_set(text: str) -> dict[str, Any]:
    """Turn ``a.b=value`` into ``{"a": {"b": value}}``. Raises :class:`ConfigError` if it is not of that form."""
    key, sign, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not sign or not all(parts):
        raise ConfigError(f"--set takes key=value with dots between sections (for example optimizer.lr=1e-3), got {text!r}")
    try:
        return nest(parts, yaml.safe_load(value))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"the value of {key.strip()!r} is not YAML: {value!r} ({_first_line(error)})") from None


def nest(parts: Sequence[str], value: Any) -> dict[str, Any]:
    """Return ``{parts[0]: {parts[1]: … value}}``."""
    tree: Any = value
    for part in reversed(parts):
        tree = {part: tree}
    return tree  # type: ignore[no-any-return]


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` updated by ``top``, mappings merged key by key.

    ``algo: name`` in one and ``algo: {…}`` in the other refer to the same section.
    """
    out = dict(base)
    for key, value in top.items():
        old = out.get(key)
        main = {"algo": "name", "env": "id"}.get(key)
        if main and isinstance(old, str) and isinstance(value, Mapping):
            old = {main: old}
        if main and isinstance(value, str) and isinstance(old, Mapping):
            value = {main: value}
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def read_yaml(path: str | pathlib.Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises :class:`ConfigError` if there is no such file or it holds something else."""
    try:
        tree = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"the config file {str(path)!r} is not valid YAML: {_first_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"the config file {str(path)!r} must hold a mapping of sections, it holds a {type(tree).__name__}")
    return tree


def differences(a: Any, b: Any, path: str = "") -> Iterable[str]:
    """Yield ``key: old != new`` for every leaf where two dumped configs differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}, key=str):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield f"{path}: {a!r} != {b!r}"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
