"""Names of models, where they lie, and how to get one without a model hub."""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDED = ("tiny", "tiny-b", "tiny-c", "tiny-weak")
FETCHABLE = ("smollm2-135m",)
_ASSETS = Path(__file__).parent / "assets"


def cache_folder() -> Path:
    """Return the folder of fetched models: ``$SDGYM_CACHE/models`` or ``~/.cache/sdgym/models``."""
    root = os.environ.get("SDGYM_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "sdgym") / "models"


def local_path(name: str) -> Path | None:
    """Return the folder of an embedded, fetched or local model; None if the name is none of these."""
    if name in EMBEDDED:
        folder = _ASSETS / name
    elif name in FETCHABLE:
        folder = cache_folder() / name
    else:
        folder = Path(name).expanduser()
    return folder if (folder / "config.json").is_file() else None


def known_names() -> list[str]:
    """Return the names that can be loaded now: embedded models and fetched ones."""
    return [name for name in (*EMBEDDED, *FETCHABLE) if local_path(name) is not None]
