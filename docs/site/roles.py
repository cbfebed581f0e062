"""Docstrings of this project say ``:class:`sdgym.core.Task```; on the site that is a link where the reference has the object."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(~?)([\w.]+)`")


def linked(text: str) -> str:
    """Replace roles by links that may lead nowhere."""

    def one(match: re.Match[str]) -> str:
        shown = match[2].rpartition(".")[2] if match[1] or match[2].startswith("sdgym.") else match[2]
        if not match[2].startswith("sdgym."):
            return f"`{shown}`"
        return f'<autoref identifier="{match[2]}" optional><code>{shown}</code></autoref>'

    return ROLE.sub(one, text)


class Roles(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value)
