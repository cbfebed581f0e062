"""Run folders written by hand, and a real headless Chromium spoken to over WebDriver by the standard library alone."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import shutil
import subprocess
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sdgym.buffer import RolloutBuffer
from sdgym.config import dump_config, make_config
from sdgym.core import Feedback, Outcome, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.recording import schema

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
]


class Browser:
    """One window."""

    def __init__(self, root: str, session: str) -> None:
        self.base = f"{root}/session/{session}"

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """Send one WebDriver command and return its value."""
        return command(self.base + path, body, method)

    def open(self, page: pathlib.Path) -> None:
        """Load ``page`` and wait until it says that it is ready."""
        self.ask("/url", {"url": page.as_uri()})
        self.wait("return document.documentElement.dataset.ready === 'true' || !document.getElementById('broken').hidden")
        self.frames()

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript and return what it returns."""
        return self.ask("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *arguments: Any, seconds: float = 60.0) -> None:
        """Wait until a script returns something true."""
        end = time.monotonic() + seconds
        while not self.run(condition, *arguments):
            assert time.monotonic() < end, f"did not come true in {seconds} s: {condition}"
            time.sleep(0.05)

    def frames(self) -> None:
        """Wait until what was asked for is drawn."""
        script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)));"
        self.ask("/execute/async", {"script": script, "args": []})

    def press(self, keys: str) -> None:
        """Type into whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})
        self.frames()

    def choose(self, element: str, value: str) -> None:
        """Set a select or input and tell the page, as a click would."""
        script = """const e = document.getElementById(arguments[0]); e.value = arguments[1];
            e.dispatchEvent(new Event("input", {bubbles: true})); e.dispatchEvent(new Event("change", {bubbles: true}));"""
        self.run(script, element, value)
        self.frames()

    def click(self, selector: str) -> None:
        """Click the first element that ``selector`` finds, as the mouse does."""
        found = self.ask("/element", {"using": "css selector", "value": selector})
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        self.ask(f"/element/{next(iter(found.values()))}/click", {})
        self.frames()

    def look(self, width: int, height: int, scheme: str) -> None:
        """Give the window a size and the reader a preference for ``light`` or ``dark``."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.frames()

    def cdp(self, name: str, **params: Any) -> Any:
        """Run a command of the DevTools protocol."""
        return self.ask("/goog/cdp/execute", {"cmd": name, "params": params})

    def screenshot(self, path: pathlib.Path) -> bytes:
        """Save what is seen as PNG."""
        data = base64.b64decode(self.ask("/screenshot", method="GET"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return data

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call, warnings included."""
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]


def command(url: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    """Send JSON, return the ``value`` of the answer; a WebDriver error becomes a failure with its message."""
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode()[:2000]}") from None


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start chromedriver and a window."""
    chrome, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if chrome is None or driver is None:
        pytest.skip("requires chromium: no browser is installed")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        options = {"binary": chrome, "args": [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]}
        wanted = {
            "timeouts": {"script": 120_000, "pageLoad": 300_000},
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        root = f"http://127.0.0.1:{port}"
        window = Browser(root, command(f"{root}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"])
        yield window
        window.ask("", method="DELETE")
    finally:
        process.terminate()
        process.wait(timeout=30)


# ---- run folders --------------------------------------------------------------------------------


def episode(
    member: int, success: bool, action: str = "\\boxed{4}", feedback: str = "The last digit is wrong.", length: int = 3
) -> Trajectory:
    """One finished single-turn episode."""
    task = Task(f"tiny-train-{member}-0", ({"role": "user", "content": "2 + 2?"},), "train", member)
    mask = np.array([False] * 3 + [True] * length)
    segment = Segment(np.arange(3 + length), mask, np.zeros(3 + length, np.float32), (TurnSpan(0, 3, 3 + length),), 3)
    outcome = Outcome.CORRECT if success else Outcome.WRONG
    told = [] if success else [Feedback("verifier", feedback)]
    reward = float(success)
    return Trajectory(
        f"g{member}", 0, task, [segment], ["2 + 2?"], [action], [reward], told, outcome, reward, success, StopReason.TERMINATED
    )


def record(
    step: int, split: str, index: int, successes: int, samples: int = 4, greedy: float = 0.0, majority: float = 0.0
) -> dict[str, object]:
    """One line of ``eval.jsonl``, as the trainer writes it."""
    item = {"task_id": f"t{index}", "samples": samples, "successes": successes, "reward": successes / samples}
    return {"step": step, "split": split, **item, "majority": majority, "greedy": greedy}


def write_run(
    folder: pathlib.Path,
    algo: str = "grpo",
    env: str = "sdgym/Math-v0",
    seed: int = 0,
    curve: Sequence[float] = (0.25, 0.5, 0.75),
    rows: Sequence[Trajectory] = (),
    **settings: object,
) -> pathlib.Path:
    """Write a run folder with 8 tasks × 4 samples per evaluation at steps 0, 10, 20 …"""
    steps = 10 * (len(curve) - 1)
    config = make_config({"algo": algo, "env": {"id": env, "level": "tiny"}, "seed": seed, "steps": steps, **settings})
    (folder / "trajectories").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    lines, items = [], []
    for i, value in enumerate(curve):
        solved = round(value * 32)
        per_task = [solved // 8 + (j < solved % 8) for j in range(8)]
        items += [record(10 * i, "val", j, n, greedy=float(n >= 2), majority=float(n >= 3)) for j, n in enumerate(per_task)]
        lines.append(
            {
                "step": 10 * i,
                "seconds": 3.0 * i,
                "eval/success": value,
                "ledger/sampled_tokens": 5000 * i,
                "ledger/episodes": 2560 * i,
                "ledger/flops": 1e9 * i,
            }
        )
        lines[-1] |= {"train/success": value, "train/length": 9.0, "train/entropy": 1.0 - value, "teacher/divergence": 0.1} if i else {}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "eval.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    if rows:
        RolloutBuffer(rows).save(folder / "trajectories" / "step_000020.parquet")
        write_tokens(folder / "tokens" / "step_000020.parquet", rows)
    return folder


def write_tokens(path: pathlib.Path, rows: Sequence[Trajectory]) -> None:
    """Write what a recorder would have kept: a teacher that dislikes the second token of every unsolved row by 2.5 nats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = []
    for row in rows:
        count = row.action_length
        other = [-0.5 if row.success or i != 1 else -3.0 for i in range(count)]
        teacher = {"term": "distill", "kind": "feedback", "source": "", "weights": "teacher", "logprobs": other}
        teacher |= {"contexts": [{"token": 0, "text": "2 + 2? The last digit is wrong.\nAnswer:"}], "insertions": []}
        record = {"turns": row.turn_of_token().tolist(), "pieces": [f"t{i} " for i in range(count)], "student": [-0.5] * count}
        record |= {"advantage": [1.0 if row.success else -1.0] * count, "contexts": [{"token": 0, "text": "2 + 2?\nAnswer:"}]}
        records.append({**record, "teachers": [teacher]})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=schema()), path)


@pytest.fixture(scope="session")
def made() -> types.SimpleNamespace:
    """Return the functions that write run folders."""
    return types.SimpleNamespace(episode=episode, write_run=write_run)
