"""Whether the pages of the algorithms explain what a run has logged."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
EVERYWHERE = DOCS / "algorithms.md"
"""The page with the metrics of every run."""


def explained(text: str) -> set[str]:
    """Return the metrics that the first cells of a page's tables and its sentences name in backticks; "…" ends a prefix."""
    return {name for name in re.findall(r"`([\w/@]+…?)`", text) if "/" in name or name in ("step", "seconds", "limits_fired")}


def unexplained(lines: Iterable[Mapping[str, float]], page: str) -> list[str]:
    """Return the metrics in ``lines`` that neither ``docs/algorithms/PAGE.md`` nor ``docs/algorithms.md`` explains, sorted."""
    known = set().union(*(explained(path.read_text(encoding="utf-8")) for path in (DOCS / "algorithms" / f"{page}.md", EVERYWHERE)))
    prefixes = tuple(name.removesuffix("…") for name in known if name.endswith("…"))
    return sorted({name for line in lines for name in line if name not in known and not name.startswith(prefixes)})
