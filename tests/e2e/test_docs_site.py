"""The documentation site: every page is in the navigation, links and anchors hold, the reference names real modules; it builds, and the notebook runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def test_every_page_is_in_the_navigation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = hooks(monkeypatch)
    assert sorted(module.flat(module.expanded(CONFIG["nav"], DOCS))) == PAGES


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the site makes them."""
    from unicodedata import normalize

    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        ascii_only = normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower()))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_hold(page: str) -> None:
    text = (DOCS / page).read_text()
    for target, _, anchor in (
        link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ):
        if re.match(r"[a-z]+:", target):
            continue
        path = (DOCS / page).parent / target if target else DOCS / page
        assert path.exists(), f"{page} links to {target}"
        assert path.is_file() or not path.resolve().is_relative_to(DOCS), f"{page} links to a folder: the site has pages only"
        assert not anchor or anchor in anchors(path.read_text()), f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/") and "command-line" not in page])
def test_the_reference_names_modules_whose_public_parts_are_described(page: str) -> None:
    modules = re.findall(r"^::: ([\w.]+)$", (DOCS / page).read_text(), re.MULTILINE)
    assert modules
    for name in modules:
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None, name
        tree = ast.parse(pathlib.Path(found.origin).read_text())
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path: pathlib.Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))
    assert path.relative_to(DOCS).as_posix() in (DOCS / "getting-started.md").read_text(), "no page leads to it"


def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load the site's hooks; the two classes of MkDocs that they make are not needed here."""
    files = types.ModuleType("mkdocs.structure.files")
    files.File = files.Files = object  # type: ignore[attr-defined]
    for name, module in (
        ("mkdocs", types.ModuleType("mkdocs")),
        ("mkdocs.structure", types.ModuleType("mkdocs.structure")),
        (files.__name__, files),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_to_source_files_lead_to_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    module = hooks(monkeypatch)
    text = "[code](../algos/grpo.py), [rules](../CONTRIBUTING.md#contributing), [page](scale.md#vllm), [web](https://example.org)"
    expected = "[code](source/algos/grpo.py.md), [rules](source/CONTRIBUTING.md.md#contributing), [page](scale.md#vllm), [web](https://example.org)"
    assert module.rewritten(text, "comparing.md", "comparing.md") == expected
    assert (
        module.rewritten("[code](../../algos/grpo.py)", "algorithms/grpo.md", "algorithms/grpo.md") == "[code](../source/algos/grpo.py.md)"
    )
    assert module.rewritten("[s](docs/scale.md)", "source/README.md.md", "../README.md") == "[s](../scale.md)"
    assert module.expanded([{"A": ["environments/*"]}, "scale.md"], DOCS)[0]["A"] == [p for p in PAGES if p.startswith("environments/")]
    shown = module.rendered(ROOT / "CHANGELOG.md"), module.rendered(ROOT / "algos" / "grpo.py"), module.rendered(ROOT / "algos")
    assert "````python\n" in shown[1] and "- `grpo.py`" in shown[2] and shown[0].startswith("---\ntitle: CHANGELOG.md")


def test_the_command_line_is_described_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    module = hooks(monkeypatch)
    text = module.command_reference()
    assert module.COMMANDS in (DOCS / "reference" / "command-line.md").read_text()
    assert {f"## sdgym {verb}" for verb in ("train", "compare", "envs check", "model pretrain", "doctor")} <= set(text.splitlines())
    assert "--resume" in text[text.index("## sdgym train") : text.index("## sdgym watch")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_site_builds_without_a_warning(tmp_path: pathlib.Path) -> None:
    for name in ("material", "mkdocstrings"):
        pytest.importorskip(name, reason="requires docs: pip install 'sdgym-rl[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?:", page.read_text()), f"{page.name} asks another server"
    reference = (tmp_path / "reference" / "core.html").read_text()
    assert 'id="sdgym.core.Trajectory"' in reference and ":class:" not in reference
    assert "source/algos/grpo.py.html" in (tmp_path / "composition.html").read_text() and (tmp_path / "source/algos/grpo.py.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason="requires docs: pip install 'sdgym-rl[docs]'")
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    plots = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    curves = plots[0]["data"]["application/vnd.plotly.v1+json"]["data"]
    assert [len(curve["x"]) for curve in curves] == [10, 3]
