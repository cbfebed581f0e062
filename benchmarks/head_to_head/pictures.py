"""Pictures of recorded results as small SVG files that follow the reader's colour scheme: learning curves, and a dot per run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from sdgym.report.figures import CONTROL, PALETTE

WIDTH, LEFT, RIGHT, TOP = 640, 52, 150, 14
"""Of a picture in pixels; ``LEFT`` and ``RIGHT`` leave room for labels."""
CURVES_HEIGHT, BOTTOM, LINE = 260, 36, 15
COLOURS = [shades[:2] for i, shades in enumerate(PALETTE) if i != CONTROL]
GREY = PALETTE[CONTROL][:2]


def curves_svg(curves: Sequence[Mapping[str, Any]], faint: Sequence[str] = ()) -> str:
    """Return learning curves, success against sampled tokens: a line per arm with its name at its end.

    Args:
        curves: as ``curves.json`` holds them: ``arm``, ``tokens [L]``, ``mean [L]`` and, from five seeds on, ``low`` and ``high [L]``.
        faint: arms drawn in grey dashes, for comparison.
    """
    right = max([tokens for curve in curves for tokens in curve["tokens"]] + [1.0])
    bottom, width = CURVES_HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT
    body = [_shares(bottom)]
    body += [_text(LEFT + share * width, bottom + 16, f"{share * right:,.0f}", "middle") for share in (0.0, 0.5, 1.0)]
    body.append(_text(LEFT + width / 2, bottom + 31, "sampled tokens", "middle"))
    labels = _apart([_height(curve["mean"][-1], bottom) for curve in curves])
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        style = "faint" if curve["arm"] in faint else f"c{index % len(COLOURS)}"
        xs = [LEFT + tokens / right * width for tokens in curve["tokens"]]
        if curve["low"] is not None:
            there, back = _points(xs, curve["high"], bottom), _points(xs[::-1], curve["low"][::-1], bottom)
            body.append(f'<polygon class="{style} band" points="{there} {back}"/>')
        body.append(f'<polyline class="{style} line" points="{_points(xs, curve["mean"], bottom)}"/>')
        body.append(_text(LEFT + width + 8, label + 4, curve["arm"], "start", f"{style} name"))
    return _svg(CURVES_HEIGHT, body, f"Learning curves of {', '.join(str(curve['arm']) for curve in curves)}")


def dots_svg(rows: Sequence[Mapping[str, Any]], controls: Sequence[str] = ()) -> str:
    """Return the ends of all runs of one world, a line per arm from the best to the worst, a dot per seed; the start as a line.

    Args:
        rows: of ``table.json``: ``arm``, ``ends`` (one per seed), ``before`` and ``after``.
        controls: arms whose dots are hollow.
    """
    shown = sorted((row for row in rows if row["ends"]), key=lambda row: -row["after"]["mean"])
    bottom, left = TOP + LINE * len(shown), RIGHT
    width = WIDTH - left - 20
    start = shown[0]["before"]["mean"] if shown else 0.0
    body = [f'<line class="start" x1="{left + start * width:.1f}" x2="{left + start * width:.1f}" y1="{TOP}" y2="{bottom}"/>']
    body += [_text(left + share * width, bottom + 16, f"{share:.0%}", "middle") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body.append(_text(left + width / 2, bottom + 31, f"success on test after training; the line is the start, {start:.1%}", "middle"))
    for index, row in enumerate(shown):
        y, kind = TOP + LINE * (index + 0.5), "hollow" if row["arm"] in controls else "full"
        body.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>')
        body.append(_text(left - 8, y + 4, row["arm"], "end"))
        body += [f'<circle class="{kind}" cx="{left + end * width:.1f}" cy="{y}" r="3.5"/>' for end in row["ends"]]
    return _svg(bottom + BOTTOM, body, "Success after training, a dot per run")


def _svg(height: int, body: Sequence[str], title: str) -> str:
    light, dark = _style(0, "#222", "#ddd", "#777"), _style(1, "#ddd", "#444", "#999")
    style = f"text{{font:11px sans-serif}}.line{{fill:none;stroke-width:2}}.band{{stroke:none;fill-opacity:.12}}{light}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
    shades = f"<style>{style}@media(prefers-color-scheme:dark){{{dark}}}</style>"
    return "\n".join([head, f"<title>{escape(title)}</title>", shades, *body, "</svg>"]) + "\n"


def _style(shade: int, ink: str, grid: str, start: str) -> str:
    rules = [f"text{{fill:{ink}}}.grid{{stroke:{grid};stroke-width:.6}}.start{{stroke:{start};stroke-dasharray:4 3}}"]
    rules.append(f".full{{fill:{COLOURS[0][shade]}}}.hollow{{fill:none;stroke:{COLOURS[1][shade]}}}")
    for name, colour in [*((f"c{i}", c[shade]) for i, c in enumerate(COLOURS)), ("faint", GREY[shade])]:
        dashes = ";stroke-dasharray:5 4" if name == "faint" else ""
        rules.append(f".{name}.line{{stroke:{colour}{dashes}}}.{name}.band,.{name}.name{{fill:{colour}}}")
    return "".join(rules)


def _shares(bottom: int) -> str:
    """Return the horizontal grid, 0 to 100 %, with its labels."""
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _height(share, bottom)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 6, y + 4, f"{share:.0%}", "end"))
    return "\n".join(lines)


def _height(share: float, bottom: int) -> float:
    return bottom - share * (bottom - TOP)


def _points(xs: Sequence[float], ys: Sequence[float | None], bottom: int) -> str:
    known = ((x, y) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y))
    return " ".join(f"{x:.1f},{_height(y, bottom):.1f}" for x, y in known)


def _apart(heights: Sequence[float], gap: float = 13.0) -> list[float]:
    """Return label positions near ``heights``, in their order, at least ``gap`` apart."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed, last = list(heights), -math.inf
    for index in order:
        placed[index] = last = max(heights[index], last + gap)
    return placed


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(str(text))}</text>'
