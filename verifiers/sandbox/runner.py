"""What runs inside a sandbox: a small process that forks one judged child per test.

Sent to a bare interpreter as its program, never run in the trainer; standard library alone, and little of that, because
every submission pays for it. It reads frames (length, marshal) from its standard input and answers with frames of JSON on
its standard output. It holds the submission and the input of the current test; expected values and later inputs are not in
the sandbox. The submission is compiled and run in forked children only, so that no test sees what another one left.
"""

from __future__ import annotations

import _ctypes  # ctypes itself takes half as long to load as the interpreter takes to start
import _json
import builtins
import gc
import marshal
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False  # importing typing for it would double the time to start
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, NoReturn

NAME = "solution.py"
DEPTH, NODES, LONG, FRAME = 60, 200_000, 1024, 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER_MODE = 1, 4, 22, 38, 2
LIMITS = {"FSIZE": 0, "NOFILE": 64, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0}
"""Set once, as memory is, and inherited; processor time and threads are limited in every child."""
LANDLOCK_RESTRICT_SELF, SIGKILL, RESULT_FD = 446, 9, 3
WARM = "def f(x, *a, k=1):\n  for i in x: a = [f'{y!r}' for y in a if i > 2 or not k]\n  return a"
"""Compiled once before the first fork: a compiler that starts anew in every child costs it two thirds of its time."""


class Unplain(Exception):
    """A value that has no plain form."""


class Encoder:
    """Writes a plain value as JSON text; refuses what is nested too deeply or too large."""

    nodes = 0

    def text(self, value: Any, depth: int = 0) -> str:
        """Return the JSON text of ``value``. Raises Unplain for anything but plain data."""
        self.nodes += 1
        if depth > DEPTH or self.nodes > NODES:
            raise Unplain("a value nested too deeply" if depth > DEPTH else "too large a value")
        if value is None or value is True or value is False:
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, int):
            value = int.__int__(value)
            return int.__repr__(value) if value.bit_length() <= LONG else f'["i","{hex(value)}"]'
        if isinstance(value, float):
            text = float.__repr__(value)
            return f'["f","{text}"]' if text in ("inf", "-inf", "nan") else text
        if isinstance(value, str):
            return _json.encode_basestring_ascii(str.__str__(value))
        if isinstance(value, bytes | bytearray):
            return f'["b","{bytes(value).hex()}"]'
        if isinstance(value, complex):
            return f'["c",{self.text(value.real)},{self.text(value.imag)}]'
        for kind, tag in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "s")):
            if isinstance(value, kind):
                items: Any = kind.__iter__(value)  # type: ignore[arg-type]
                return f'["{tag}",[{",".join([self.text(item, depth + 1) for item in items])}]]'
        if isinstance(value, dict):
            pairs = [f"[{self.text(k, depth + 1)},{self.text(v, depth + 1)}]" for k, v in dict.items(value)]
            return f'["d",[{",".join(pairs)}]]'
        raise Unplain(f"a {type(value).__name__[:80]}")


def record(**fields: str) -> bytes:
    """Return a JSON object of fields that are JSON text already."""
    return ("{" + ",".join([f'"{name}":{text}' for name, text in fields.items()]) + "}").encode()


