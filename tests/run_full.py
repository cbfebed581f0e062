"""``make test-full``: every long lane, one at a time, restartable, with a result file that names the commit.

A lane is one test file with tests marked ``slow``. A lane that passed at this commit (and no uncommitted change) is
not run again; the result is rewritten after each lane, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time

from sdgym.benchmarks.speed.machine import commit

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULT = ROOT / "runs" / "test-full" / "result.json"
CLOSING = re.compile(r"^=*\s*((?:\d+ \w+(?:, )?)+) in [\d.]+s.*$", re.MULTILINE)


def lanes(*below: str) -> list[str]:
    """Return the test files that hold tests marked ``slow``, of all or of those ``below`` these paths; none is an error."""
    command = [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "--collect-only", "-q", "-m", "slow", *below]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = sorted({line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line})
    if done.returncode or not found:
        sys.exit(f"no long lane was found\n{done.stdout}{done.stderr}")
    return found


def load(name: str) -> dict[str, dict[str, object]]:
    """Return the lanes that passed at ``name``; none if the tree has uncommitted changes."""
    if not RESULT.is_file() or name == "unknown" or name.endswith("+changes"):
        return {}
    found = json.loads(RESULT.read_text())
    return {lane: r for lane, r in found["lanes"].items() if r["passed"]} if found["commit"] == name else {}


def main() -> int:
    """Run what has not passed yet; return 1 if a lane failed."""
    name = commit()
    results = load(name)
    todo = lanes()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    for lane in todo:
        if lane in results:
            print(f"{lane}: passed before at this commit")
            continue
        print(f"{lane}: running", flush=True)
        started = time.monotonic()
        log = RESULT.parent / (pathlib.Path(lane).stem + ".log")
        with log.open("w") as file:
            code = subprocess.run(
                [sys.executable, "-m", "pytest", "-m", "slow", lane], cwd=ROOT, stdout=file, stderr=file, check=False
            ).returncode
        closing = CLOSING.findall(log.read_text())
        results[lane] = {
            "passed": code == 0,
            "seconds": round(time.monotonic() - started, 1),
            "pytest": closing[-1] if closing else f"exit code {code}",
        }
        print(f"{lane}: {results[lane]['pytest']} ({results[lane]['seconds']} s)", flush=True)
        RESULT.write_text(json.dumps({"commit": name, "lanes": results}, indent=2) + "\n")
    RESULT.write_text(json.dumps({"commit": name, "lanes": results}, indent=2) + "\n")
    bad = [lane for lane, r in results.items() if not r["passed"]]
    print(f"{len(results) - len(bad)} of {len(results)} lanes passed at {name}; details in {RESULT.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
