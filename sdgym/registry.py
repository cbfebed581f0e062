"""One generic registry: names, lazy string targets, third-party plugins, nearest-match errors."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from typing import Any, Generic, TypeVar

from sdgym.errors import UnknownNameError, UserError

T = TypeVar("T")
PLUGIN_GROUP = "sdgym.plugins"


class Registry(Generic[T]):
    """A table from names to objects or to ``"package.module:attribute"`` strings resolved on first use.

    Args:
        kind: what the entries are, for messages ("algorithm", "conditioner", …).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._table: dict[str, T | str] = {}

    def register(self, name: str, target: T | str, *, replace: bool = False) -> None:
        """Add ``name``. Raises :class:`UserError` if it is taken and ``replace`` is false."""
        if name in self._table and not replace and self._table[name] != target:
            raise UserError(f"the {self.kind} {name!r} is already registered; pass replace=True to override it")
        self._table[name] = target

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._table)

    def get(self, name: str) -> T:
        """Return the entry, importing it if it is a string target.

        A name with a colon that is not registered is itself taken as a target (``pkg.mod:Class``).

        Raises:
            UnknownNameError: no such entry, with the nearest names.
            UserError: the target cannot be imported.
        """
        target: Any = self._table.get(name)
        if target is None:
            if ":" not in name:
                load_plugins()
                target = self._table.get(name)
                if target is None:
                    raise UnknownNameError(self.kind, name, self._table)
            else:
                target = name
        if isinstance(target, str):
            target = self._import(name, target)
            if name in self._table:
                self._table[name] = target
        return target  # type: ignore[no-any-return]

    def _import(self, name: str, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            found = importlib.import_module(module)
            return getattr(found, attribute)
        except Exception as error:  # perhaps a third party's module: whatever it fails with is told under its name
            raise UserError(f"the {self.kind} {name!r} points to {target!r}, which cannot be loaded: {error}") from error


_plugins_loaded = False


def load_plugins() -> None:
    """Call every entry point of the group ``sdgym.plugins`` once.

    A plugin is a function without arguments that registers things. One that fails is named in a warning
    and does not stop the others.
    """
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()()
        except (Exception, SystemExit) as error:  # a third party's code: any failure is reported under its name
            warnings.warn(f"sdgym plugin {entry.name!r} ({entry.value}) failed and is skipped: {error!r}", stacklevel=2)
