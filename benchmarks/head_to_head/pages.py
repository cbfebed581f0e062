"""Recorded results and the verdicts on predictions, written into the pages of the algorithms and of the findings.

``python -m sdgym.benchmarks.head_to_head.pages`` renders what ``benchmarks/results/*/table.json``, ``contrasts.json`` and ``curves.json``
hold; ``--record SUITE`` first recomputes them from ``benchmarks/results/SUITE/runs.tar.gz``, the per-item records. Everything between
the two marks of a page is replaced; what people write stands outside of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import re
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sdgym.algos.presets import preset_names
from sdgym.benchmarks.head_to_head.expand import expand
from sdgym.benchmarks.head_to_head.pictures import curves_svg, dots_svg
from sdgym.benchmarks.head_to_head.predictions import Checked, Prediction, check, load_predictions
from sdgym.benchmarks.head_to_head.suite import load_suite, suite_names
from sdgym.errors import ConfigError
from sdgym.report.figures import arm_curves
from sdgym.report.load import Run
from sdgym.stats import Contrast, Estimate

START, END = "<!-- results: python -m sdgym.benchmarks.head_to_head.pages -->", "<!-- end of results -->"
RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
BASELINE, CONTROL_ARM = "grpo", re.compile(r"-P[0-3]$")
FAMILY = ("family", "family-hooks", "family-turns")
"""The suites of docs/findings-family.md; all others are those of docs/findings.md."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What is committed of one suite.

    Attributes:
        name: of the suite and of its folder in ``benchmarks/results``.
        rows: ``table.json``: one per world, policy and arm, as ``sdgym report DIR --json`` prints them.
        contrasts: ``contrasts.json``: the declared ones, over all worlds.
        curves: ``curves.json``: held-out success along training, one per world, policy and arm (:func:`learning_curves`).
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    contrasts: Sequence[Contrast]
    curves: Sequence[Mapping[str, Any]] = ()


def recorded(folder: pathlib.Path = RESULTS) -> list[Recorded]:
    """Return every recorded suite, the family's first."""
    names = sorted((path.parent.name for path in folder.glob("*/contrasts.json")), key=lambda n: (n not in FAMILY, n))
    return [load_recorded(name, folder) for name in names]


