"""Millions of hostile inputs for everything that reads what a model or a file says: no crash, no hang, no reward.

``python -m sdgym.benchmarks.endurance.fuzz --inputs 1000000`` gives that many mutations to each reader (a hundredth to those that open a
file or play a world), and a tenth of them again under Atheris, which looks for new branches, where it is installed
(``pip install atheris``). An input is drawn from its reader's name and a number, so what fails is found again.
The result is ``fuzz.json``; interrupted, the same command goes on where it stopped, to the nearest hundred thousand inputs.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from typing import Any

from sdgym.benchmarks.endurance.record import Record, arguments
from sdgym.testing.fuzzing import TARGETS, campaign

CHUNK = 100_000


def mutations(record: Record, name: str, inputs: int) -> None:
    """Give what is missing of ``inputs`` mutations to the reader ``name``, a chunk at a time."""
    part: dict[str, Any] = record.parts.get(name, {"good": True, "asked": 0, "inputs": 0, "seconds": 0.0, "failures": []})
    while part["asked"] < inputs and part["good"]:
        count, began = min(CHUNK, inputs - part["asked"]), time.monotonic()
        try:
            part["inputs"] += campaign(name, count, seed=part["asked"] // CHUNK)
        except AssertionError as error:
            part["good"], part["failures"] = False, [str(error)]
        part["asked"] += count
        part["seconds"] = round(part["seconds"] + time.monotonic() - began, 1)
        record.add(name, part)


def guided(record: Record, name: str, runs: int) -> None:
    """Let Atheris look for inputs that reach new code of the reader ``name``."""
    if record.parts.get(f"{name}, guided", {"good": False})["good"]:
        return
    command = [sys.executable, "-m", "sdgym.testing.fuzzing", name, f"-runs={runs}", "-timeout=10", "-rss_limit_mb=4096", "-seed=1"]
    began = time.monotonic()
    done = subprocess.run([*command, "-print_final_stats=1"], capture_output=True, text=True, check=False)
    executed = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    part = {"good": done.returncode == 0, "inputs": int(executed[-1]) if executed else 0, "seconds": round(time.monotonic() - began, 1)}
    record.add(f"{name}, guided", {**part, "failures": [] if part["good"] else [(done.stdout + done.stderr)[-2000:]]})


def main() -> int:
    """Parse the arguments and fuzz."""
    chosen = arguments(__doc__, "inputs", int, 1_000_000, "mutations per reader (default 1000000)")
    atheris = importlib.util.find_spec("atheris") is not None
    record = Record(chosen.out / "fuzz.json", {"inputs": chosen.inputs, "atheris": atheris})
    for name in sorted(TARGETS):
        mutations(record, name, chosen.inputs)
        if atheris and not TARGETS[name].slow:
            guided(record, name, max(1, chosen.inputs // 10))
    if not atheris:
        print("atheris is not installed: no coverage-guided inputs")
    return record.close(readers=len(TARGETS), inputs=sum(part["inputs"] for part in record.parts.values()))


if __name__ == "__main__":
    sys.exit(main())
