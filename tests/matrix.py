"""Does the tested set resolve for every supported Python? Writes the table of docs/support.md.

    make matrix                                       # prints the table; fails if a supported version does not resolve
    .venv/bin/python tests/matrix.py --into docs/support.md

For each version pip, told to take wheels of that Python for this platform and to install nothing, fetches the pinned set without
dependencies (but for torch, of which it only asks which versions there are: its wheels are large). That says whether wheels exist. Then
what each package requires under that Python is checked against the pins. Nothing is built, nothing is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
VERSIONS = ("3.11.9", "3.12.9", "3.13.5", "3.14.0")  # some patch release of each: packages may ask for one
PINS = (ROOT / "constraints.txt", ROOT / "docs" / "site" / "constraints.txt")
LARGE = "torch"
BEGIN, END = "<!-- matrix: tests/matrix.py -->", "<!-- end of matrix -->"


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found for one Python.

    Attributes:
        python: its version.
        found: packages of which there is a wheel at the pinned version.
        missing: those of which there is none.
        unmet: requirements that the pins do not satisfy, as sentences.
    """

    python: str
    found: int
    missing: Sequence[str]
    unmet: Sequence[str]

    @property
    def good(self) -> bool:
        """Whether the set resolves."""
        return not self.missing and not self.unmet


def read_pins(files: Iterable[pathlib.Path]) -> dict[str, str]:
    """Return name (normalised) and version of every pin."""
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if line and not line.startswith("#")}


def pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run pip as the user has set it up."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INPUT": "1"}, check=False)


def fetch(pins: Mapping[str, str], python: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the metadata of the pinned packages for ``python``, and those without a wheel."""
    wanted, missing = dict(pins), list[str]()
    version = wanted.pop(LARGE)
    asked = pip(["index", "versions", LARGE, "--python-version", python, "--only-binary", ":all:", "--json"])
    if asked.returncode or version not in json.loads(asked.stdout)["versions"]:
        missing.append(f"{LARGE}=={version}")
    while wanted:
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.json"
            place = ["--dry-run", "--ignore-installed", "--no-deps", "--target", folder, "--report", str(report), "--quiet"]
            names = [f"{name}=={number}" for name, number in wanted.items()]
            done = pip(["install", *place, "--python-version", python, "--only-binary", ":all:", *names])
            if done.returncode == 0:
                return [item["metadata"] for item in json.loads(report.read_text())["install"]], missing
        refused = re.search(r"No matching distribution found for ([\w.-]+)==", done.stderr)
        if refused is None:
            raise SystemExit(f"pip failed for Python {python}:\n{done.stderr[-2000:]}")
        name = canonicalize_name(refused[1])
        missing.append(f"{name}=={wanted.pop(name)}")
    return [], missing


def unmet(name: str, requirements: Iterable[str], pins: Mapping[str, str], python: str, extra: str = "") -> list[str]:
    """Return what ``name`` requires under ``python`` on this platform and the pins do not give."""
    environment = {**default_environment(), "python_version": python.rpartition(".")[0], "python_full_version": python, "extra": extra}
    found = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        pinned = pins.get(canonicalize_name(requirement.name))
        if pinned is None:
            found.append(f"{name} requires {requirement.name}, which is not pinned")
        elif not requirement.specifier.contains(pinned, prereleases=True):
            found.append(f"{name} requires {requirement.name}{requirement.specifier}, the pin is {pinned}")
    return found


def check(python: str, pins: Mapping[str, str]) -> Result:
    """Find out about one Python."""
    packages, missing = fetch(pins, python)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    problems = unmet("sdgym-rl", [*project["dependencies"], *extras["dev"], *extras["docs"]], pins, python)
    for package in packages:
        problems += unmet(package["name"], package.get("requires_dist") or (), pins, python)
        asked = package.get("requires_python")
        if asked and not Requirement(f"python{asked}").specifier.contains(python):
            problems.append(f"{package['name']} requires Python {asked}")
    # The wheel of torch is not fetched: what the installed one requires, less the CUDA libraries that other builds bring.
    own = [text for text in metadata.requires(LARGE) or () if not re.match(r"nvidia|cuda|triton", text)]
    return Result(
        python, len(packages) + (f"{LARGE}=={pins[LARGE]}" not in missing), missing, [*problems, *unmet(LARGE, own, pins, python)]
    )


def table(results: Sequence[Result], platform: str) -> str:
    """Return the results as Markdown."""
    lines = [
        f"Platform: {platform}.",
        "",
        "| Python | packages with a wheel | without | unmet requirements | resolves |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        cells = (r.python, str(r.found), ", ".join(r.missing) or "–", "; ".join(r.unmet) or "–", "yes" if r.good else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Check every version; 1 if one does not resolve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=list(VERSIONS))
    parser.add_argument("--into", type=pathlib.Path, help="replace the table of this page")
    chosen = parser.parse_args()
    pins, results = read_pins(PINS), list[Result]()
    for python in chosen.python:
        results.append(check(python, pins))
        print(f"Python {python}: {'resolves' if results[-1].good else 'does not resolve'}", flush=True)
    import sysconfig

    text = table(results, sysconfig.get_platform())
    print(text)
    if chosen.into:
        page = chosen.into.read_text()
        chosen.into.write_text(f"{page[: page.index(BEGIN) + len(BEGIN)]}\n{text}\n{page[page.index(END) :]}")
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
