"""``sdgym watch``: what it draws, and that it ends when asked to."""

from __future__ import annotations

import itertools
import os
import pathlib
import pty
import select
import subprocess
import sys
import time
import types

import pytest
from rich.console import Console

from sdgym.cli import execute
from sdgym.report.terminal import chart, mean_curve, screen, sparkline, watched

Made = types.SimpleNamespace


def drawn(folder: pathlib.Path, width: int = 100) -> str:
    """Return the screen as plain text."""
    console = Console(width=width, height=40, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen(folder, width, 40))
    return console.export_text()


def test_a_run_shows_success_and_its_metrics(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "run", algo="sdpo", curve=(0.25, 0.5, 0.75))
    for folder in (tmp_path / "run", tmp_path):
        text = drawn(folder)
        assert "sdpo on sdgym/Math-v0   step 20 of 20   10,000 sampled tokens   6 s" in text
        assert "80 %│" in text and "teacher divergence" in text and "0.1" in text
        assert max(map(len, text.splitlines())) <= 100


def test_a_comparison_shows_worlds_and_arms(tmp_path: pathlib.Path, made: Made) -> None:
    for place in ("math-tiny", "sokoban-tiny/tiny-b"):
        for arm, end in (("grpo", 0.5), ("sdpo", 0.75)):
            for seed in range(2):
                made.write_run(tmp_path / "trials" / place / arm / f"seed-{seed}" / "run", seed=seed, curve=(0.25, end))
    unfinished = tmp_path / "trials" / "math-tiny" / "sdpo" / "seed-1" / "run" / "metrics.jsonl"
    unfinished.write_text(unfinished.read_text().splitlines(keepends=True)[0] + '{"step": 1')  # being written
    text = drawn(tmp_path)
    assert "math-tiny: held-out success" in text and "sokoban-tiny/tiny-b: held-out success" in text
    assert "━ grpo  2 of 2 done  20 of 20  0.250 → 0.500" in text
    assert "━ sdpo  1 of 2 done  10 of 20  0.250 → 0.750" in text


def test_a_chart_puts_values_where_they_belong() -> None:
    rows = [str(line) for line in chart([("red", ([0.0, 10.0], [0.0, 1.0]))], 10, 27, 5)]
    assert rows[0].startswith(" 100 %│") and rows[4].startswith("   0 %│") and rows[-1].endswith("step 10")
    inked = [[j for j, c in enumerate(row[7:]) if c != " "] for row in rows[:5]]
    assert inked[0][-1] == 19 and inked[4][0] == 0, "from the lower left to the upper right"
    assert all(a[0] > b[0] for a, b in itertools.pairwise(inked)), "rising all the way"
    assert all(not row[7:].strip() for row in map(str, chart([], 10, 27, 5)[:5]))


def test_lines_and_means() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█" and sparkline([], 5) == "" and sparkline([3.0, float("nan")], 5) == "▁"
    assert len(sparkline([0.1] * 500, 40)) == 40
    assert mean_curve([([0, 5], [0.0, 1.0]), ([0], [0.5])]) == ([0, 5], [0.25, 1.0])


def test_what_is_read_follows_the_file(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "run")
    assert watched(tmp_path)[0].step == 20
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "train/success": 0.5}\n')
    assert watched(tmp_path)[0].step == 21


def test_once_draws_and_ends(tmp_path: pathlib.Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.write_run(tmp_path / "run")
    assert execute(["watch", str(tmp_path), "--once"]) == 0
    assert "step 20 of 20" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "ctrl-c"])
def test_a_key_ends_it_and_gives_the_terminal_back(tmp_path: pathlib.Path, made: Made, key: str) -> None:
    made.write_run(tmp_path / "run")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "sdgym", "watch", str(tmp_path), "--every", "0.2"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment, preexec_fn=_own_terminal
    )
    os.close(slave)
    seen, sent, end = b"", False, time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
        if not sent and seen.count(b"held out") >= 2:  # it has drawn itself again
            os.write(master, key.encode())
            sent = True
    assert process.wait(timeout=30) == 0, seen[-2000:]
    assert sent and b"\x1b[?1049l" in seen, "the alternate screen is left"
    os.close(master)


def _own_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
