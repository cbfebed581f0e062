"""The table of docs/speed.md and those of the worlds' pages, written from recorded measurements and from nothing else.

    python -m sdgym.benchmarks.speed.page

A record is what a benchmark of this folder left with ``--out benchmarks/results/speed/NAME.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RECORDS, DOCS = ROOT / "benchmarks" / "results" / "speed", ROOT / "docs"
WORLDS = {
    "math": ("sdgym/Math-v0",),
    "sokoban": ("sdgym/Sokoban-v0",),
    "code": ("sdgym/Code-v0",),
    "toolworld": ("sdgym/ToolWorld-v0",),
    "derived": ("sdgym/TwoTurn-v0", "sdgym/Steps-v0"),
}
"""Page below docs/environments → the worlds that it is about."""
START, END = "<!-- measured: python -m sdgym.benchmarks.speed.page -->", "<!-- end of measured -->"


class Line(NamedTuple):
    """One row: what was measured, the number, its bar and on which side of it the number must lie ("≥" or "≤")."""

    what: str
    value: float
    unit: str
    side: str
    bar: float

    @property
    def met(self) -> bool:
        """Whether the number is on the right side of its bar."""
        return self.value >= self.bar if self.side == "≥" else self.value <= self.bar


def rollout(record: Mapping[str, Any]) -> Iterator[Line]:
    """Tokens per second against transformers."""
    best = record["best"]["transformers"]
    yield Line(f"rollout against `transformers.generate` at its best ({best.removeprefix('generate ')})", record["ratio"], "×", "≥", 3)


def grpo_step(record: Mapping[str, Any]) -> Iterator[Line]:
    """A whole step against TRL."""
    yield Line("a GRPO step, rollouts and update, against TRL 1.16 at its best thread count", record["ratio"], "×", "≥", 2)


def math_grading(record: Mapping[str, Any]) -> Iterator[Line]:
    """Answers per second against math-verify, and wrong verdicts."""
    yield Line("grading 1,000 answers against math-verify as documented", record["ratio"]["default"], "×", "≥", 3)
    yield Line("the same without its timeouts", record["ratio"]["no_timeouts"], "×", "≥", 3)
    yield Line("share of these answers that need no worker process", 100 * record["fast_path_share"], "%", "≤", 40)
    yield Line(f"false accepts (math-verify: {record['math_verify_false_accepts']})", record["false_accepts"], "", "≤", 0)


def sandbox(record: Mapping[str, Any]) -> Iterator[Line]:
    """Starts of a bare interpreter."""
    if "bwrap" in record["ratio"]:
        yield Line(f"a submission with {record['tests']} tests in a new bwrap sandbox", record["ratio"]["bwrap"], "starts", "≤", 5)
    if "docker" in record["ratio"]:
        yield Line("a test in a warm Docker worker", record["ratio_per_test"]["docker"], "starts", "≤", 1)


def toolworld(record: Mapping[str, Any]) -> Iterator[Line]:
    """Resets and calls."""
    yield Line("ToolWorld: a reset, `hard`", record["reset_ms"], "ms", "≤", 1)
    yield Line("ToolWorld: a call that reads one row", record["call_ms"]["mail.show"], "ms", "≤", 0.05)


def sokoban(record: Mapping[str, Any]) -> Iterator[Line]:
    """Steps and levels."""
    made = {name: found["median_ms"] for name, found in record["generation"].items()}
    yield Line("Sokoban: steps of the rules per second", record["steps_per_second"] / 1e6, "million", "≥", 2)
    yield Line("Sokoban: a 6×6 level with one box and its proof, median", made["6x6, 1 box, 3-6 pushes"], "ms", "≤", 1.5)
    yield Line("Sokoban: an 8×8 level with two boxes and its proof, median", made["8x8, 2 boxes, 6-20 pushes"], "ms", "≤", 7)


def chunked_loss(record: Mapping[str, Any]) -> Iterator[Line]:
    """Memory and time of the chunked head."""
    shape = f"T = {record['tokens']:,}, V = {record['vocabulary']:,}"
    yield Line(f"memory of the dense head over that of the chunked one, {shape}", record["memory_ratio"], "×", "≥", 5)
    yield Line("processor time of the chunked head over that of the dense one", record["cpu_time_ratio"], "×", "≤", 1.4)


BENCHMARKS: tuple[Callable[[Mapping[str, Any]], Iterator[Line]], ...] = (
    rollout,
    grpo_step,
    math_grading,
    sandbox,
    toolworld,
    sokoban,
    chunked_loss,
)


def table(folder: Path = RECORDS) -> str:
    """Return the table in Markdown, one row per number that has a bar."""
    rows = ["| what | measured | wanted | command | load, commit |", "|---|---|---|---|---|"]
    for benchmark in BENCHMARKS:
        path = folder / f"{benchmark.__name__}.json"
        if not path.is_file():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        machine = record["machine"]
        for line in benchmark(record):
            missed = "" if line.met else " **missed**"
            rows.append(
                f"| {line.what} | {line.value:.3g} {line.unit}{missed} | {line.side} {line.bar:g} "
                f"| `{benchmark.__name__}` | {machine['load_1min']:g}, {machine.get('commit', '–')[:7]} |"
            )
    return "\n".join(rows)


def digits(value: float) -> str:
    """Return two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def worlds(env_ids: Sequence[str], folder: Path = RECORDS) -> str:
    """Return the table of some worlds: oracle, novice and processor time, level by level."""
    record = json.loads((folder / "environments.json").read_text(encoding="utf-8"))
    rows = ["| level | oracle | novice | new task with its proof, ms | reset or step, ms |", "|---|---|---|---|---|"]
    for row in record["rows"]:
        if row["env"] in env_ids:
            name = f"`{row['level']}`" if len(env_ids) == 1 else f"{row['env'].removeprefix('sdgym/')}, `{row['level']}`"
            novice = "–" if row["novice"] is None else f"{row['novice']:.0%}"
            rows.append(f"| {name} | {row['oracle']:.0%} | {novice} | {digits(row['task_ms'])} | {digits(row['step_ms'])} |")
    told = f"{record['rows'][0]['tasks']} tasks per level, processor time of one core ({record['machine']['cpu']}), commit {record['machine']['commit'][:7]}"
    return "\n".join([*rows, "", f"(`python -m sdgym.benchmarks.speed.environments`: {told}.)"])


def pages() -> dict[Path, str]:
    """Return every page with measurements as it should be."""
    found = {DOCS / "speed.md": table()} | {DOCS / "environments" / f"{name}.md": worlds(ids) for name, ids in WORLDS.items()}
    return {path: updated(path.read_text(encoding="utf-8"), block) for path, block in found.items()}


def updated(text: str, block: str) -> str:
    """Return ``text`` with ``block`` between the marks."""
    before, rest = text.split(START)
    return f"{before}{START}\n{block}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the tables into the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
