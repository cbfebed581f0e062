"""Values that cross the boundary: JSON with one-letter tags, read with the suspicion that a stranger wrote it."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH = 64
RELATIVE, ABSOLUTE = 1e-9, 1e-12


def decode(data: Any, depth: int = 0) -> Any:
    """Return the plain value of decoded JSON written by the runner's ``Encoder``.

    Raises:
        ValueError: not what an encoder writes (forged, or nested too deeply).
    """
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str):
        raise ValueError("not a tagged value")
    tag, payload = data[0], data[1:]
    try:
        if tag == "i":
            return int(payload[0], 16)
        if tag == "f":
            return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[payload[0]]
        if tag == "b":
            return bytes.fromhex(payload[0])
        if tag == "c":
            return complex(decode(payload[0], depth + 1), decode(payload[1], depth + 1))
        if tag == "d":
            return {frozen(decode(key, depth + 1)): decode(value, depth + 1) for key, value in payload[0]}
        items = [decode(item, depth + 1) for item in payload[0]]
        if tag == "s":
            return frozenset(map(frozen, items))
        return {"l": list, "t": tuple}[tag](items)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("not a tagged value") from error


def loads(text: str) -> Any:
    """Return the JSON in ``text``. Raises ValueError for anything that is not JSON, however odd."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def frozen(value: Any) -> Any:
    """Return ``value`` as something that can be a member of a set: lists become tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return value


def same(expected: Any, got: Any) -> bool:
    """Return whether two plain values are equal: lists and tuples fold, ``True`` is not 1, floats agree to nine digits."""
    if isinstance(expected, bool) or isinstance(got, bool):
        return isinstance(expected, bool) and isinstance(got, bool) and expected == got
    if isinstance(expected, int) and isinstance(got, int):
        return expected == got
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return _near(expected, got)
    if isinstance(expected, complex) and isinstance(got, complex | int | float):
        return _near(expected.real, complex(got).real) and _near(expected.imag, complex(got).imag)
    if isinstance(expected, list | tuple):
        return isinstance(got, list | tuple) and len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict):
        return isinstance(got, dict) and expected.keys() == got.keys() and all(same(value, got[key]) for key, value in expected.items())
    if isinstance(expected, set | frozenset):
        return isinstance(got, set | frozenset) and set(map(frozen, expected)) == set(got)
    return type(expected) is type(got) and bool(expected == got)


def _near(expected: float, got: float) -> bool:
    try:
        return expected == got or math.isclose(expected, got, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (expected != expected and got != got)
    except OverflowError:  # an integer beyond the range of floats
        return False


def same_output(expected: str, got: str) -> bool:
    """Return whether two printed texts agree: trailing spaces and newlines aside, or word by word. Case counts."""
    lines = [[line.rstrip() for line in text.rstrip().splitlines()] for text in (expected, got)]
    return lines[0] == lines[1] or expected.split() == got.split()
