"""Deaths exactly where they hurt: a forked child trains, and kills itself with SIGKILL at the n-th call of a chosen place.

``python -m sdgym.testing.killing`` is a process that has imported everything and computed nothing; for each JSON line on
standard input it forks a child and answers with one JSON line. A fork costs milliseconds where a fresh process costs
seconds, and a death at a named call can be repeated, which one after a random sleep cannot.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PLACES: Mapping[str, tuple[str, str]] = {
    "rollout": ("sdgym.generation.torch_sampler", "TorchSampler.tick"),
    "grading": ("sdgym.rollout", "RolloutDriver._digest"),
    "update": ("torch.optim.adamw", "AdamW.step"),
    "teacher": ("sdgym.teacher", "Teacher.after_step"),
    "trajectories": ("sdgym.buffer", "RolloutBuffer.save"),
    "checkpoint": ("sdgym.checkpoint", "_write_file"),
    "switch": ("os", "replace"),
    "log": ("sdgym.tracking", "RunFolder.append"),
    "evaluation": ("sdgym.evaluation", "majority_success"),
    "model": ("sdgym.policy", "Policy.save"),
    "report": ("sdgym.report.page", "render"),
}
"""Module and name of the function whose n-th call kills; ``checkpoint`` and ``log`` die with half of their bytes written."""


def die() -> None:
    """SIGKILL to oneself: no handler, no ``finally``, no flushed buffer."""
    os.kill(os.getpid(), signal.SIGKILL)


def half_checkpoint(path: pathlib.Path, data: bytes) -> None:
    """Write the first half of a checkpoint's file and die."""
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
    die()


def half_log(self: Any, log: str, records: Any) -> None:
    """Write a log's lines without their ends and die."""
    text = "".join(json.dumps(dict(record)) + "\n" for record in records)
    with open(self.path / log, "a", encoding="utf-8") as file:
        file.write(text[: len(text) - len(text) // 3])
    die()


TORN: Mapping[str, Callable[..., None]] = {"checkpoint": half_checkpoint, "log": half_log}


def arm(place: str | None, number: int) -> Counter[str]:
    """Count the calls of every place from now on; die at call ``number`` (from 1) of ``place``."""
    counts: Counter[str] = Counter()
    for name, (module_name, path) in PLACES.items():
        owner = importlib.import_module(module_name)
        *parents, last = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, last, _counted(getattr(owner, last), name, counts, number if name == place else 0))
    return counts


def _counted(function: Callable[..., Any], name: str, counts: Counter[str], fatal: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        if counts[name] == fatal:
            TORN.get(name, lambda *_, **__: die())(*arguments, **named)
        return function(*arguments, **named)

    return counted


def work(settings: Mapping[str, Any], out: pathlib.Path) -> None:
    """Train in ``out``, from wherever the last attempt got, and with ``report: True`` among the settings write the report."""
    import sdgym
    from sdgym.report import write_report

    if (out / "config.yaml").is_file():
        sdgym.train(out=out, resume=True)
    else:
        sdgym.train(out=out, **{name: value for name, value in settings.items() if name != "report"})
    if settings.get("report"):
        write_report(out)


class Zygote:
    """The process that forks; a context manager."""

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sdgym.testing.killing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def attempt(self, settings: Mapping[str, Any], out: pathlib.Path, place: str | None = None, number: int = 0) -> dict[str, Any]:
        """Let a child do :func:`work`; return ``{"killed": …, "code": …, "calls": {place: count}}`` (calls of a child that lived)."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"settings": settings, "out": str(out), "place": place, "number": number}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


def run_contents(out: pathlib.Path) -> dict[str, Any]:
    """Return everything a run leaves that must not depend on the clock: logs, rows bit for bit, digests, and every file's name."""
    from sdgym.buffer import RolloutBuffer

    logs = {
        name: [{k: v for k, v in json.loads(line).items() if k != "seconds" and not k.startswith("time/")} for line in lines]
        for name in ("metrics.jsonl", "eval.jsonl")
        for lines in [(out / name).read_text().splitlines()]
    }
    rows = {
        p.name: [(r.actions, r.segments[0].logprobs.tobytes()) for r in RolloutBuffer.load(p).rows]
        for p in (out / "trajectories").iterdir()
    }
    digests = {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.suffix == ".safetensors" or p.name in ("config.yaml", "ledger.json")
    }
    return {**logs, "rows": rows, "digests": digests}


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a run prints is no answer
    for module, _ in PLACES.values():
        importlib.import_module(module)
    for module in ("sdgym.trainer", "sdgym.report", "sdgym.testing_engine", "pyarrow.parquet", "sdgym.algos.sdpo"):
        importlib.import_module(module)
    for line in sys.stdin:
        answers.write(json.dumps(_fork(json.loads(line))) + "\n")
        answers.flush()


def _fork(order: Mapping[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with _leaving():
            counts = arm(order["place"], order["number"])
            work(order["settings"], pathlib.Path(order["out"]))
            with os.fdopen(write, "w") as pipe:
                json.dump({"calls": counts, "modules": sorted(sys.modules)}, pipe)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    answer = json.loads(told or '{"calls": {}, "modules": []}')
    for name in answer.pop("modules"):
        if name not in sys.modules:  # what this child had to import, the next one finds
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    return {"killed": killed, "code": os.waitstatus_to_exitcode(status), **answer}


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """A forked child never returns into its parent's loop, whatever happens."""
    try:
        yield
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    _serve()
