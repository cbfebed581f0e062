"""Everything that reads what a model or a file says, as fuzz targets: text in, nothing but the declared errors out.

A target returns whether the text earned something; text that was not made to be right must not. The targets are driven by
Hypothesis, by a mutation loop that does tens of thousands of inputs a second, and by Atheris where it is installed
(``python -m sdgym.testing.fuzzing TARGET -runs=N``, coverage-guided).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sdgym.core import Outcome, Verdict
from sdgym.errors import ConfigError, DataError, UserError

FRAGMENTS: tuple[str, ...] = (
    "", " ", "\n", "\t", "\\", "\"", "'", "{", "}", "[", "]", "(", ")", ",", ":", ";", ".", "-", "+", "*", "/", "^", "_", "=", "<", ">", "|", "#",
    "0", "1", "7", "42", "-3", "1e9", "1e999", "0x10", "NaN", "Infinity", "null", "true", "9" * 25,
    "<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "```", "```python\n", "~~~", "####",
    "\\boxed{", "\\frac{", "\\sqrt[", "\\left(", "\\right)", "\\text{", "\\begin{pmatrix}", "\\end{pmatrix}", "\\pm", "\\infty", "x^{99}",
    '{"tool": ', '"args": ', '{"answer": ', '"name": "mail.show"', '"arguments": "{', '{"supervisor.complete_task": {}}', "supervisor.complete_task",
    "Up", "down", "L", "R", "||", "UDLR" * 20, "lambda: ", "__import__('os')", "eval(", "import os\n", "def f(x):\n    return x\n", "assert f(1) == 1",
    "algo: ", "env: ", "steps: ", "&a ", "*a", "!!python/object/apply:os.system ", "- ", "? ", "<<: ", "%YAML", "\x00", "\x7f", "\u202e", "\ud800",
    "٣", "𝟙", "−", "∞", "\u2028", "é", "\U0001f9e9", "<|im_end|>", "<|end|>", "a" * 300, "{" * 50, "[" * 50, "(" * 50, "\\boxed{" * 30, "  " * 40,
)  # fmt: skip
"""What grammars are made of; mutations splice these, because uniform noise never leaves the first branch."""


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader of untrusted text.

    Attributes:
        read: takes text, returns whether it earned a reward; raises nothing but what it declares.
        seeds: texts that get deep into it.
        slow: does so much per text that it gets a hundredth of the inputs.
    """

    read: Callable[[str], bool]
    seeds: tuple[str, ...]
    slow: bool = False


def _moves(text: str) -> bool:
    from sdgym.envs.sokoban.actions import ActionError, parse_moves

    try:
        moves = parse_moves(text, 12)
    except ActionError:
        return False
    assert 1 <= len(moves) <= 12 and set(moves) <= {0, 1, 2, 3}
    return False


def _calls(text: str) -> bool:
    from sdgym.envs.tools.calls import CallSyntaxError, parse_calls

    try:
        calls = parse_calls(text, 5)
    except CallSyntaxError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return False
    assert len(calls) <= 5 and all(isinstance(call.tool, str) and isinstance(call.args, dict) for call in calls)
    return False


def _program(text: str) -> bool:
    from sdgym.verifiers.code_source import extract

    found = extract(text)
    assert (found.source is None) == bool(found.problem) and (found.source is None or found.source.strip())
    return False


@functools.cache
def _golds() -> tuple[Any, ...]:
    """Return golds from which every seed differs in four digits or more: a mutation that changes one to the gold would be right to earn."""
    from sdgym.verifiers.math_gold import Gold

    values = {
        "int": "804731",
        "rational": "317/91",
        "interval": "[113,217)",
        "set": "\\{131,211\\}",
        "expr": "x^2+517x+631",
        "text": "Monday",
    }
    return tuple(Gold(value, kind) for kind, value in values.items())


def _answer(text: str) -> bool:
    from sdgym.verifiers.math_answer import judge_response

    earned = False
    for gold in _golds():
        verdict = judge_response(gold, text)
        if isinstance(verdict, Verdict):
            assert verdict.score is not None and 0.0 <= verdict.score <= 1.0 and verdict.outcome is not Outcome.INFRA_ERROR
            earned |= verdict.score > 0
        else:
            assert all(isinstance(side, str) and len(side) < 10_000 for pair in verdict.pairs for side in pair)
    return earned


def _setting(text: str) -> bool:
    from sdgym.config import make_config
    from sdgym.trees import parse_set

    with contextlib.suppress(ConfigError):
        make_config(parse_set(text))
    return False


