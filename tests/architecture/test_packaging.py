"""The four folders reach users as ``sdgym.*`` however sdgym is installed, and nothing is left behind."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata

import pytest

import sdgym

LINKS = ("algos", "benchmarks", "envs", "verifiers")
DATA = (".yaml", ".json", ".jsonl", ".jinja", ".html", ".css", ".js", ".safetensors", ".typed", ".txt", ".parquet")


def sources(root: pathlib.Path) -> set[str]:
    """Every file that belongs into a wheel, by its installed path."""
    found = {"sdgym_verifiers.py"}
    for folder in ("sdgym", *LINKS):
        for path in (root / folder).rglob("*"):
            if (
                not path.is_file()
                or "__pycache__" in path.parts
                or any(part in LINKS for part in path.relative_to(root / folder).parts[:1] if folder == "sdgym")
            ):
                continue
            if path.suffix == ".py" or path.suffix in DATA:
                inner = path.relative_to(root).as_posix()
                found.add(inner if folder == "sdgym" else f"sdgym/{inner}")
    return found


def test_links_point_to_the_top_level_folders(root: pathlib.Path) -> None:
    for name in LINKS:
        link = root / "sdgym" / name
        assert link.is_symlink(), f"sdgym/{name} must be a symbolic link"
        assert link.readlink().as_posix() == f"../{name}"
        assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("name", LINKS)
def test_a_bare_import_is_refused_with_the_right_name(root: pathlib.Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); import {name}"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"import sdgym.{name}" in done.stderr


def test_a_checkout_without_links_explains_itself(tmp_path: pathlib.Path, root: pathlib.Path) -> None:
    package = tmp_path / "sdgym"
    package.mkdir()
    (package / "__init__.py").write_text((root / "sdgym" / "__init__.py").read_text())
    for name in LINKS:
        (package / name).write_text(f"../{name}")  # what git writes with core.symlinks=false
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sdgym"], capture_output=True, text=True
    )
    assert "made without symbolic links" in done.stderr.splitlines()[-1]


def test_constraints_pin_every_requirement(root: pathlib.Path) -> None:
    def key(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    pinned = {key(name): version for name, version in pins.items()}
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[<>=!\[; ]", requirement)[0]
        assert key(name) in pinned, f"constraints.txt does not pin {name}"
    assert pinned["torch"] == "2.13.0", "no local build: CPU and CUDA builds must both satisfy it"
    assert pinned["transformers"] == "5.19.0"
    assert all("+" not in version for version in pinned.values())


def test_installed_versions_are_the_tested_ones(root: pathlib.Path) -> None:
    if metadata.version("torch").split("+")[0] != "2.13.0":
        pytest.skip("requires tested-set: this environment was not installed with constraints.txt")
    pins = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    different = {n: metadata.version(n) for n, v in pins.items() if n != "setuptools" and metadata.version(n).split("+")[0] != v}
    assert not different


@pytest.fixture(scope="session")
def wheels(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Return (wheel from the tree, sdist, wheel from the sdist), built without a network from a clean copy."""
    base = tmp_path_factory.mktemp("dist")
    tree = base / "tree"
    tree.mkdir()
    archive = base / "tree.tar"
    names = ["sdgym", *LINKS, "sdgym_verifiers.py", "pyproject.toml", "README.md", "LICENSE"]
    with tarfile.open(archive, "w") as tar:
        for name in names:
            tar.add(root / name, name, filter=lambda m: None if "__pycache__" in m.name else m)
    with tarfile.open(archive) as tar:
        tar.extractall(tree, filter="tar")
    build = [sys.executable, "-m", "build", "--no-isolation"]
    subprocess.run([*build, "--wheel", "--outdir", base / "direct", tree], check=True, capture_output=True)
    subprocess.run([*build, "--outdir", base / "through", tree], check=True, capture_output=True)  # sdist, then a wheel from it
    return next((base / "direct").glob("*.whl")), next((base / "through").glob("*.tar.gz")), next((base / "through").glob("*.whl"))


def test_the_wheel_holds_every_source_and_data_file_and_nothing_else(wheels: tuple[pathlib.Path, ...], root: pathlib.Path) -> None:
    names = {n for n in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in n}
    wanted = sources(root)
    assert not wanted - names, "missing from the wheel"
    assert not names - wanted, "unexpected in the wheel"


def test_the_wheel_from_the_sdist_is_the_same(wheels: tuple[pathlib.Path, ...]) -> None:
    direct, through = (zipfile.ZipFile(wheels[i]) for i in (0, 2))
    contents = [{i.filename: i.CRC for i in z.infolist() if not i.filename.endswith("/RECORD")} for z in (direct, through)]
    assert contents[0] == contents[1]


def test_the_wheel_imports_and_runs_on_its_own(wheels: tuple[pathlib.Path, ...], tmp_path: pathlib.Path) -> None:
    zipfile.ZipFile(wheels[0]).extractall(tmp_path)
    code = "import sdgym, sdgym.envs, sdgym.algos, sdgym.verifiers, sdgym.benchmarks, sdgym.cli; print(sdgym.__file__); sdgym.cli.execute(['--version'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.splitlines() == [str(tmp_path / "sdgym" / "__init__.py"), f"sdgym {sdgym.__version__}"]
