"""sdgym: a gym of text environments and a zoo of post-training algorithms over one rollout buffer.

Importing this package registers the built-in environments with Gymnasium and loads neither torch nor
transformers; the public functions below import what they need when they are first used.
"""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

__version__ = "0.1.0"

_LINKS = ("envs", "algos", "verifiers", "benchmarks")
_PUBLIC = {
    "make": "sdgym.api",
    "train": "sdgym.api",
    "evaluate": "sdgym.api",
    "compare": "sdgym.api",
    "register_env": "sdgym.api",
    "register_algorithm": "sdgym.api",
    "TextEnv": "sdgym.text_env",
    "Task": "sdgym.core",
    "Feedback": "sdgym.core",
    "Verdict": "sdgym.core",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def _check_links() -> None:
    """Refuse a checkout whose four folder links were written as text files (``core.symlinks=false``)."""
    here = pathlib.Path(__file__).parent
    broken = [name for name in _LINKS if not (here / name).is_dir()]
    if broken:
        raise ImportError(
            f"sdgym/{broken[0]} is not a folder: this checkout was made without symbolic links. "
            "Run `git config core.symlinks true && git checkout -- sdgym` (on Windows, inside WSL2)."
        )


_check_links()


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import sdgym`` stays light."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sdgym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


importlib.import_module("sdgym.envs")  # registers the built-in environments (string targets only)