def load_recorded(name: str, folder: pathlib.Path = RESULTS) -> Recorded:
    """Read one. Raises :class:`ConfigError` where its files are not those that :func:`record` writes."""
    place = folder / name
    try:
        rows = json.loads((place / "table.json").read_text(encoding="utf-8"))
        curves = json.loads((place / "curves.json").read_text(encoding="utf-8"))
        plain = json.loads((place / "contrasts.json").read_text(encoding="utf-8"))
        contrasts = [
            Contrast(**c | {"difference": Estimate(**c["difference"]), "improvement": Estimate(**c["improvement"])}) for c in plain
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the recorded results in {str(place)!r} cannot be read ({error}): record them again") from None
    return Recorded(name, rows, contrasts, curves)


def record(name: str, folder: pathlib.Path = RESULTS) -> Recorded:
    """Recompute ``table.json``, ``contrasts.json`` and ``curves.json`` of a suite from the per-item records in its ``runs.tar.gz``.

    Raises:
        ConfigError: there is no such archive, or no comparison in it.
    """
    from sdgym.report import load_folder, table_rows
    from sdgym.report.analysis import analyse

    archive = folder / name / "runs.tar.gz"
    if not archive.is_file():
        raise ConfigError(f"there is no {str(archive)!r}: pack the comparison's folder there first")
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        found = next(pathlib.Path(unpacked).rglob("comparison.json"), None)
        if found is None:
            raise ConfigError(f"{str(archive)!r} holds no comparison.json")
        runs, details = load_folder(found.parent)
        analysis = analyse(found.parent, runs, details)
        rows, curves = table_rows(found.parent), learning_curves(runs)
    contrasts = [] if analysis is None else [dataclasses.asdict(contrast) for contrast in analysis.pooled]
    for file, value, indent in (("table.json", rows, 2), ("contrasts.json", contrasts, 2), ("curves.json", curves, None)):
        (folder / name / file).write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")
    return load_recorded(name, folder)


def learning_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return held-out success along training, one per world, policy and arm: the mean over its seeds, bounds from five on."""
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        if run.curve:
            groups.setdefault((run.env, run.level, run.model, run.arm), []).append(run)
    found = []
    for (env, level, model, arm), members in groups.items():
        drawn = arm_curves(members)
        success = {key: drawn["metrics"]["success"][key] for key in ("mean", "low", "high")}
        tokens = drawn["grids"]["eval"]["tokens"]
        found.append({"env": env, "level": level, "model": model, "arm": arm, "n": len(members), "tokens": tokens, **success})
    return found


# ---- which arm belongs to which page ------------------------------------------------------------


@functools.cache
def presets_of_arms() -> Mapping[str, str]:
    """Return arm → the preset or algorithm it runs, over the suites that come with sdgym, controls included."""
    arms = [arm for name in suite_names() for arm in expand(load_suite(name)).arms]
    return {arm.name: arm.algo for arm in arms}


def named_presets(page: str) -> tuple[str, ...]:
    """Return the presets that a page's sentence ``Preset: …`` or ``Presets: …`` names, in order."""
    sentence = re.search(r"Presets?: .*?(?:\.\s|\n\n|\Z)", page, re.DOTALL)
    known = set(preset_names())
    return tuple(dict.fromkeys(name for name in re.findall(r"`(\w+)`", sentence[0] if sentence else "") if name in known))


def is_of(arm: str, presets: Sequence[str]) -> bool:
    """Whether an arm runs one of ``presets``."""
    return presets_of_arms().get(arm, arm) in presets


# ---- text ---------------------------------------------------------------------------------------


def block(page: str, presets: Sequence[str], suites: Sequence[Recorded], predictions: Sequence[Prediction]) -> str:
    """Return what stands between the marks of ``page`` about ``presets``: predictions with their verdicts, then rows and curves."""
    mine = [p for p in predictions if is_of(p.treatment, presets)]
    parts = ["## Results"]
    if mine:
        parts.append(prediction_table(mine, suites))
    else:
        parts.append("No prediction was committed: no suite declares a contrast of it.")
    predicted = {(p.treatment, p.control) for p in predictions}
    tables = [text for suite in suites for text in (result_table(suite, presets, page), setting_table(suite, presets, predicted)) if text]
    again = [f"`{command(suite)}`" for suite in suites if any(is_of(row["arm"], presets) for row in suite.rows)]
    tables += [f"Again: {', '.join(again)}."] if again else []
    return "\n\n".join([*parts, *(tables or ["No recorded suite has an arm of it yet."])])


def command(suite: Recorded) -> str:
    """Return the command that makes a suite's runs again, with its worlds and number of seeds where they are not the suite's own."""
    parts, seeds = [f"sdgym compare {suite.name}"], max((row["after"]["n"] for row in suite.rows), default=0)
    worlds = dict.fromkeys(str(row["env"]) for row in suite.rows)
    if suite.name in suite_names():
        own = load_suite(suite.name)
        parts += [f"--envs {','.join(worlds)}"] if set(worlds) != {world.id for world in own.envs} else []
        parts += [f"--seeds {seeds}"] if seeds != own.seeds else []
    return " ".join(parts)


def prediction_table(predictions: Sequence[Prediction], suites: Sequence[Recorded]) -> str:
    """Return predictions as Markdown, a row per suite that tests one, one without a finding where none does."""
    lines = ["| predicted before any run | expected | suite | found (normalised gain) | n | result |", "|---|---|---|---|---|---|"]
    lines += [_verdict_row(prediction, found) for prediction in predictions for found in _checks(prediction, suites)]
    sources = [f"- {p.treatment} − {p.control}: {p.source}" for p in predictions]
    return "\n".join([*lines, "", "Where the expectations come from:", "", *sources])


def _checks(prediction: Prediction, suites: Sequence[Recorded]) -> list[tuple[str, Checked]]:
    found = [(suite.name, checked) for suite in suites for checked in check([prediction], suite.contrasts) if checked.contrast]
    return found or [("–", Checked(prediction, None))]


def _verdict_row(prediction: Prediction, found: tuple[str, Checked]) -> str:
    suite, checked = found
    difference = checked.contrast.difference if checked.contrast else None
    value, n = ("–", "–") if difference is None else (estimate(difference, signed=True), str(difference.n))
    return f"| {prediction.treatment} − {prediction.control} | {prediction.expect} | {suite} | {value} | {n} | {checked.result} |"


def result_table(suite: Recorded, presets: Sequence[str] | None = None, page: str = "") -> str:
    """Return a suite's rows as Markdown, one table per world with its picture; only arms of ``presets`` where they are given."""
    tables = []
    for place in dict.fromkeys((row["env"], row["level"], row["model"]) for row in suite.rows):
        rows = [row for row in suite.rows if (row["env"], row["level"], row["model"]) == place]
        shown = [row for row in rows if presets is None or is_of(row["arm"], presets)]
        if not shown:
            continue
        head = f"Suite `{suite.name}`, {place[0]} · level {place[1]} · policy `{place[2]}`, success on test:"
        lines = ["| arm | uses | before | after | 95 % interval | n | sampled tokens |", "|---|---|---|---|---|---|---|"]
        picture = f"![{suite.name} on {place[0]}](figures/{picture_name(page, suite, place)})"
        tables.append("\n".join([head, "", *lines, *map(_row, shown), "", picture]))
    return "\n\n".join(tables)


def setting_table(suite: Recorded, presets: Sequence[str], predicted: Collection[tuple[str, str]] = ()) -> str:
    """Return a suite's contrasts between two arms of one page as Markdown, "" if it has none; ``predicted`` ones stand elsewhere."""
    mine = [c for c in suite.contrasts if is_of(c.treatment, presets) and is_of(c.control, presets)]
    mine = [c for c in mine if (c.treatment, c.control) not in predicted]
    if not mine:
        return ""
    head = f"Suite `{suite.name}`, one arm of this page against another, over its worlds (p: sign-flip test, Holm over the suite):"
    return "\n".join([head, "", *_contrast_lines(mine, "other")])


def picture_name(page: str, suite: Recorded, place: tuple[str, str, str]) -> str:
    """Return the file name of a picture: of a page's arms, or of the whole suite where ``page`` is empty."""
    parts = [page, suite.name, place[0].rpartition("/")[2].lower(), *place[1:]]
    return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part)) + ".svg"  # a policy may be a path


