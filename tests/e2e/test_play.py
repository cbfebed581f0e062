"""``sdgym envs play`` in a real terminal: what is typed is read, what is said is seen, Ctrl-D leaves."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import pytest


def play(lines: list[bytes], *arguments: str) -> tuple[str, int]:
    """Type ``lines``, each when the prompt shows, and return the screen's text and the exit code."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sdgym", "envs", "play", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    seen, waiting, until = b"", list(lines), time.monotonic() + 120
    try:
        while time.monotonic() < until:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed: the process ended
                break
            if not piece:
                break
            seen += piece
            if waiting and seen.endswith((b"\n> ", b"\n  ")):
                os.write(ours, waiting.pop(0))
        return seen.decode("utf-8", "replace"), process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_an_answer_is_typed_and_judged() -> None:
    screen, code = play([b"I do not know\n", b"\n"], "sdgym/Math-v0", "--seed", "3")
    assert code == 0 and "> I do not know" in screen
    assert "reward 0" in screen and "feedback: " in screen and "not solved in 1 turn(s)" in screen


@pytest.mark.slow
def test_the_end_of_input_leaves() -> None:
    screen, code = play([b"\x04"], "sdgym/Sokoban-v0")
    assert code == 0 and "given up" in screen
