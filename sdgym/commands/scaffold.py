"""Writing new files from templates, for ``sdgym envs new`` and ``sdgym algos new``."""

from __future__ import annotations

import keyword
import pathlib
import re
import sys
from collections.abc import Mapping

from sdgym.errors import ConfigError, RunFolderError


def identifier(name: str) -> tuple[str, str]:
    """Return ``(module_name, ClassName)`` for a name in any spelling (``WordCount``, ``word-count``).

    Raises:
        ConfigError: it is not a Python name, or would shadow the standard library.
    """
    words = [w for w in re.split(r"[^A-Za-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)) if w]
    module, cls = "_".join(w.lower() for w in words), "".join(w[0].upper() + w[1:] for w in words)
    if not words or not module.isidentifier() or keyword.iskeyword(module):
        raise ConfigError(f"{name!r} cannot be a Python name: use letters and digits and begin with a letter, for example WordCount")
    if module in sys.stdlib_module_names:
        raise ConfigError(f"a file {module}.py would shadow Python's own module {module!r}: choose another name")
    return module, cls


def create(kind: str, directory: pathlib.Path, files: Mapping[str, str], **values: str) -> list[pathlib.Path]:
    """Render ``files`` (file name to template) into ``directory`` and return the paths; nothing is overwritten.

    Raises:
        RunFolderError: the folder does not exist or one of the files does.
    """
    import jinja2

    if not directory.is_dir():
        raise RunFolderError(f"the folder {str(directory)!r} does not exist: create it first")
    for name in files:
        if (directory / name).exists():
            raise RunFolderError(f"{str(directory / name)!r} exists already: choose another name for the new {kind} or another --dir")
    loader = jinja2.PackageLoader("sdgym", "commands/templates")
    templates = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    written = []
    for name, template in files.items():
        (directory / name).write_text(templates.get_template(template).render(**values), encoding="utf-8")
        written.append(directory / name)
    return written
