"""Foreign text on pages: one bounded line that acts on nothing."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cibench.leaderboard.text import code, markdown, shown, slug

ANY = st.text(st.characters(), max_size=200)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(ANY, st.integers(2, 120))
def test_shown_is_one_bounded_line_of_visible_characters(text: str, most: int) -> None:
    line = shown(text, most)
    assert len(line) <= most
    assert line == line.strip()
    assert not set(line) & set(BIDI + "\r\n\t\x00\u2028\u2029")
    line.encode()  # no lone surrogate
    assert all(unicodedata.category(c)[0] != "C" for c in line)


@given(ANY)
def test_shown_text_stays_as_it_is(text: str) -> None:
    once = shown(text, 5000)
    assert shown(once, 5000) == once


def test_plain_text_is_shown_unchanged() -> None:
    text = "manifold-projection:width=3 by Zoë Müller, 山田 (ق)"
    assert shown(text) == text
    assert markdown("pgd:agents=random:1,steps=20") == "pgd:agents=random:1,steps=20"
    assert markdown("code_width x_1") == "code_width x_1"


def test_long_text_is_cut_once() -> None:
    assert shown("x" * 10_000) == "x" * 79 + "…"
    assert shown("x" * 80) == "x" * 80
    assert len(markdown("<" * 10_000)) <= 80 * 6


def test_stacked_marks_do_not_paint_over_other_lines() -> None:
    assert shown("e\u0301") == "e\u0301"
    assert shown("e" + "\u0301" * 9, 200).count("\u0301") == 3


@given(ANY)
def test_markdown_has_no_character_that_acts(text: str) -> None:
    cell = markdown(text, 500)
    assert html.unescape(cell) == shown(text, 500)
    bare = re.sub(r"&#\d+;", "", cell)
    assert not set(bare) & set("\\`*[]<>&#|~$!@\n")
    assert "://" not in bare
    assert not re.search(r"www\.", bare, re.IGNORECASE)
    assert not re.match(r"[-+=]|\d+[.)]", cell)


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "a|b", "[x](javascript:1)", "`a|b`", "_a_"]
)
def test_hostile_names_are_text(text: str) -> None:
    for cell in (markdown(text), code(text)):
        bare = cell.removeprefix("<code>").removesuffix("</code>").strip("`")
        assert "|" not in bare
        if "`" not in cell:
            assert "<" not in bare
            assert "[" not in bare


@given(ANY)
def test_code_is_closed_where_it_opens(text: str) -> None:
    span = code(text, 500)
    assert span.count("`") in (0, 2)
    assert "|" not in span


@given(ANY)
def test_slug_is_fit_for_ids_and_files(text: str) -> None:
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 80


@given(st.lists(ANY, unique=True, max_size=20))
def test_slugs_of_distinct_texts_are_distinct(texts: list[str]) -> None:
    assert len({slug(text) for text in texts}) == len(texts)


def test_a_text_cannot_pose_as_the_slug_of_another() -> None:
    first = slug("A b")
    assert slug(first) != first
    assert slug("a-b") == "a-b"
    assert slug("../../x").endswith(slug("../../x")[-10:])
    assert slug("x" * 10_000) != slug("x" * 10_001)
