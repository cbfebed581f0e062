"""Whatever of this project listens, listens on the loopback interface, unless an address is asked for."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("sdgym", "envs", "algos", "verifiers", "benchmarks")
LISTENERS = {
    "bind",
    "create_server",
    "start_server",
    "serve_forever",
    "HTTPServer",
    "ThreadingHTTPServer",
    "TCPServer",
    "make_server",
    "Listener",
}
SERVERS = {
    "sdgym/interop/openenv_bridge.py": "uvicorn.run: an OpenEnv server, host 127.0.0.1 by default",
    "sdgym/interop/ray_env.py": "ray.init: a cluster of its own on 127.0.0.1",
    "benchmarks/head_to_head/ray_engine.py": "ray.init: the same",
}
"""Every file that starts something which listens, and how."""


def starters(tree: ast.AST) -> set[str]:
    """Names of calls that make a process listen."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
            owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
            address = name != "bind" or (node.args and isinstance(node.args[0], ast.Tuple))
            if (
                (name in LISTENERS and address)
                or (owner, name) == ("uvicorn", "run")
                or (name == "init" and re.search("ray|log_to_driver", ast.dump(node)))
            ):
                found.add(f"{owner}.{name}" if owner else name)
    return found


def test_every_server_is_known() -> None:
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if not any(parent.is_symlink() for parent in path.parents if parent != ROOT) and (
                calls := starters(ast.parse(path.read_text()))
            ):
                found[path.relative_to(ROOT).as_posix()] = calls
    assert found.keys() == SERVERS.keys(), found


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket().bind(('', 1))",
        "uvicorn.run(app)",
        "ray.init()",
        "self._ray.init()",
        "module.init(**own, log_to_driver=False)",
        "HTTPServer(a, b)",
    ],
)
def test_the_rule_would_find_it(code: str) -> None:
    assert starters(ast.parse(code))


def test_the_default_address_of_a_served_world_is_loopback() -> None:
    from sdgym.interop.openenv_bridge import serve

    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"


def addresses(process: subprocess.Popen[bytes]) -> set[str]:
    """Return the addresses on which a process and what it started listen."""
    try:
        family = [me := psutil.Process(process.pid), *me.children(recursive=True)]
        found = {c.laddr.ip for p in family for c in p.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:  # one of them has just ended
        return set()
    return found


def listening(code: str, enough: Callable[[set[str]], bool] = bool, seconds: float = 200.0) -> set[str]:
    """Run ``code`` and return where it listens, once it does."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + seconds
        while not enough(found := addresses(process)):
            assert process.poll() is None, process.communicate()[0].decode()[-3000:]
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.2)
        return found
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def test_what_listens_everywhere_would_be_found() -> None:
    code = "import socket, time; s = socket.socket(); s.bind(('0.0.0.' + '0', 0)); s.listen(); time.sleep(100)"
    assert listening(code) == {"0.0.0." + "0"}


@pytest.mark.slow
def test_a_served_world_listens_on_loopback() -> None:
    pytest.importorskip("openenv.core.env_server", exc_type=ImportError, reason="requires openenv")
    code = "from sdgym.interop.openenv_bridge import serve; serve('sdgym/Math-v0', port=0, level='tiny')"
    assert listening(code) == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="Ray 2.60 listens on every interface whatever it is asked (SECURITY.md)")
def test_a_ray_cluster_of_ours_listens_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """All of its processes: the store, the scheduler, the helpers, the workers."""
    pytest.importorskip("ray", reason="requires ray")
    code = (
        "import pathlib, time; from sdgym.benchmarks.head_to_head.ray_engine import RayEngine\n"
        f"engine = RayEngine(pathlib.Path({str(tmp_path)!r})); pathlib.Path({str(tmp_path / 'up')!r}).write_text('x'); time.sleep(600)"
    )
    found = listening(code, lambda seen: bool(seen) and (tmp_path / "up").exists(), 600)
    assert found == {"127.0.0.1"}
