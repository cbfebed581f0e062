"""Hooks of the documentation site: patterns in the navigation, the command line's reference, and pages for linked source files.

On a code host `[grpo.py](../algos/grpo.py)` leads to the file. A site holds only what lies in ``docs/``, so every text file outside
that a page links to becomes a page of its own under ``source/``, and links are rewritten to it.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)]*)?(\))")
COMMANDS = "<!-- what every command says under --help -->"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", "": "text", ".txt": "text"}


def on_config(config: Any) -> Any:
    """Replace patterns in the navigation."""
    config["nav"] = expanded(config["nav"], DOCS)
    return config


def expanded(nav: list[Any], docs: pathlib.Path) -> list[Any]:
    """Return the navigation with ``folder/*`` replaced by the folder's pages and ``*`` by the pages that nothing else names."""
    pages = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))

    def filled(items: list[Any], rest: list[str]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if item == "*":
                found += rest
            elif isinstance(item, str) and item.endswith("/*"):
                found += [page for page in pages if posixpath.dirname(page) == item[:-2]]
            elif isinstance(item, dict):
                found.append({title: filled(value, rest) if isinstance(value, list) else value for title, value in item.items()})
            else:
                found.append(item)
        return found

    named = set(flat(filled(nav, [])))
    return filled(nav, [page for page in pages if page not in named])


def flat(nav: Any) -> list[str]:
    """Return the pages of a navigation in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in flat(item)]


def outside(page: str, target: str) -> pathlib.Path | None:
    """Return the file or folder outside ``docs/`` that a link of ``page`` (path inside ``docs/``) leads to, if it does."""
    if re.match(r"[a-z]+:", target):
        return None
    path = (DOCS / pathlib.Path(page).parent / target).resolve()
    return path if path.is_relative_to(ROOT) and not path.is_relative_to(DOCS) and path.exists() else None


def source_page(path: pathlib.Path) -> str:
    """Return the page of a source file, as a path inside ``docs/``."""
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def rewritten(markdown: str, page: str, base: str) -> str:
    """Rewrite links of ``markdown``, which stands at ``base``, so that they hold on ``page``."""

    def one(match: re.Match[str]) -> str:
        before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
        found = outside(base, target)
        if found is not None:
            to, anchor = source_page(found), anchor if found.suffix == ".md" else ""
        elif page != base and not re.match(r"[a-z]+:", target):
            to = (DOCS / pathlib.Path(base).parent / target).resolve().relative_to(DOCS).as_posix()
        else:
            return match[0]
        return f"{before}{posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor}{after}"

    return LINK.sub(one, markdown)


def rendered(path: pathlib.Path) -> str:
    """Return the Markdown of a source page."""
    name = path.relative_to(ROOT).as_posix()
    head = f"---\ntitle: {name}\nhide: [navigation, toc]\nsearch: {{exclude: true}}\n---\n"
    if path.is_dir():
        listed = "\n".join(f"- `{child.name}`" for child in sorted(path.iterdir()) if not child.name.startswith(("_", ".")))
        return f"{head}# {name}/\n\n{listed}\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return head + rewritten(text, source_page(path), posixpath.relpath(name, "docs"))
    fence = "`" * max(4, *(len(run) + 1 for run in re.findall(r"`+", text)), 4)
    return f"{head}# {name}\n\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every source file that is linked to, from pages and from those pages in turn."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    known: set[pathlib.Path] = set()
    while waiting:
        page, text = waiting.pop()
        for match in LINK.finditer(text):
            found = outside(page, match[2])
            if found is None or found in known:
                continue
            known.add(found)
            page_text = rendered(found)
            made = File.generated(config, source_page(found), content=page_text)
            made.inclusion = made.inclusion.NOT_IN_NAV
            files.append(made)
            if found.suffix == ".md":
                waiting.append((posixpath.relpath(found.relative_to(ROOT).as_posix(), "docs"), found.read_text(encoding="utf-8")))
    return files


def command_reference() -> str:
    """Return what every command says under ``--help``, as Markdown."""
    import typer

    from sdgym.cli import app

    def sections(command: Any, name: str) -> Iterator[str]:
        context = command.context_class(command, info_name=name, terminal_width=100, max_content_width=100)
        yield f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"
        for verb, child in sorted(getattr(command, "commands", {}).items()):
            yield from sections(child, f"{name} {verb}")

    return "\n".join(sections(typer.main.get_command(app), "sdgym"))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the command line's reference; let links to source files lead to their pages."""
    markdown = markdown.replace(COMMANDS, command_reference()) if COMMANDS in markdown else markdown
    return markdown if page.file.src_uri.startswith("source/") else rewritten(markdown, page.file.src_uri, page.file.src_uri)
