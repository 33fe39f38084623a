"""Give links that leave `docs/` a place in the site.

Pages of `docs/` are read on a code host too, where `../plugins/attacks/pgd.py` leads to the
file. In the site the same link leads to `tree/plugins/attacks/pgd.py`: Markdown becomes a
page, source a page that shows it, a folder a list, everything else is copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Where files from outside `docs/` stand in the site.
TREE = PurePosixPath("tree")
SHOWN = {".py": "python", ".toml": "toml"}
_FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(\s*<?)([^)\s>]+)(?=>?(?:\s+\"[^\"]*\")?\s*\))")
_PAGE_LINK = re.compile(r"(href=\"\.\./[^\":]+)\.md(?=[\"#])")
_OTHER = re.compile(r"^[a-z][a-z0-9+.-]*:|^[#/]")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages of `docs/` link to outside it, and what that links to."""
    docs = Path(config.docs_dir)
    waiting = [
        target
        for file in files.documentation_pages()
        for target in _left(file.content_string, docs / file.src_uri, docs)
    ]
    added: set[PurePosixPath] = set()
    while waiting:
        target = waiting.pop()
        uri = _uri(target, docs)
        if uri in added:
            continue
        added.add(uri)
        file, found = _file(target, config)
        files.append(file)
        waiting.extend(found)
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links that leave `docs/`, and links of what stands there, meet in the site."""
    here = PurePosixPath(page.file.src_uri)
    docs = Path(config.docs_dir)
    inside = here.parts[0] != TREE.name
    if here.name == "index.md" and not inside:
        return markdown
    origin = docs / here if inside else ROOT / here.relative_to(TREE)

    def moved(link: str) -> str:
        path, mark, anchor = link.partition("#")
        target = _target(path, origin)
        return _relative(_uri(target, docs), here) + mark + anchor

    return _each_link(markdown, moved)


def _left(markdown: str, origin: Path, docs: Path) -> list[Path]:
    """Targets outside `docs/` of the links of a file."""
    found: list[Path] = []

    def noted(link: str) -> str:
        target = _target(link.partition("#")[0], origin)
        if not target.is_relative_to(docs):
            found.append(target)
        return link

    _each_link(markdown, noted)
    return found


def _each_link(markdown: str, change: Callable[[str], str]) -> str:
    """Change the relative links of a text outside its code blocks."""

    def changed(match: re.Match[str]) -> str:
        known = _OTHER.match(match[2])
        return match[1] + (match[2] if known else change(match[2]))

    parts, end = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [_LINK.sub(changed, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(changed, markdown[end:])])


def _target(path: str, origin: Path) -> Path:
    """The file or folder a link of `origin` means.

    Raises:
        FileNotFoundError: nothing is there, or it lies outside the project.
    """
    target = (origin.parent / unquote(path)).resolve()
    generated = target.is_relative_to(ROOT / "docs" / "reference")
    if not target.is_relative_to(ROOT) or not (target.exists() or generated):
        raise FileNotFoundError(f"{origin}: expected a link to a file, got {path!r}")
    return target


def _uri(target: Path, docs: Path) -> PurePosixPath:
    """Where the source of a target stands in the site."""
    if target.is_relative_to(docs):
        return PurePosixPath(target.relative_to(docs))
    place = TREE / target.relative_to(ROOT).as_posix()
    if target.is_dir():
        return place / ("README.md" if (target / "README.md").exists() else "index.md")
    return place.with_name(place.name + ".md") if target.suffix in SHOWN else place


def _relative(target: PurePosixPath, here: PurePosixPath) -> str:
    return quote(PurePosixPath(os.path.relpath(target, here.parent)).as_posix())


def _file(target: Path, config: MkDocsConfig) -> tuple[File, list[Path]]:
    """The site's file of a target, and the targets it leads to."""
    docs = Path(config.docs_dir)
    uri = _uri(target, docs)
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir() and uri.name == "index.md":
        held = sorted(p for p in target.iterdir() if not p.name.startswith(("_", ".")))
        lines = "".join(
            f"- [{p.name}]({_relative(_uri(p, docs), uri)})\n" for p in held
        )
        return _page(uri, f"# `{name}/`\n\n{lines}", config), held
    if target.is_dir():
        target /= "README.md"
    if target.suffix == ".md":
        text = target.read_text(encoding="utf-8")
        return _page(uri, text, config), _left(text, target, docs)
    if target.suffix in SHOWN:
        text = target.read_text(encoding="utf-8").rstrip("\n")
        shown = f"# `{name}`\n\n````{SHOWN[target.suffix]}\n{text}\n````\n"
        return _page(uri, shown, config), []
    if target.suffix == ".html":
        text = _PAGE_LINK.sub(r"\1.html", target.read_text(encoding="utf-8"))
        return File.generated(config, str(uri), content=text), []
    return File.generated(config, str(uri), abs_src_path=str(target)), []


def _page(uri: PurePosixPath, text: str, config: MkDocsConfig) -> File:
    file = File.generated(config, str(uri), content=text)
    file.inclusion = file.inclusion.NOT_IN_NAV
    return file
