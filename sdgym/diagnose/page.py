"""The probe's page: bars of alignment with intervals, what noise leaves, and the table; one file that works offline."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from sdgym.diagnose.alignment import SIGNALS, Group

COLOURS = {"forward_kl": "#0072b2", "reverse_kl": "#d55e00", "jensen_shannon": "#009e73"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .note { color: #555 }
"""
READING = (
    "At a prefix of an attempt the student's likeliest tokens are forced one after another, and the answers are finished and judged many "
    "times: that gives the direction in which the reward would move the student's probabilities. A bar is the mean cosine between this "
    "direction and the one in which a distillation loss moves them: 1 the same way, 0 unrelated, below 0 against the reward. "
    "The grey mark is the cosine between two halves of the finished answers: noise alone keeps a perfect teacher from exceeding it by much. "
    "Prefixes where every candidate does equally well have no direction and are left out; their share is 1 − decided."
)


def cells(group: Group) -> list[str]:
    """Return one line of the table as text: name, states, decided, one column per signal, reliability."""
    return [group.name, str(group.states), f"{group.decided:.0%}", *(estimate(group, s) for s in SIGNALS), number(group.reliability)]


HEAD = ("states", "n", "decided", *(s.replace("_", " ") for s in SIGNALS), "halves agree")


def estimate(group: Group, signal: str) -> str:
    """Return the mean cosine with its interval, and – where there is none."""
    found = group.aligned[signal]
    if found.low is None or found.high is None:
        return number(found.mean)
    return f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]"


def number(value: float) -> str:
    """Return two decimals with a sign, – for NaN."""
    return f"{value:+.2f}" if math.isfinite(value) else "–"


def page(groups: Sequence[Group], facts: Mapping[str, str]) -> str:
    """Return the HTML page; everything in it is escaped."""
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(group)) + "</tr>" for group in groups)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in HEAD)
    listed = " · ".join(f"{html.escape(key)} {html.escape(value)}" for key, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Gradient alignment</title><style>{STYLE}</style>'
        f'<h1>Does the teacher point where the reward does?</h1><p class="note">{listed}</p>{figure(groups)}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><h2>How to read this</h2><p>{html.escape(READING)}</p>"
        '<p class="note">After "Unmasking On-Policy Distillation", arXiv 2605.10889. Intervals: 95 %, bootstrap over tasks.</p></html>\n'
    )


def figure(groups: Sequence[Group]) -> str:
    """Return the bars as an HTML fragment with the plotting library inside."""
    import plotly.graph_objects as go

    names = [group.name for group in groups]
    chart = go.Figure()
    for signal in SIGNALS:
        found = [group.aligned[signal] for group in groups]
        above = [0.0 if e.high is None else e.high - e.mean for e in found]
        below = [0.0 if e.low is None else e.mean - e.low for e in found]
        bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2}
        chart.add_bar(name=signal.replace("_", " "), x=names, y=[_plain(e.mean) for e in found], error_y=bars, marker_color=COLOURS[signal])
    marks = {"symbol": "line-ew-open", "size": 28, "color": "#6b6b6b", "line": {"width": 3}}
    ceiling = [_plain(group.reliability) for group in groups]
    chart.add_scatter(name="two halves of the branches", x=names, y=ceiling, mode="markers", marker=marks)
    chart.update_layout(
        barmode="group",
        template="plotly_white",
        height=460,
        margin={"t": 50, "b": 130},
        yaxis={"title": "mean cosine", "range": [-1.1, 1.1]},
        legend={"orientation": "h", "y": 1.12},
    )
    return str(chart.to_html(full_html=False, include_plotlyjs=True, div_id="alignment", config={"displaylogo": False}))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
