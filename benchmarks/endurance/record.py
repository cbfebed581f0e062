"""The result of a long lane: one JSON file that names the commit and the machine, and grows part by part."""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from sdgym.benchmarks.speed.machine import commit, machine
from sdgym.files import replace_file

OUT = pathlib.Path("runs/endurance")


class Record:
    """Parts of a lane that are done. Those done at this very commit with these settings are kept, so an interrupted lane goes on.

    Args:
        path: of the JSON file.
        settings: what the lane was asked for.
        at: the commit; a tree with changes, or one that is no checkout, starts from nothing.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any], at: str | None = None) -> None:
        self.path, self.began = path, time.monotonic()
        at = commit() if at is None else at
        self._all: dict[str, Any] = {"lane": path.stem, "commit": at, "machine": machine(), "settings": dict(settings)}
        self._all |= {"passed": False, "seconds": 0.0, "parts": {}}
        if path.is_file() and at != "unknown" and not at.endswith("+changes"):
            old = json.loads(path.read_text(encoding="utf-8"))
            if (old["commit"], old["settings"]) == (at, dict(settings)):
                self._all = old
        self._before = float(self._all["seconds"])
        self.parts: dict[str, Any] = self._all["parts"]
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def passed(self) -> bool:
        """Whether the lane was completed, here or before, and every part of it is good."""
        return bool(self._all["passed"])

    def add(self, name: str, part: Mapping[str, Any]) -> None:
        """Write down what came of a part (``good`` says whether it passed) and tell it in a line."""
        self.parts[name] = dict(part)
        self._write()
        told = ", ".join(f"{key} {value}" for key, value in part.items() if key != "good" and not isinstance(value, list | dict))
        print(f"{name}: {'good' if part['good'] else 'BAD'}, {told}", flush=True)

    def close(self, **summary: Any) -> int:
        """Write the end: the lane passed if every part is good. Return the exit code."""
        self._all["passed"] = bool(self.parts) and all(part["good"] for part in self.parts.values())
        self._all["summary"] = summary
        self._write()
        told = ", ".join(f"{name} {value}" for name, value in summary.items())
        print(f"{self.path.stem}: {'passed' if self.passed else 'FAILED'} at {self._all['commit']}, {told}; written to {self.path}")
        return 0 if self.passed else 1

    def _write(self) -> None:
        self._all["seconds"] = round(self._before + time.monotonic() - self.began, 1)
        replace_file(self.path, json.dumps(self._all, indent=1) + "\n")


def arguments(description: str | None, name: str, kind: type, default: Any, what: str) -> argparse.Namespace:
    """Parse a lane's command line: how much, and into which folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{name}", type=kind, default=default, help=what)
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="folder of the result file")
    return parser.parse_args()
