"""``sdgym doctor``: what this installation has, one line each, with the fix for what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from typing import NamedTuple

import typer

EXTRAS = {"gguf": "quantised checkpoints", "ray": "sweeps over several machines", "peft": "adapters", "vllm": "generation on accelerators"}


class Finding(NamedTuple):
    """One line: ``ok`` is None for what is merely optional and absent."""

    ok: bool | None
    what: str
    detail: str


def _packages() -> Iterator[Finding]:
    from importlib import metadata  # costs a tenth of what `sdgym --help` may take

    for requirement in metadata.requires("sdgym-rl") or []:
        if "extra ==" in requirement:
            continue
        name = requirement.split(";")[0].split("<")[0].split(">")[0].split("=")[0].split("[")[0].strip()
        try:
            yield Finding(True, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(False, name, "missing: run `make install`, or `pip install -c constraints.txt -e .`")
    for name, use in EXTRAS.items():
        found = importlib.util.find_spec(name) is not None
        version = metadata.version(name) if found else f"not installed ({use})"
        yield Finding(True if found else None, name, version)


def _machine() -> Iterator[Finding]:
    import psutil

    yield Finding(sys.version_info >= (3, 11), "python", f"{platform.python_version()} at {sys.executable}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(True, "cores", str(cores))
    free = psutil.virtual_memory().available / 2**30
    yield Finding(free > 2, "free memory", f"{free:.1f} GiB" + ("" if free > 2 else ": less than the 2 GiB that a comparison needs"))


def _torch() -> Iterator[Finding]:
    import torch

    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, training runs on the CPU"
    yield Finding(True, "accelerator", accelerator)
    yield Finding(True, "torch threads", str(torch.get_num_threads()))


def _zoo() -> Iterator[Finding]:
    from sdgym.algos import algorithms
    from sdgym.commands.envs import environment_class
    from sdgym.envs import ENVIRONMENTS
    from sdgym.errors import UserError
    from sdgym.model_store import EMBEDDED, local_path

    for env_id in sorted(ENVIRONMENTS):
        try:
            environment_class(env_id)
            yield Finding(True, env_id, "loads")
        except UserError as error:
            yield Finding(False, env_id, str(error))
    for name in algorithms.names():
        try:
            algorithms.get(name)
            yield Finding(True, name, "loads")
        except UserError as error:
            yield Finding(False, name, str(error))
    policies = [name for name in EMBEDDED if local_path(name) is not None]
    yield Finding(bool(policies), "embedded policies", ", ".join(policies) or "none: the checkout is incomplete")


def _sandboxes() -> Iterator[Finding]:
    """Try every tier that could confine programs: one that holds is enough."""
    from sdgym.verifiers.sandbox import probes
    from sdgym.verifiers.sandbox.attacks import ATTACKS

    found = probes()
    usable = [probe.name for probe in found if not probe.problem]
    for probe in found:
        yield Finding(None if probe.problem else True, f"sandbox {probe.name}", probe.problem or f"holds against {len(ATTACKS)} attacks")
    yield Finding(
        True if usable else None,
        "submissions",
        f"confined by {usable[0]}" if usable else "sdgym/Code-v0 cannot judge programs here: see above",
    )


def doctor() -> None:
    """Check this installation and say how to mend it."""
    from rich.console import Console
    from rich.table import Table

    findings = [*_machine(), *_packages()]
    if all(f.ok is not False for f in findings):
        findings += [*_torch(), *_zoo(), *_sandboxes()]
    table = Table(box=None, show_header=False)
    marks = {True: "[green]ok[/]", False: "[red]bad[/]", None: "[dim]-[/]"}
    for finding in findings:
        table.add_row(marks[finding.ok], finding.what, finding.detail)
    Console().print(table)
    if any(f.ok is False for f in findings):
        raise typer.Exit(1)
