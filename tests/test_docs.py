import inspect
import re
from pathlib import Path
from urllib.parse import unquote

import pluggy
import pytest

from cibench import hookspecs
from cibench.registry import default_registry
from cibench.suites import suite_names

ROOT = Path(__file__).parents[1]
HOOKS_PAGE = ROOT / "docs" / "hooks.md"
PAGES = [
    ROOT / "README.md",
    *(p for p in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md") if p.exists()),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "leaderboard").glob("*.md")),
    *sorted((ROOT / "leaderboard" / "boards").glob("*.md")),
]
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ *\[[^\]]+\]: +<?(\S+?)>?(?: .*)?$", re.MULTILINE)
HTML = re.compile(r"(?:src|href)=\"([^\"]+)\"")


def hooks():
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return {
        name: caller.spec.argnames
        for name, caller in vars(manager.hook).items()
        if not name.startswith("_")
    }


HOOKS = hooks()


@pytest.fixture(scope="module")
def sections():
    """Text below each heading `cibench_...` of the page on hooks."""
    text = HOOKS_PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## `(.+)`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_a_section_for_each_hook_and_no_other(sections):
    expected = {f"{name}({', '.join(given)})" for name, given in HOOKS.items()}
    assert set(sections) == expected


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_each_hook_is_explained_with_an_example_that_fits(name, sections):
    section = sections[f"{name}({', '.join(HOOKS[name])})"]
    prose = FENCED.sub("", section).strip()
    assert len(prose.split()) >= 10
    for argument in HOOKS[name]:
        assert f"`{argument}`" in prose
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL
    )
    module = {"__name__": "documented_plugin"}
    exec(compile(example, f"docs/hooks.md {name}", "exec"), module)
    implementation = module[name]
    assert set(inspect.signature(implementation).parameters) <= set(HOOKS[name])
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(type("Plugin", (), {name: staticmethod(implementation)}))
    manager.check_pending()
    assert len(getattr(manager.hook, name).get_hookimpls()) == 1
    if not HOOKS[name]:
        (provided,) = implementation()
        provided()


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_each_hook_has_a_docstring_of_one_sentence(name):
    text = inspect.getdoc(getattr(hookspecs, name))
    assert text.endswith(".")
    assert "\n" not in text


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE):
        bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", bare).replace(" ", "-"))
    return found


def links(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`\n]*`", "", text)
    return LINK.findall(text) + DEFINITION.findall(text) + HTML.findall(text)


@pytest.mark.skipif(
    not (ROOT / "plugins").is_dir(),
    reason="links lead into the tree, which is not here",
)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_resolve(page):
    broken = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT.resolve())
        # Made from the code when the site is built, and tested there.
        if inside and target.parent == ROOT / "docs" / "reference":
            continue
        inside = inside and target.exists()
        lost = (
            inside
            and anchor
            and target.suffix == ".md"
            and anchor not in anchors(target)
        )
        if not inside or lost:
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("defense", "docs/defenses.md"),
        ("attack", "docs/threat-models.md"),
        ("dataset", "docs/data.md"),
        ("suite", "docs/suites.md"),
    ],
)
def test_every_shipped_method_is_documented(kind, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    if kind == "suite":
        names = suite_names()
    else:
        entries = [e for e in default_registry().entries if e.kind == kind]
        names = [e.name for e in entries if e.distribution == "cibench"]
    assert len(names) >= 5
    missing = [n for n in names if n != "none" and not re.search(rf"`{n}\b", text)]
    assert missing == []
