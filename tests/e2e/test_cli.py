"""The command line as a user meets it: what works, and one sentence with exit code 2 for every kind of mistake."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from sdgym.cli import execute
from sdgym.model_store import local_path
from sdgym.testing_policy import random_policy

SMALL = [
    "--set",
    "tasks_per_step=2",
    "--set",
    "group_size=2",
    "--set",
    "eval.tasks=2",
    "--set",
    "eval.samples=1",
    "--set",
    "eval.test_tasks=2",
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random policy as a folder."""
    folder = tmp_path_factory.mktemp("policy") / "random"
    random_policy(seed=0).save(folder)
    return str(folder)


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


MISTAKES = {
    "command": (["trian"], r"No such command 'trian'.*'train'"),
    "option": (["train", "--modle", "x"], r"--modle.*--model"),
    "subcommand": (["envs", "lst"], r"No such command 'lst'.*'list'"),
    "number": (["train", "--steps", "many"], r"'--steps'.*integer"),
    "zero steps": (["train", "--steps", "0"], r"'steps'.*0"),
    "algorithm": (["train", "--algo", "grop"], r"no algorithm called 'grop': did you mean 'grpo'"),
    "environment": (["train", "--env", "sdgym/Mth-v0"], r"no environment called 'sdgym/Mth-v0': did you mean 'sdgym/Math-v0'"),
    "level": (["train", "--level", "tinny"], r"no level called 'tinny': did you mean 'tiny'"),
    "split": (["train", "--split", "tset"], r"no split called 'tset': did you mean 'test'"),
    "device": (["train", "--device", "gpu"], r"'device'.*gpu"),
    "dtype": (["train", "--dtype", "fp32"], r"'dtype'.*float32.*fp32"),
    "threads": (["train", "--threads", "0"], r"'threads'.*0"),
    "seed": (["train", "--seed", "-1"], r"'seed'.*-1"),
    "key": (["train", "--set", "optimizer.lrr=1"], r"no setting 'optimizer.lrr': did you mean 'lr'"),
    "key of the algorithm": (["train", "--set", "algo.clip_hihg=1"], r"clip_hihg.*did you mean 'clip_high'"),
    "form of --set": (["train", "--set", "steps"], r"key=value"),
    "config": (["train", "--config", "none.yaml"], r"none\.yaml.*No such file"),
    "model": (["train", "--model", "tinny"], r"tinny"),
    "data": (["train", "--data", "none.jsonl"], r"none\.jsonl"),
    "resume": (["train", "--resume", "--out", "nowhere"], r"holds no run to resume"),
    "eval environment": (["eval", "--env", "sdgym/Mth-v0"], r"did you mean 'sdgym/Math-v0'"),
    "eval episodes": (["eval", "--episodes", "0"], r"--episodes must be at least 1"),
    "eval setting": (["eval", "--set", "sampling.temperature=0.5"], r"does not read the setting 'sampling.temperature'"),
    "eval split": (["train", "--set", "eval.split=test"], r"eval: split=test would read the test tasks during training"),
    "module": (["train", "--env", "nowhere:mine/World-v0"], r"cannot be loaded: .*nowhere"),
    "id in a module": (["eval", "--env", "json:mine/World-v0"], r"cannot be loaded: .*mine"),
    "diagnose step": (["algos", "diagnose", "tiny", "--step", "3"], r"'tiny' is no run folder"),
    "compare model": (["compare", "--set", "model=tiny-b"], r"own 'model'.*--model"),
    "compare threads": (["compare", "--threads", "0"], r"threads must be at least 1"),
    "suite": (["compare", "quikc"], r"no suite called 'quikc': did you mean 'quick'"),
    "suite file": (["compare", "none.yaml"], r"none\.yaml"),
    "compare algos": (["compare", "--algos", "grop"], r"no algorithm called 'grop'"),
    "compare envs": (["compare", "--envs", "maths"], r"no environment called 'maths'"),
    "compare seeds": (["compare", "--seeds", "0"], r"--seeds must be at least 1"),
    "compare set": (["compare", "--set", "stpes=3"], r"no setting 'stpes': did you mean 'steps'"),
    "report": (["report", "nowhere"], r"there is no folder 'nowhere'"),
    "watch": (["watch", "nowhere", "--once"], r"there is no folder 'nowhere'"),
    "check": (["envs", "check", "sdgym/Mth-v0"], r"did you mean 'sdgym/Math-v0'"),
    "play": (["envs", "play", "sdgym/Math-v0", "--level", "tinny"], r"did you mean 'tiny'"),
    "new name": (["envs", "new", "3 !"], r"cannot be a Python name"),
    "new standard name": (["envs", "new", "json"], r"shadow Python's own module 'json'"),
    "new folder": (["algos", "new", "Mine", "--dir", "nowhere"], r"'nowhere' does not exist"),
    "show": (["algos", "show", "dappo"], r"did you mean 'dapo'"),
    "fetch": (["model", "fetch", "smolm"], r"no fetchable model called 'smolm'"),
    "pretrain": (["model", "pretrain", "--env", "sdgym/Mth-v0", "--out", "p"], r"did you mean 'sdgym/Math-v0'"),
    "pretrain what": (["model", "pretrain", "--out", "p"], r"--env.*or.*--recipe"),
    "pretrain recipe": (["model", "pretrain", "--recipe", "tinny", "--out", "p"], r"no recipe called 'tinny': did you mean 'tiny'"),
    "missing argument": (["report"], r"DIR"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    name: str, here: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, pattern = MISTAKES[name]
    assert execute(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error
    assert re.search(pattern, error), error
    assert not list(here.glob("runs/*/config.yaml")), "nothing was started"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sdgym.report.write_report", broken)
    with pytest.raises(ZeroDivisionError):
        execute(["report", "."])


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["envs"], ["sdgym/Math-v0", "sdgym/Sokoban-v0", "tiny"]),
        (["envs", "list"], ["sdgym/Math-v0"]),
        (["algos", "list"], ["grpo", "dr_grpo", "opsd_v3", "sdpo_rich", "sharpen", "reconstruction"]),
        (["algos", "show", "sdpo"], ["arXiv 2601.20802", "Deviations", "teacher_rate: 0.01"]),
        (["model", "list"], ["tiny", "smollm2-135m"]),
        (["--version"], ["sdgym 0."]),
        (["--help"], ["train", "compare", "doctor"]),
    ):
        assert execute(arguments) == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words), (arguments, text)


