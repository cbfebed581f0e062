"""The other side of the pool: a zygote that has imported math-verify, and the workers it forks.

Run as a script (``python math_worker.py FD``), never imported by the trainer: this is the only place where
SymPy touches a model's text. It imports the standard library and math-verify alone. The parent holds one
control socket (fork, kill) and one socket per worker; every one of them closing means "the parent is gone".
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import logging
import os
import re
import resource
import signal
import socket
import struct
import sys
from typing import Any

COMMAND = 16
"""Bytes of a control message: ``F`` (fork; a socket is attached) or ``K<pid>`` (kill and reap)."""
DIGITS = 60
CLOSE = 40
"""Constants equal to 40 of 60 computed digits are taken as equal."""
_NUMBER = re.compile(r"\d+|(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d{1,4})?|\d+[eE][+-]?\d{1,4}", re.ASCII)
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_POINTS = ("0.7310585786300048792", "-1.3862943611198906188", "2.6651441426902251887")


def receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly ``size`` bytes, or fewer at the end of the stream."""
    parts, left = [], size
    while left and (chunk := sock.recv(left)):
        parts.append(chunk)
        left -= len(chunk)
    return b"".join(parts)


# ---- comparison -------------------------------------------------------------------------------------


def forbid_eval() -> None:
    """Replace SymPy's string evaluators by a reader of numbers and names: no text is ever turned into code.

    The LaTeX parser hands its number tokens to ``sympify``, which would tokenise and ``eval`` them; SymPy's
    own modules name units that way when they are first imported.
    """
    import latex2sympy2_extended.latex2sympy2 as latex
    import math_verify.parser
    import sympy.parsing.sympy_parser as evaluator
    from sympy import Float, Integer, Symbol

    def literal(text: Any, *_: Any, **__: Any) -> Any:
        if isinstance(text, str) and _NAME.fullmatch(text):
            return Symbol(text)
        if not (isinstance(text, str) and len(text) <= 600 and _NUMBER.fullmatch(text)):
            raise ValueError("only numbers and names are read, never code")
        return Integer(text) if text.isdigit() else Float(text)

    for module, name in ((evaluator, "parse_expr"), (evaluator, "eval_expr"), (math_verify.parser, "parse_expr"), (latex, "parse_expr")):
        setattr(module, name, literal)


