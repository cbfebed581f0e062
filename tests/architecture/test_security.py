"""What SECURITY.md says about the code: nothing that loads runs code, no shell, nothing listens beyond the loopback interface."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("sdgym", "envs", "algos", "verifiers", "benchmarks")
SOURCES = sorted(
    p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if not any(q.is_symlink() for q in p.parents if ROOT in q.parents)
)

MAY_RUN_CODE = {
    "verifiers/sandbox/runner.py": "runs inside the sandbox",
    "verifiers/sandbox/cells.py": "runs inside the sandbox",
    "envs/programming/problem.py": "runs the generator's own programs, never a model's",
}
MAY_PICKLE = {
    "sdgym/testing/checks.py": "checks that environments survive pickling",
    "sdgym/testing/offline.py": "sends a class of this process to a process of its own",
}


def name_of(node: ast.expr) -> str:
    """Dotted name of what is called, as far as it is names."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def findings(tree: ast.AST, place: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if {"pickle", "cloudpickle", "dill", "shelve", "joblib"} & {n.partition(".")[0] for n in names} and place not in MAY_PICKLE:
                yield f"line {node.lineno}: imports {names}"
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        if called in ("eval", "exec", "marshal.load", "marshal.loads") and place not in MAY_RUN_CODE:
            yield f"line {node.lineno}: {called}()"
        if called == "torch.load" and keyword(node, "weights_only") is not True:
            yield f"line {node.lineno}: torch.load without weights_only"
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "sympify", "sympy.sympify", "parse_expr"):
            yield f"line {node.lineno}: {called}()"
        if called.endswith("from_pretrained") and keyword(node, "trust_remote_code") is True:
            yield f"line {node.lineno}: trust_remote_code"
        if keyword(node, "shell") is True:
            yield f"line {node.lineno}: a shell"
        if keyword(node, "allow_pickle") is True:
            yield f"line {node.lineno}: allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=[p.relative_to(ROOT).as_posix() for p in SOURCES])
def test_nothing_that_loads_runs_code(path: pathlib.Path) -> None:
    text = path.read_text()
    assert not list(findings(ast.parse(text), path.relative_to(ROOT).as_posix()))
    assert not re.search(r"[\"'](0\.0\.0\.0|::)[\"']", text), "a server that listens everywhere"


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from dill import loads",
        "eval(text)",
        "torch.load(path)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "sympify(text)",
    ],
)
def test_the_rule_would_find_it(bad: str) -> None:
    assert list(findings(ast.parse(bad), "x.py"))


@pytest.mark.parametrize("good", ["torch.load(path, weights_only=True)", "yaml.safe_load(text)", "policy.model.eval()", "re.compile(x)"])
def test_the_rule_leaves_the_rest_alone(good: str) -> None:
    assert not list(findings(ast.parse(good), "x.py"))


def test_every_exception_is_still_needed() -> None:
    for place in {*MAY_RUN_CODE, *MAY_PICKLE}:
        assert list(findings(ast.parse((ROOT / place).read_text()), "elsewhere.py")) or place.endswith("cells.py"), place