def test_train_resume_evaluate_report(here: pathlib.Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["train", "--algo", "grpo", "--env", "sdgym/Math-v0", "--model", model, "--steps", "1", "--out", "run", *SMALL]
    assert execute(start) == 0
    assert capsys.readouterr().out.startswith("device cpu, dtype float32, threads 1")
    assert {p.name for p in (here / "run").iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "eval.jsonl",
        "ledger.json",
        "model",
        "trajectories",
    }

    assert execute(start) == 2, "a folder in use needs --resume"
    assert "add --resume" in capsys.readouterr().err
    assert execute(["train", "--out", "run", "--resume", "--algo", "rft"]) == 2, "conflicting arguments are refused"
    assert "algo.name: 'grpo' != 'rft'" in capsys.readouterr().err
    assert execute(["train", "--out", "run", "--resume"]) == 0

    assert execute(["report", "run"]) == 0 and (here / "run" / "report.html").is_file()
    assert execute(["watch", "run", "--once"]) == 0
    capsys.readouterr()
    assert execute(["eval", "--model", "run/model", "--episodes", "2", "--set", "eval.samples=2", "--json", "--out", "measured"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["n"]) == ("test", 2.0)
    assert len((here / "measured" / "eval.jsonl").read_text().splitlines()) == 2

    again = ["eval", "--model", "run/model", "--set", "eval.samples=2", "--resume", "--out"]
    assert execute([*again, "measured", "--episodes", "2"]) == 0 and "is there already" in capsys.readouterr().err
    assert execute([*again, "measured", "--episodes", "3"]) == 2, "the records are of another evaluation"
    assert "episodes: 2 != 3" in capsys.readouterr().err
    assert execute([*again, "run", "--episodes", "2"]) == 2 and "are of no `sdgym eval`" in capsys.readouterr().err


def test_sigterm_saves_and_exits_143(here: pathlib.Path, model: str) -> None:
    command = [
        sys.executable,
        "-m",
        "sdgym",
        "train",
        "--model",
        model,
        "--steps",
        "100000",
        "--out",
        "run",
        *SMALL,
        "--set",
        "eval.every=0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics, deadline = here / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "continue with: sdgym train --out run --resume" in errors
    assert list((here / "run" / "checkpoints").glob("step_*"))


def test_play(here: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["I do not know", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert execute(["envs", "play", "sdgym/Math-v0", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert "reward 0" in text and "feedback:" in text and "not solved in 1 turn(s), return 0" in text


def test_play_can_be_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert execute(["envs", "play", "sdgym/Math-v0"]) == 0
    assert "given up" in capsys.readouterr().out


def test_a_new_environment_works_and_passes_its_own_test(here: pathlib.Path) -> None:
    assert execute(["envs", "new", "WordCount"]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_word_count.py"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_new_files_are_never_overwritten(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["algos", "new", "BestOfGroup"]) == 0
    (here / "best_of_group.py").write_text("mine")
    assert execute(["algos", "new", "best-of-group"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (here / "best_of_group.py").read_text() == "mine"


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code = execute(["doctor"])
    text = capsys.readouterr().out
    assert code == (0 if local_path("tiny") else 1)
    assert all(word in text for word in ("python", "cores", "torch", "sdgym/Math-v0", "grpo", "embedded policies"))
    assert all(f"sandbox {tier}" in text for tier in ("bwrap", "landlock", "docker"))
