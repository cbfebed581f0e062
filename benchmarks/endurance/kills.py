"""Runs that die by SIGKILL at random places, some of them twice, and must end with the bits of the run that nobody disturbed.

``python -m sdgym.benchmarks.endurance.kills --runs 30`` (about five minutes on one core) kills each run at a random call of a place:
in a rollout, while grading, in an optimizer or teacher step, with half a checkpoint, trajectory file or log line on the disk, between a
file and its new name, in an evaluation, while the model is saved, while the report is drawn. Three methods take turns, because they keep
different things: a moving average, a bank of skills, a teacher that learns.
The result is ``kills.json``; interrupted, the same command goes on with the runs that are missing.
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.benchmarks.endurance.record import Record, arguments
from sdgym.seeding import generator
from sdgym.testing.killing import PLACES, Zygote, run_contents
from sdgym.testing_engine import LETTERS_ID

SEED = 20_26
SETTINGS: Mapping[str, Any] = {
    "steps": 7,
    "tasks_per_step": 2,
    "group_size": 3,
    "threads": 1,
    "max_live": 8,
    "optimizer": {"lr": 2e-3, "schedule": "cosine"},
    "checkpoint": {"every": 2, "keep": 2},
    "env": {"id": LETTERS_ID, "turns": 2},
    "eval": {"every": 3, "tasks": 3, "samples": 2, "test_tasks": 3},
    "report": True,
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "sdpo": {"algo": {"name": "sdpo", "teacher": "ema", "teacher_rate": 0.2, "epochs": 2, "minibatches": 2}},
    "skill_sd": {"algo": {"name": "skill_sd"}},
    "vpd": {"algo": {"name": "vpd"}},
}


def differences(out: pathlib.Path, expected: Mapping[str, Any]) -> list[str]:
    """Return what a resumed run left otherwise than the undisturbed one, and what it left half done; nothing if all is well."""
    found = run_contents(out)
    told = [part for part in expected if found[part] != expected[part]]
    page = out / "report.html"
    if page.exists() and not page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        told.append("half a report")
    return told + sorted(f"left over: {path.name}" for path in out.rglob("*writing*"))


def undisturbed(zygote: Zygote, settings: Mapping[str, Any], out: pathlib.Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Return how often each place is called in a run that nobody disturbs, and what it leaves."""
    done = zygote.attempt(dict(settings), out)
    if done["code"] != 0 or done["killed"]:
        raise AssertionError(f"the undisturbed run ended with {done}")
    return done["calls"], run_contents(out)


def kill_one(
    zygote: Zygote, settings: Mapping[str, Any], out: pathlib.Path, run: int, calls: Mapping[str, int], expected: Any
) -> dict[str, Any]:
    """Kill run number ``run`` once or twice, let it come to its end and compare."""
    rng = generator(SEED, "kills", run)
    places = sorted(place for place in PLACES if calls.get(place))
    place = places[run % len(places)]
    deaths: list[dict[str, Any]] = [{"place": place, "call": int(rng.integers(1, calls[place] + 1)), "of": calls[place]}]
    if not zygote.attempt(dict(settings), out, place, deaths[0]["call"])["killed"]:
        return {"good": False, "place": place, "deaths": [], "differs": ["it did not die where it was told to"]}
    if rng.random() < 0.5:
        place = places[int(rng.integers(len(places)))]
        call = int(rng.integers(1, max(2, calls[place] // 4)))
        if zygote.attempt(dict(settings), out, place, call)["killed"]:
            deaths.append({"place": place, "call": call, "of": calls[place]})
    code = zygote.attempt(dict(settings), out)["code"]
    differs = [f"exit code {code}"] if code else differences(out, expected)
    return {"good": not differs, "place": deaths[0]["place"], "deaths": deaths, "differs": differs}


def kills(zygote: Zygote, runs: int, record: Record, folder: pathlib.Path, methods: Sequence[str] = tuple(METHODS)) -> int:
    """Kill what is missing of ``runs`` runs and return the exit code; a run that ended otherwise is kept in ``folder``."""
    from sdgym.testing_policy import random_policy

    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(folder / "model")
    known: dict[str, tuple[dict[str, Any], dict[str, int], dict[str, Any]]] = {}
    for run in range(runs):
        method = methods[run % len(methods)]
        if record.parts.get(f"run-{run}", {"good": False})["good"]:
            continue
        if method not in known:
            settings = {**SETTINGS, **METHODS[method], "model": str(folder / "model")}
            known[method] = (settings, *undisturbed(zygote, settings, folder / f"whole-{method}"))
        out = folder / f"run-{run}"
        shutil.rmtree(out, ignore_errors=True)
        part = kill_one(zygote, known[method][0], out, run, *known[method][1:])
        record.add(f"run-{run}", {"method": method, **part})
        if part["good"]:
            shutil.rmtree(out)
    deaths = [death["place"] for part in record.parts.values() for death in part["deaths"]]
    return record.close(runs=len(record.parts), deaths=len(deaths), places=len(set(deaths)), methods=len(methods))


def main() -> int:
    """Parse the arguments and kill."""
    chosen = arguments(__doc__, "runs", int, 30, "runs to kill (default 30)")
    record = Record(chosen.out / "kills.json", {"runs": chosen.runs})
    with tempfile.TemporaryDirectory(prefix="sdgym-kills-") as folder, Zygote() as zygote:
        return kills(zygote, chosen.runs, record, pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main())