def pictures(page: str, suites: Sequence[Recorded], presets: Sequence[str] | None = None) -> dict[str, str]:
    """Return the pictures that :func:`result_table` names, file → SVG: curves beside GRPO's for a page, a dot per run for a suite."""
    found = {}
    for suite in suites:
        for place in dict.fromkeys((row["env"], row["level"], row["model"]) for row in suite.rows):
            rows = [row for row in suite.rows if (row["env"], row["level"], row["model"]) == place]
            arms = [row["arm"] for row in rows if presets is None or is_of(row["arm"], presets)]
            if arms and presets is None:
                found[picture_name(page, suite, place)] = dots_svg(rows, [arm for arm in arms if CONTROL_ARM.search(arm)])
            elif arms:
                drawn = [c for c in suite.curves if (c["env"], c["level"], c["model"]) == place and c["arm"] in (*arms, BASELINE)]
                found[picture_name(page, suite, place)] = curves_svg(drawn, [] if BASELINE in arms else [BASELINE])
    return found


def _row(row: Mapping[str, Any]) -> str:
    before, after = Estimate(**row["before"]), Estimate(**row["after"])
    span = "n < 5" if after.low is None or after.high is None else f"{after.low:.1%} – {after.high:.1%}"
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    return f"| {row['arm']} | {row['supervision']} | {before.mean:.1%} | {after.mean:.1%} | {span} | {after.n}{failed} | {row['tokens']:,.0f} |"


def estimate(value: Estimate, signed: bool = False) -> str:
    """Return a mean with its interval where there is one."""
    form = "{:+.3f}" if signed else "{:.3f}"
    span = "" if value.low is None or value.high is None else f" [{form.format(value.low)}, {form.format(value.high)}]"
    return form.format(value.mean) + span