def read(text: str) -> Any | None:
    """Parse LaTeX into a SymPy object, or None."""
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0)
    found = parse(f"\\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


read_gold = functools.lru_cache(maxsize=512)(read)


def compare(gold_text: str, answer_text: str) -> str:
    """Return ``equal``, ``different``, ``decimal`` (equal only when rounded), ``gold`` or ``answer`` (which side is unreadable)."""
    from math_verify import verify
    from sympy import Basic, Float

    gold = read_gold(gold_text)
    if gold is None:
        return "gold"
    answer = read(answer_text)
    if answer is None:
        return "answer"
    inexact, tried_inexact = (isinstance(side, Basic) and side.has(Float) for side in (gold, answer))
    rounded = tried_inexact and not inexact
    near = numerically(gold, answer, 4 if rounded else 12 if inexact else CLOSE)
    if near is False:
        return "different"
    if rounded:
        return "decimal" if near or verify(gold, answer, timeout_seconds=None) else "different"
    proven = near and not ({s.name for s in gold.free_symbols | answer.free_symbols} - {"e", "i"})
    return "equal" if proven or verify(gold, answer, timeout_seconds=None) else "different"


def numerically(gold: Any, answer: Any, digits: int) -> bool | None:
    """Compare two scalar expressions at a few points to ``digits`` digits; None where that says nothing.

    A difference at one point is a proof of inequality; agreement is taken as equality for constants only.
    Letters ``e`` and ``i`` in the place of constants are read as such.
    """
    from sympy import Abs, E, Expr, Float, I, Integral, Limit, Product, Rational, Sum

    unsure = (Integral, Limit, Product, Sum)
    if not all(isinstance(side, Expr) and not side.has(*unsure) for side in (gold, answer)):
        return None
    constants = {"e": E, "i": I}
    left, right = (side.subs({s: constants[s.name] for s in side.free_symbols if s.name in constants}) for side in (gold, answer))
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    compared = False
    for shift in range(len(_POINTS) if symbols else 1):
        point = {s: Rational(_POINTS[(i + shift) % len(_POINTS)]) * (1 + i // len(_POINTS)) for i, s in enumerate(symbols)}
        a, b = (side.evalf(DIGITS, subs=point) if symbols else side.evalf(DIGITS) for side in (left, right))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            continue
        size = max(abs(complex(a)), abs(complex(b))) if not (a.is_Float and b.is_Float) else None
        scale = max(Abs(a), Abs(b)) if size is None else Float(size)
        if Abs(a - b) > scale * Float(f"1e-{digits}", DIGITS):
            return False
        compared = True
    return True if compared else None


def work_through(pairs: list[list[str]]) -> list[str]:
    """Compare every pair; what the library cannot handle counts as an unreadable answer."""
    results = []
    for gold, answer in pairs:
        try:
            results.append(compare(gold, answer))
        except (MemoryError, RecursionError):
            results.append("too_hard")
        except Exception:  # the library's failures on a model's text are a property of that text
            results.append("answer")
    return results


# ---- processes --------------------------------------------------------------------------------------


def limit(memory: int) -> None:
    """Cap this worker: address space, no core dumps, no file writes; die with the zygote."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def work(sock: socket.socket, memory: int, cpu_seconds: int) -> None:
    """Answer jobs until the parent closes the socket."""
    limit(memory)
    while len(head := receive(sock, 4)) == 4:
        used = resource.getrusage(resource.RUSAGE_SELF)
        fuse = int(used.ru_utime + used.ru_stime) + cpu_seconds  # a second fuse, should the parent forget to kill
        resource.setrlimit(resource.RLIMIT_CPU, (fuse, resource.RLIM_INFINITY))
        pairs = json.loads(receive(sock, struct.unpack("!I", head)[0]))
        reply = json.dumps(work_through(pairs)).encode()
        sock.sendall(struct.pack("!I", len(reply)) + reply)


def serve(control: socket.socket, memory: int, cpu_seconds: int) -> None:
    """Fork and kill workers on command; at the end of the control stream kill all and return."""
    children: set[int] = set()
    try:
        while True:
            message, fds, _, _ = socket.recv_fds(control, COMMAND, 1)
            message += receive(control, COMMAND - len(message)) if message else b""
            if len(message) < COMMAND:
                return
            order = message.decode().rstrip()
            if order == "F":
                pid = os.fork()
                if pid == 0:
                    control.close()
                    become_worker(fds[0], memory, cpu_seconds)
                os.close(fds[0])
                children.add(pid)
                control.sendall(str(pid).ljust(COMMAND).encode())
            else:
                pid = int(order[1:])
                children.discard(pid)
                control.sendall(str(end(pid)).ljust(COMMAND).encode())
    finally:
        for pid in children:
            end(pid)


def become_worker(fd: int, memory: int, cpu_seconds: int) -> None:
    """Run the worker loop in a forked child and never return."""
    code = 1
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent went away
        work(socket.socket(fileno=fd), memory, cpu_seconds)
        code = 0
    os._exit(code)


def end(pid: int) -> int:
    """Kill and reap a child of ours; return its wait status (a child that had died keeps its own)."""
    os.kill(pid, signal.SIGKILL)  # not yet reaped, so the id is still its own
    return os.waitpid(pid, 0)[1]


_SHAPES = (
    "\\frac{3\\sqrt{2}}{4}+\\pi",
    "-2\\sqrt[3]{5}e^{2x}",
    "x^2\\sin x-\\cos(2x)",
    "\\ln(x+1)",
    "\\log_2 8",
    "(x-1)(x+2)^3/4",
    "2^{n+1}-1",
    "3x+2y=5",
    "x\\le2",
    "\\tan^{-1}(x)",
    "|x-1|",
    "5!\\binom{5}{2}",
    "1+2i",
    "\\frac{1}{x}+C",
    "0.5",
    "\\infty",
    "\\arctan\\frac{a}{b}",
)


def main() -> None:
    """Preload, report readiness, serve."""
    control, memory, cpu_seconds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    logging.disable(logging.CRITICAL)  # math-verify logs every text it cannot read
    forbid_eval()
    for shape in _SHAPES:
        compare("x", shape)  # loads what SymPy imports late and fills the LaTeX parser's tables, once for all workers
    compare("\\cos 2x", "1-2\\sin^2 x")
    gc.collect()
    gc.freeze()
    control.sendall(b"ready".ljust(COMMAND))
    serve(control, memory, cpu_seconds)


if __name__ == "__main__":
    main()