def quoted(value: object, limit: int = 400) -> str:
    """Return a text as a JSON string, cut in the middle."""
    text = str(value)
    if len(text) > limit:
        text = text[: limit // 2] + " ... " + text[-limit // 2 :]
    return _json.encode_basestring_ascii(text)


def failure(error: BaseException) -> bytes:
    """Return the record of an exception raised by the submission: its type, message and line, nothing of ours."""
    line, where, trace = 0, "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == NAME:
            line, where = trace.tb_lineno, trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    try:
        said = str(error)
    except BaseException:
        said = ""  # the submission's own __str__ failed
    status = '"memory"' if isinstance(error, MemoryError) else '"exception"'
    return record(status=status, error=quoted(type(error).__name__), said=quoted(said), line=str(line), where=quoted(where))


def compiled(source: str) -> CodeType | bytes:
    """Return the submission's code, or the record of why it does not compile."""
    try:
        return compile(source, NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        kind, said, line = type(error).__name__, getattr(error, "msg", error), getattr(error, "lineno", None) or 0
        return record(status='"compile_error"', error=quoted(kind), said=quoted(said), line=str(line))


def namespace(name: str) -> dict[str, Any]:
    """Return the globals of a fresh module, installed under ``name``."""
    module = sys.modules[name] = type(sys)(name)
    return module.__dict__


def call(job: dict[str, Any], code: CodeType) -> bytes:
    """Run the submission as a module, call ``function`` or ``Class.method``, return the record of its value."""
    space = namespace("solution")
    exec(code, space)
    owner, _, name = job["entry"].rpartition(".")
    if (owner or name) not in space:
        return record(status='"no_entry"')
    function = getattr(space[owner](), name) if owner else space[name]
    return record(status='"ok"', value=Encoder().text(function(*job["args"])))


def program(job: dict[str, Any], code: CodeType) -> bytes:
    """Run the submission as a script; its output is what counts."""
    try:
        exec(code, namespace("__main__"))
    except SystemExit as error:
        if error.code not in (None, 0):
            return record(status='"exception"', error='"SystemExit"', said=quoted(error.code), line="0")
    for module, ending in (("threading", "_shutdown"), ("atexit", "_run_exitfuncs")):  # as at the end of any script
        if module in sys.modules:
            getattr(sys.modules[module], ending)()
    sys.stdout.flush()
    return record(status='"ok"')


def check(job: dict[str, Any], code: CodeType) -> bytes:
    """Run a test's own code; the submission's functions live in another sandbox and are asked through our parent."""
    space = namespace("checker")

    def proxy(name: str) -> Any:
        def ask(*args: Any) -> Any:
            write(RESULT_FD, record(ask=quoted(name), args=Encoder().text(args)))
            answer = read_marshal(0)
            if "error" in answer:
                raise rebuilt(answer["error"], answer["said"])
            return answer["value"]

        return ask

    space.update({name: proxy(name) for name in job["names"]})
    try:
        exec(code, space)
        if job["entry"]:
            space[job["entry"]](space[job["names"][0]])
    except AssertionError as error:
        return failure(error).replace(b'"exception"', b'"failed"', 1)
    return record(status='"ok"')


def rebuilt(name: str, said: str) -> Exception:
    """Return the builtin exception ``name``; a RuntimeError for any other and for AssertionError, which is the test's own."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, AssertionError | UnicodeError):
        return kind(said)
    return RuntimeError(said)


KINDS = {"call": call, "run": program, "check": check}


def restrict(limits: dict[str, int]) -> None:
    """Lower resource limits for good; a negative value leaves one as it is."""
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}", None)
        if which is not None and value >= 0:
            value = min(value, resource.getrlimit(which)[1] % 2**64)  # no limit is -1
            resource.setrlimit(which, (value, value))


def confine(config: dict[str, Any], kernel: Kernel | None) -> None:
    """Give up everything that the submission does not need; nothing of it can be taken back."""
    restrict({"CPU": config["limits"]["cpu"], "NPROC": config["threads"]})
    if kernel is not None:
        kernel.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        kernel.call("prctl", PR_SET_SECCOMP, FILTER_MODE, kernel.program, 0, 0)


def judged(config: dict[str, Any], job: dict[str, Any], kernel: Kernel | None, pipes: tuple[int, int, int]) -> NoReturn:
    """Live the life of a judged child."""
    for source, target in zip(pipes, (0, 1, RESULT_FD), strict=True):
        os.dup2(source, target)
    os.closerange(RESULT_FD + 1, 256)
    leave = os._exit
    try:
        confine(config, kernel)
        code = compiled(job["source"])
        said = code if isinstance(code, bytes) else KINDS[job["kind"]](job, code)
    except Unplain as error:
        said = record(status='"bad_result"', said=quoted(error))
    except BaseException as error:
        said = failure(error)
    try:
        write(RESULT_FD, said)
    finally:
        leave(0)


def write(fd: int, payload: bytes) -> None:
    """Write one frame."""
    data = len(payload).to_bytes(FRAME, "big") + payload
    while data:
        data = data[os.write(fd, data) :]


def read_exactly(fd: int, size: int) -> bytes:
    """Return ``size`` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < size and (chunk := os.read(fd, size - len(data))):
        data += chunk
    return data


def read_marshal(fd: int) -> Any:
    """Return the next frame's object, or None at the end of the stream."""
    head = read_exactly(fd, FRAME)
    return marshal.loads(read_exactly(fd, int.from_bytes(head, "big"))) if len(head) == FRAME else None


class Watch:
    """Looks after one judged child: feeds it, collects what it writes, ends it at the limits."""

    def __init__(self, config: dict[str, Any], job: dict[str, Any], control: tuple[int, int]) -> None:
        self.limits, self.job, self.control = config["limits"], job, control
        self.pending, self.out = job.get("stdin", b""), list[bytes]()
        self.said, self.verdict, self.asked, self.waited, self.stdin = b"", "", 0, 0.0, -1

    def follow(self, pid: int, stdin: int, stdout: int, result: int) -> bytes:
        """Return the final record (bytes) of child ``pid``."""
        poller, started = select.poll(), time.monotonic()
        for fd in (stdin, stdout, result):
            os.set_blocking(fd, False)
        if self.pending:
            poller.register(stdin, select.POLLOUT)
        elif self.job["kind"] != "check":
            os.close(stdin)
            stdin = -1
        for fd in (stdout, result):
            poller.register(fd, select.POLLIN)
        open_, size, self.stdin = {stdout, result}, 0, stdin
        while open_ and not self.verdict:
            left = started + self.waited + self.limits["wall"] - time.monotonic()
            if left <= 0:
                self.verdict = "timeout"
                break
            for fd, event in poller.poll(left * 1000 + 1):
                if fd == self.stdin:
                    self.feed(poller, event)
                    continue
                chunk = os.read(fd, 65536)
                if not chunk:
                    poller.unregister(fd)
                    open_.discard(fd)
                    continue
                size += len(chunk)
                if size > self.limits["output"]:
                    self.verdict = "output_limit"
                elif fd == stdout:
                    self.out.append(chunk)
                else:
                    self.said += chunk
                    self.answer_questions()
        os.kill(pid, SIGKILL)  # ended or not: it is our child and not yet reaped
        _, status, usage = os.wait4(pid, 0)
        for fd in {self.stdin, stdout, result} - {-1}:
            os.close(fd)
        return self.summary(status, usage, time.monotonic() - started)

    def feed(self, poller: select.poll, event: int) -> None:
        """Write the next piece of standard input; close it when all is written or nobody reads."""
        try:
            if event & select.POLLOUT:
                self.pending = self.pending[os.write(self.stdin, self.pending[:65536]) :]
        except BrokenPipeError:
            self.pending = b""
        if event & (select.POLLERR | select.POLLHUP) or not self.pending:
            poller.unregister(self.stdin)
            os.close(self.stdin)
            self.stdin = -1

    def whole_frame(self) -> bytes:
        """Return the first complete frame of the result stream, or nothing."""
        size = int.from_bytes(self.said[:FRAME], "big") if len(self.said) >= FRAME else len(self.said)
        return self.said[FRAME : FRAME + size] if len(self.said) >= FRAME + size else b""

    def answer_questions(self) -> None:
        """Pass a checker's complete questions to our parent, and its answers back."""
        while self.job["kind"] == "check" and (frame := self.whole_frame()).startswith(b'{"ask"'):
            self.said, self.asked = self.said[FRAME + len(frame) :], self.asked + 1
            if self.asked > self.limits["questions"]:
                self.verdict = "output_limit"
                return
            self.waited -= time.monotonic()  # the calls that are asked for have limits of their own
            write(self.control[1], record(question=quoted(frame.decode("ascii", "replace"), 1 << 30)))
            data = marshal.dumps(read_marshal(self.control[0]), 2)
            self.waited += time.monotonic()
            os.set_blocking(self.stdin, True)
            try:
                write(self.stdin, data)
            except BrokenPipeError:
                self.verdict = "killed"
                return

    def summary(self, status: int, usage: resource.struct_rusage, wall: float) -> bytes:
        """Return the record that goes to our parent: what the child said, how it ended, what it used."""
        exit_code, cpu, said = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, self.whole_frame()
        verdict = self.verdict
        if not verdict and not said and exit_code < 0:
            verdict = "timeout" if exit_code == -SIGKILL and cpu >= 0.8 * self.limits["cpu"] else "killed"
        return record(
            ended=quoted(verdict),
            exit=str(exit_code),
            said=quoted(said.decode("utf-8", "replace"), 1 << 30),
            stdout=quoted(b"".join(self.out).decode("utf-8", "replace"), 1 << 30),
            cpu=f"{cpu:.4f}",
            wall=f"{wall:.4f}",
            rss=str(usage.ru_maxrss * 1024),
        )


class Kernel:
    """The two functions of the C library that confine, called without the module ctypes."""

    def __init__(self, filter_: bytes) -> None:
        self._functions = {name: _ctypes.dlsym(_ctypes.dlopen(None, 2), name) for name in ("prctl", "syscall")}  # type: ignore[arg-type]
        byte = type("byte", (_ctypes._SimpleCData,), {"_type_": "c"})
        array: Any = type("filter", (_ctypes.Array,), {"_type_": byte, "_length_": len(filter_)})
        self._filter, order = array.from_buffer_copy(filter_), sys.byteorder
        address = _ctypes.addressof(self._filter).to_bytes(8, order)
        self.program = (len(filter_) // 8).to_bytes(2, order) + bytes(6) + address  # struct sock_fprog

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``prctl`` or ``syscall``. Raises OSError if the kernel refuses."""
        if _ctypes.call_function(self._functions[name], arguments) != 0:
            raise OSError(f"{name} {arguments[0]} is refused")


def become_zygote(config: dict[str, Any]) -> Kernel | None:
    """Set limits, drop root, forbid new privileges, hide memory from others, apply Landlock; None where nothing confines."""
    restrict({"AS": config["limits"]["memory"], **LIMITS})
    if config["uid"] >= 0 and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(*[config["uid"]] * 3)
        os.setresuid(*[config["uid"]] * 3)
    if not config["confined"]:
        return None
    kernel = Kernel(config["seccomp"])
    kernel.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    kernel.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    if config["landlock"] >= 0:
        kernel.call("syscall", LANDLOCK_RESTRICT_SELF, config["landlock"], 0)
        os.close(config["landlock"])
    return kernel


def main() -> None:
    """Read the configuration, answer jobs until the stream ends."""
    control = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    config = read_marshal(control[0])
    try:
        kernel = become_zygote(config)
    except OSError as error:
        return write(control[1], record(failed=quoted(error)))
    compiled(WARM)
    gc.freeze()
    write(control[1], record(ready=str(sys.version_info[1])))
    source = ""
    while (job := read_marshal(control[0])) is not None:
        source = job.get("source", source)
        job["source"] = source if job["kind"] != "check" else job["code"]
        (stdin, to_stdin), (from_stdout, stdout), (from_result, result) = os.pipe(), os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            judged(config, job, kernel, (stdin, stdout, result))
        for fd in (stdin, stdout, result):
            os.close(fd)
        write(control[1], Watch(config, job, control).follow(pid, to_stdin, from_stdout, from_result))


if __name__ == "__main__":
    main()
