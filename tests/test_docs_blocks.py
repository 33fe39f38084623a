"""Every block of Python and TOML in the documentation runs, or says why it does not."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: A block that is a file of an example is run where the example is tested.
BLOCK = re.compile(
    r"(?:<!--\s*(?:not-run|file):\s*(?P<reason>.*?)\s*-->\n)?^```(?P<language>python|toml)\n"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(language):
    """Pages with their blocks of a language that are to run."""
    found = {}
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            assert block["reason"] != "", (
                f"{page.name}: expected a reason after not-run:"
            )
            if block["language"] == language and block["reason"] is None:
                found.setdefault(page.relative_to(ROOT).as_posix(), []).append(
                    block["code"]
                )
    return found


PYTHON, TOML = blocks("python"), blocks("toml")


def test_there_are_blocks_of_both():
    assert "docs/hooks.md" in PYTHON
    assert "docs/suites.md" in TOML


@pytest.mark.parametrize("page", PYTHON)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    module = {"__name__": "documented"}
    for number, code in enumerate(PYTHON[page], start=1):
        exec(compile(code, f"{page} block {number}", "exec"), module)


@pytest.mark.parametrize("page", TOML)
def test_toml_blocks_parse(page):
    for code in TOML[page]:
        assert tomllib.loads(code)