def findings_block(suites: Sequence[Recorded], predictions: Sequence[Prediction]) -> str:
    """Return the generated part of a page of findings: how the predictions fared in these suites, then every row and contrast."""
    if not suites:
        return "No suite of this page has been recorded yet."
    found = [(p, name, c) for p in predictions for name, c in _checks(p, suites) if c.contrast is not None]
    lines = [f"Of {len(predictions)} predictions these suites test {len({id(p) for p, _, _ in found})}: {tally([c for _, _, c in found])}."]
    lines += ["", "| predicted before any run | expected | suite | found (normalised gain) | n | result |", "|---|---|---|---|---|---|"]
    lines += [_verdict_row(p, (name, c)) for p, name, c in found]
    tables = [text for suite in suites for text in (f"`{command(suite)}`", result_table(suite), contrast_table(suite)) if text]
    return "\n\n".join(["## Predictions", "\n".join(lines), "## Results", *tables])


def contrast_table(suite: Recorded) -> str:
    """Return a suite's declared contrasts as Markdown, "" where it has too few runs for any of them to have an interval."""
    if all(c.difference.low is None for c in suite.contrasts):
        return ""
    head = f"Suite `{suite.name}`, every declared contrast (normalised gain over its worlds and policies; p: sign-flip test, Holm):"
    return "\n".join([head, "", *_contrast_lines(suite.contrasts, "control")])


def _contrast_lines(contrasts: Sequence[Contrast], other: str) -> list[str]:
    lines = [f"| arm − {other} | normalised gain | n | p | result |", "|---|---|---|---|---|"]
    for c in contrasts:
        p = "–" if c.p_holm is None else f"{c.p_holm:.3f}"
        lines.append(f"| {c.treatment} − {c.control} | {estimate(c.difference, signed=True)} | {c.difference.n} | {p} | {c.verdict} |")
    return lines


def tally(found: Sequence[Checked]) -> str:
    """Return how many predictions had which result, and in how many the difference has the expected sign."""
    counts = {result: sum(c.result == result for c in found) for result in dict.fromkeys(c.result for c in found)}
    expected = sum((c.contrast.difference.mean > 0) == (c.prediction.expect == "higher") for c in found if c.contrast)
    return ", ".join([*(f"{count} {result}" for result, count in counts.items()), f"{expected} of {len(found)} with the expected sign"])


def updated(page: str, text: str) -> str:
    """Return ``page`` with ``text`` between its marks; a page without marks gets them at its end.

    Raises:
        ConfigError: one of the marks is there without the other.
    """
    if (START in page) != (END in page):
        raise ConfigError(f"a page has one of the marks {START} and {END} without the other")
    body = f"{START}\n{text}\n{END}"
    if START not in page:
        return f"{page.rstrip()}\n\n{body}\n"
    before, rest = page.split(START, 1)
    return before + body + rest.split(END, 1)[1]


def pages(docs: pathlib.Path = DOCS) -> dict[pathlib.Path, str]:
    """Return every page with results as it should be, and its pictures: ``docs/algorithms``, docs/findings.md and docs/findings-family.md.

    Raises:
        ConfigError: there is no ``docs`` folder (an installed package has none).
    """
    if not docs.is_dir():
        raise ConfigError(f"there is no folder {str(docs)!r}: pages are written in a checkout of the project")
    suites, predictions = recorded(), load_predictions()
    found = {}
    for path in sorted((docs / "algorithms").glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if presets := named_presets(page):
            found[path] = updated(page, block(path.stem, presets, suites, predictions))
            found |= {path.parent / "figures" / name: svg for name, svg in pictures(path.stem, suites, presets).items()}
    for name, mine in (
        ("findings.md", [s for s in suites if s.name not in FAMILY]),
        ("findings-family.md", [s for s in suites if s.name in FAMILY]),
    ):
        found |= {docs / "figures" / file: svg for file, svg in pictures("", mine).items()}
        found[docs / name] = updated((docs / name).read_text(encoding="utf-8"), findings_block(mine, predictions))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages; see the module."""
    parser = argparse.ArgumentParser(prog="python -m sdgym.benchmarks.head_to_head.pages", description=__doc__)
    parser.add_argument(
        "--record", nargs="*", default=[], metavar="SUITE", help="recompute these suites' tables from their runs.tar.gz first"
    )
    for name in parser.parse_args(arguments).record:
        record(name)
    for path, text in pages().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
