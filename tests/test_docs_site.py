"""The documentation as a site: whole, true to the code, and readable without a network."""

import contextlib
import functools
import html
import http.server
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

import cibench
import cibench.conformance
from browser import browser_for_module
from cibench.cli import group
from cibench.cli.info import describe
from cibench.flags import FLAGS
from cibench.registry import default_registry

pytest.importorskip("mkdocs", reason="needs pip install -e .[docs]")
pytest.importorskip("playwright")

from playwright.sync_api import TimeoutError

ROOT = Path(__file__).parents[1]
ENTRIES = [e for e in default_registry().entries if e.distribution == "cibench"]
LOADING = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "link": "href",
}  # fmt: skip
#: Links of pages to what they do not load.
NOT_LOADED = {"canonical", "prev", "next"}
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)

browser = browser_for_module()


class Page(HTMLParser):
    """Anchors, links, loaded addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded, self.words = set(), [], [], []
        self.math = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        self.math += tag == "math"
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        address = given.get(LOADING.get(tag, ""))
        if address and given.get("rel") not in NOT_LOADED:
            self.loaded.append(address)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; whatever reaches for the network fails the build."""
    out = tmp_path_factory.mktemp("docs") / "site"
    nowhere = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        env=os.environ
        | dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), nowhere)
        | {"no_proxy": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }


def test_every_page_of_docs_is_there_and_in_the_navigation(site, pages):
    listed = set(pages[site / "index.html"].links)
    for source in (ROOT / "docs").rglob("*.md"):
        name = source.relative_to(ROOT / "docs").with_suffix(".html")
        assert site / name in pages
        assert name.as_posix() in listed | {"index.html"}


def test_no_page_loads_anything_from_the_network(site, pages):
    assert len(pages) > 40
    foreign = [
        (path.name, address)
        for path, page in pages.items()
        for address in page.loaded
        if urlsplit(address).netloc
    ]
    assert foreign == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", text), sheet.name


def test_every_internal_link_and_anchor_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or parts.fragment.startswith("/"):
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = target if parts.path else path
            anchor = unquote(parts.fragment)
            known = target in pages or target.is_file()
            lost = anchor and target in pages and anchor not in pages[target].anchors
            if not known or lost:
                broken.append((path.relative_to(site).as_posix(), link))
    assert broken == []


def test_equations_are_mathml(site, pages):
    with_equations = ("attacks", "certificates", "defenses", "evaluating")
    for name in with_equations:
        page = pages[site / f"{name}.html"]
        source = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        bare = re.sub(r"`[^`\n]*`", "", FENCED.sub("", source))
        displayed = len(re.findall(r"^\$\$$", bare, re.MULTILINE)) // 2
        inline = len(re.findall(r"\$[^$\n]+\$", re.sub(r"(?s)\$\$.*?\$\$", "", bare)))
        assert displayed >= (1 if name == "evaluating" else 5)
        assert page.math == displayed + inline
    for path, page in pages.items():
        assert not re.search(r"\\[\[(]|\$\$", page.text) or "tree" in path.parts, path
        # A dollar of the shell begins no equation.
        assert not page.math or path.stem in with_equations, path


def commands(command=group, path="cibench"):
    context = click.Context(command)
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_in_the_reference(site, path):
    """Options as `--help` has them, examples as they are typed."""
    source = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    section = source.split(f'id="{path.replace(" ", "-")}"')[1]
    section = re.split(r"<h\d|</article", section)[0]
    text = Page(section).text
    assert f"{path} [OPTIONS]" in text
    command = COMMANDS[path]
    context = click.Context(command, info_name=path)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, (path, parameter.name)
            option, meaning = parameter.get_help_record(context)
            told = f"{option} {' '.join(meaning.split())}".replace("`", "")
            assert re.search(rf"(?<![\w-]){re.escape(told)}", text), told
    examples = re.findall(
        r"\x08\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(command.help), re.S
    )
    blocks = re.findall(r"<pre>(.*?)</pre>", section, re.DOTALL)
    shown = [html.unescape(re.sub("<[^>]+>", "", block)) for block in blocks]
    for example in examples:
        assert f"{example}\n" in shown


