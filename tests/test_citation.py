"""BibTeX of plugins, of cibench itself, and CITATION.cff."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pybtex.database import parse_string

import cibench
from cibench.citation import keys, made
from cibench.cli import invoke
from cibench.registry import default_registry
from cibench_plugins import papers

ROOT = Path(__file__).parents[1]
ENTRIES = [e for e in default_registry().entries if e.distribution == "cibench"]
PAPERS = {name: text for name, text in vars(papers).items() if name.isupper()}


def parsed(text):
    return parse_string(text, "bibtex").entries


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_is_one_entry_with_what_a_reference_needs(name):
    (entry,) = parsed(PAPERS[name]).values()
    assert entry.persons["author"]
    assert {"title", "year"} <= set(entry.fields)
    assert 1900 < int(entry.fields["year"]) < 2100


def test_keys_are_unique_and_every_paper_is_cited():
    found = [key for text in PAPERS.values() for key in keys(text)]
    assert len(set(found)) == len(found)
    registry = default_registry()
    cited = "".join(registry.load(e.kind, e.name).bibtex for e in ENTRIES)
    assert set(keys(cited)) == set(found)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.kind}-{e.name}")
def test_entries_and_citation_name_the_same_years(entry):
    """A plugin that cites a work has its entry, and its year is in the citation."""
    cls = default_registry().load(entry.kind, entry.name)
    years = {found.fields["year"] for found in parsed(cls.bibtex).values()}
    assert all(year in cls.citation + cls.__doc__ for year in years)
    assert bool(cls.bibtex) == any(sign.isdigit() for sign in cls.citation)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("copur", {"liu2022copur"}),
        ("pgd", {"madry2018towards", "carlini2017towards"}),
        ("cibench", {"cibench"}),
        # Of several kinds: the defense is of a paper, the attack of none.
        ("none", {"liu2022copur", "cibench-attack-none"}),
        ("synthetic", {"cibench-dataset-synthetic"}),
    ],
)
def test_info_prints_entries_alone(name, expected, capsys):
    assert invoke(["info", name, "--bibtex"]) == 0
    assert set(parsed(capsys.readouterr().out)) == expected


def test_info_tells_programs_too(capsys):
    assert invoke(["info", "vflip", "--json"]) == 0
    (plugin,) = json.loads(capsys.readouterr().out)
    assert keys(plugin["bibtex"]) == ["cho2024vflip"]


def test_both_forms_at_once_are_refused(capsys):
    assert invoke(["info", "pgd", "--json", "--bibtex"]) == 2
    assert "expected one of --json and --bibtex, got both" in capsys.readouterr().err


def test_cff_and_bibtex_of_cibench_agree(capsys):
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert invoke(["info", "cibench", "--bibtex"]) == 0
    (entry,) = parsed(capsys.readouterr().out).values()
    assert found["version"] == entry.fields["version"] == cibench.VERSION
    assert found["title"] == entry.fields["title"]
    assert [author["name"] for author in found["authors"]] == ["The cibench authors"]
    assert found["license"] == "Apache-2.0"


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_a_citation_says_the_entry_can_be_parsed(citation, source):
    text = made("defense", "my-def", citation=citation, source=source)
    assert keys(text) == ["cibench-defense-my-def"]
    printable = "".join(sign for sign in citation if sign.isprintable() or sign == " ")
    if printable == citation:
        assert set(parsed(text)) == {"cibench-defense-my-def"}


def test_an_entry_that_is_made_says_what_it_is_of():
    assert "{vast: an attack for cibench}" in made(
        "attack", "vast", citation="", source="x"
    )
    assert "{vast: a dataset for cibench}" in made(
        "dataset", "vast", citation="", source="x"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Liu et al. 2022", "expected a BibTeX entry"),
        ("@article{, title={x}}", "expected a BibTeX entry"),
        ("@article{a, title={x}", "entry a: expected braces that match"),
        ("@article{a, title={x}}}", "expected a BibTeX entry"),
        ("@article{a, title={x}} and more", "expected a BibTeX entry"),
    ],
)
def test_what_is_no_entry_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        keys(text)


def test_no_text_has_no_keys():
    assert keys("  \n") == []