def _file(suffix: str, text: str, read: Callable[[pathlib.Path], object], errors: tuple[type[Exception], ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="sdgym-fuzz-") as folder:
        path = pathlib.Path(folder) / f"file{suffix}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(*errors):
            read(path)
    return False


def _config(text: str) -> bool:
    from sdgym.config import make_config
    from sdgym.trees import read_yaml

    return _file(".yaml", text, lambda path: make_config(read_yaml(path)), (ConfigError,))


def _problems(text: str) -> bool:
    from sdgym.envs.mathematics.data import load

    return _file(".jsonl", text, load, (DataError,))


def _programs(text: str) -> bool:
    from sdgym.envs.programming.data import load

    return _file(".jsonl", text, load, (DataError,))


def _trajectories(text: str) -> bool:
    from sdgym.buffer import RolloutBuffer

    with contextlib.suppress(DataError):
        RolloutBuffer.from_bytes(text.encode("utf-8", "surrogatepass"))
    return False


def _level(text: str) -> bool:
    from sdgym.envs.sokoban.core import Level, solves

    with contextlib.suppress(ValueError, UserError):
        solves(Level.from_text(text), (0, 1, 2, 3))
    return False


@functools.cache
def _worlds() -> list[tuple[Any, Any]]:
    from sdgym.session import make_env

    worlds = [make_env(f"sdgym/{name}-v0", level="tiny").unwrapped for name in ("Math", "Sokoban", "ToolWorld")]
    # The longest of twenty: a plan of two moves is a right answer that mutations find, as one of them did.
    return [(world, max(world.tasks("train", 5, 20), key=lambda task: len(world.oracle(task)[0]))) for world in worlds]


def _step(text: str) -> bool:
    """A whole step of each world that needs no sandbox; only an answer that its oracle could have given may earn."""
    earned = False
    for world, task in _worlds():
        world.reset(options={"task": task})
        _, reward, _, _, info = world.step(text)
        assert info["outcome"] != Outcome.INFRA_ERROR and reward == reward
        right = world.oracle(task)[0]
        earned |= bool(info["success"]) and not any(part and part in text for part in (right, task.privileged.get("answer", "")))
    return earned


TARGETS: Mapping[str, Target] = {
    "moves": Target(_moves, ("<answer>Up Down || L</answer>", "</think>uurrdd")),
    "calls": Target(
        _calls,
        (
            '<tool_call>{"name": "mail.show", "arguments": {"id": 7}}</tool_call>',
            '[{"tool": "a.b", "args": {"x": [1]}}]',
            "<tool_call>\n<function=mail.show>\n<parameter=id>\n7\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>mail.show\n<arg_key>id</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
            "[mail.send(to=['a'], urgent=true), docs.apps()]",
        ),
    ),
    "program": Target(_program, ("<think>a</think>\n```python\ndef f():\n    return 1\n```", "~~~py\nx\n~~~")),
    "answer": Target(_answer, ("so \\boxed{\\frac{328}{45}}", "<think>1</think>\\boxed{[142,286)}", "\\boxed{x^2+582x+674}", "\\boxed{\\{1,2\\}}")),
    "setting": Target(_setting, ("optimizer.lr=1e-3", "env.level=tiny", "algo={name: sdpo, epochs: 2}")),
    "config": Target(_config, ("algo: {name: sdpo}\nsteps: 3\neval: {tasks: 2}\n", "steps: [1, {a: b}]"), slow=True),
    "problems": Target(_problems, ('{"problem": "1+1?", "answer": "2"}\n{"question": "x", "answer": "\\\\boxed{3/4}"}',), slow=True),
    "programs": Target(_programs, ('{"prompt": "f", "entry_point": "f", "tests": [{"args": [1], "expected": 1}]}', '{"text": "f", "test_list": ["assert f(1) == 1"]}'), slow=True),
    "trajectories": Target(_trajectories, ("PAR1", "PAR1" + "\x00" * 40 + "PAR1"), slow=True),
    "level": Target(_level, ("#####\n#@$.#\n#####", "####\n#.@#\n#$ #\n####")),
    "step": Target(_step, ("\\boxed{-1}", "Up", '{"answer": "no"}'), slow=True),
}  # fmt: skip


def mutated(rng: random.Random, seeds: tuple[str, ...]) -> str:
    """Return a seed or nothing, with a few fragments spliced in, cut out or repeated."""
    text = rng.choice(seeds) if rng.random() < 0.7 else ""
    for _ in range(rng.randrange(1, 8)):
        at, kind = rng.randrange(len(text) + 1), rng.random()
        if kind < 0.6:
            text = text[:at] + rng.choice(FRAGMENTS) + text[at:]
        elif kind < 0.75:
            text = text[:at] + text[at + rng.randrange(1, 8) :]
        elif kind < 0.9:
            text = text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x10FFFF)))) + text[at + 1 :]
        else:
            text = text[:at] + text[at:] * rng.randrange(2, 4)
    return text[:20_000]


class _HangError(BaseException):
    """A reader does not come back; no ``except Exception`` of the reader may catch this."""


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise :class:`_HangError` where the body takes more processor time; only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _HangError(f"stopped after {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def campaign(name: str, count: int, seed: int, slowest: float = 2.0) -> int:
    """Give ``count`` mutations to a target (a hundredth to a slow one) and return how many were given.

    Raises:
        AssertionError: a text crashed it, took longer than ``slowest`` seconds of processor time (on the main thread it is stopped
            at five times that, so that a reader which never returns is found), or earned a reward.
    """
    target, rng = TARGETS[name], random.Random(seed)
    count = max(1, count // 100) if target.slow else count
    for text in target.seeds:
        target.read(text)  # what the first call imports is not its time
    for number in range(count):
        text = mutated(rng, target.seeds)
        started = time.process_time()
        try:
            with _stopped_after(5 * slowest):
                earned = target.read(text)
        except (Exception, _HangError) as error:
            raise AssertionError(f"{name}, input {number} of seed {seed}: {type(error).__name__}: {error}: {text!r}") from error
        took = time.process_time() - started
        assert took < slowest, f"{name}, input {number} of seed {seed} took {took:.1f} s: {text!r}"
        assert not earned, f"{name}, input {number} of seed {seed} earned a reward: {text!r}"
    return count


def main() -> None:
    """Hand a target to Atheris, coverage-guided; further arguments are libFuzzer's."""
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["sdgym"]):
        target = TARGETS[name]
        with contextlib.redirect_stdout(io.StringIO()):
            target.read(target.seeds[0])

    def one(data: bytes) -> None:
        assert not target.read(data.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode())

    atheris.Setup([sys.argv[0], *sys.argv[1:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m sdgym.testing.fuzzing TARGET [-runs=N]; targets: {json.dumps(sorted(TARGETS))}")
    main()