def test_every_public_name_is_in_the_reference(site, pages):
    page = pages[site / "reference" / "api.html"]
    constants = {n for n in cibench.__all__ if n.isupper()}
    missing = [
        name
        for name in cibench.__all__
        if name not in constants and f"cibench.{name}" not in page.anchors
    ]
    missing += [n for n in constants if f"cibench.{n}" not in page.text]
    missing += [
        name
        for name in cibench.conformance.__all__
        if f"cibench.conformance.{name}" not in page.anchors
    ]
    assert missing == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_every_option_of_every_plugin_is_explained(site, pages, entry):
    page = pages[site / "reference" / "plugins.html"]
    assert f"{entry.kind}-{entry.name}" in page.anchors
    described = describe(entry.kind, entry.name)
    source = (site / "reference" / "plugins.html").read_text(encoding="utf-8")
    section = source.split(f'id="{entry.kind}-{entry.name}"')[1].split("<h3")[0]
    for option in described["options"]:
        rows = re.findall(
            rf"<td><code>{option['option']}</code></td>\s*<td>.+?</td>"
            r"\s*<td>.+?</td>\s*<td>(.+?)</td>",
            section,
            re.DOTALL,
        )
        assert [len(row.split()) > 1 for row in rows] == [True], option


@pytest.mark.parametrize(
    ("kind", "name"), [("attack", "attacks"), ("defense", "defenses")]
)
def test_every_method_has_a_section_with_its_options(kind, name):
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"(?ms)^#{2,3} `([\w-]+)`$\n(.*?)(?=^#{1,3} |\Z)", text))
    methods = {e.name for e in ENTRIES if e.kind == kind}
    assert set(sections) == methods
    for method in methods:
        for option in describe(kind, method)["options"]:
            name, default = option["option"], option["default"]
            assert re.search(rf"`{name}[`=]", sections[method]), (method, option)
            row = re.search(rf"^\| `{name}` \| (.+?) \|", sections[method], re.M)
            if row:
                assert row[1].strip("`") == shown(default), (method, name)


def shown(default):
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    return {None: "none", "": "computed"}.get(default, str(default))


def test_every_flag_is_explained(site, pages):
    text = pages[site / "reference" / "flags.html"].text
    for name, flag in FLAGS.items():
        assert all(
            " ".join(part.split()) in text
            for part in (name, flag.raised_if, flag.meaning, flag.remedy)
        ), name


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(site):
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def find(page, word):
    """Search as a reader does: again, if the index had not been loaded before."""
    field = page.get_by_placeholder("Search")
    found = page.locator(".md-search-result__link").first
    for attempt in range(12):
        field.fill("")
        field.press_sequentially(word)
        with contextlib.suppress(TimeoutError if attempt < 11 else ()):
            found.wait_for(timeout=10_000)
            return


def test_a_reader_finds_an_equation_by_searching(browser, served):
    page = browser.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{served}/index.html")
    page.get_by_label("Search").first.click()
    find(page, "amplification")
    page.goto(f"{served}/attacks.html")
    box = page.locator("math").first.bounding_box()
    assert box["width"] > 5
    assert box["height"] > 5
    assert errors == []
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(served).netloc}
    page.close()


def fonts():
    """Names of the fonts of this machine."""
    if shutil.which("fc-list") is None:
        return ""
    asked = subprocess.run(
        ["fc-list", ":", "family"], capture_output=True, text=True, check=True
    )
    return asked.stdout


@pytest.mark.skipif("DejaVu Math TeX Gyre" not in fonts(), reason="needs that font")
def test_indices_of_equations_stand_below_the_line(browser, site):
    """Fonts of text are set with indices on it."""
    page = browser.new_page()
    page.goto((site / "attacks.html").as_uri())
    below = page.locator("msub").evaluate_all(
        "found => found.map(m => m.children[1].getBoundingClientRect().bottom"
        " - m.children[0].getBoundingClientRect().bottom)"
    )
    assert len(below) > 20
    assert sum(shift > 1 for shift in below) > 0.9 * len(below)
    page.close()
