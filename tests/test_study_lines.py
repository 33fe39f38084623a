"""The line of a mistake in a study file."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cibench._errors import UsageError
from cibench.study import RunOptions
from cibench.suites import _lines, line_of, read_study, study_of

BASE = """
title = "T"
[[scenarios]]
label = "one"
attack = "flip"
[[protocols]]
name = "p"
datasets = ["mfeat"]
[protocols.defenses]
none = "none"
"""

#: The line with the mistake ends in `#!`.
SHAPES = {
    "at the top": 'titel = 1 #!\ntitle = "T"',
    "after a string": 'description = """\n[figure]\nlabl = 1\n"""\nseed = 1 #!',
    "after a literal string": "description = '''\nseed = 1\n[x]'''\nseed = 1 #!",
    "a quoted key": '"seed" = 1 #!',
    "after comments": '# [figure]\n# labl = 1\n\n   \nseed = 1 #!',
    "an indented key": '[figure]\n  label = "A"\n\t scal = "log" #!',
    "a dotted key": 'figure.label = "A"\nfigure.scale = "lin" #!',
    "a dotted header": '[[claims]]\ntext = "t"\n[claims.scenario] #!\nx = 1',
    "a header with spaces": '[ figure ] # [x]\nlabel = "A"\nscal = 1 #!',
    "an inline table": 'figure = { label = "A", scal = 1 } #!',
    "a table within a list": (
        '[[published]]\nscenario="one"\ndefense="none"\ndataset="mfeat"\nmean=1\n'
        "[[published]]\nx.y = 1 #!"
    ),
    "a multi-line list": 'published = [ #!\n  {},\n  # ]\n  {},\n]\nseeds = 3',
    "a list and then a key": '[run]\nexclude = [\n "a",\n "]", # ]\n "b"\n]\njob = 1 #!',
    "brackets in strings": '[run]\nexclude = ["[[x]]", "]"]\ndevice = 3 #!',
    "a wrong value": "seeds = 0 #!",
    "a wrong type": 'seeds = "many" #!',
    "not finite": '[[published]]\nscenario = "a"\nmean = nan #!',
    "the wrong one of several": (
        '[[published]]\nscenario="one"\ndefense="none"\ndataset="mfeat"\nmean=1\n'
        '[[published]]\nscenario="one"\ndefense="none"\ndataset="mfeat"\nmean=101 #!'
    ),
    "an unknown label": (
        '[[claims]]\ntext="t"\nscenario="one"\ndataset="mfeat"\nbetter="nome" #!\n'
        'than=["none"]'
    ),
    "a key that lacks": '[[claims]] #!\ntext = "t"\nscenario = "one"\ndataset = "mfeat"',
}  # fmt: skip


def line_in(message):
    found = re.search(r"s\.toml, line (\d+): ", message)
    return int(found[1]) if found else None


@pytest.fixture
def line(tmp_path):
    """The line that the message about a text names."""

    def of(text):
        path = tmp_path / "s.toml"
        path.write_bytes(text.encode())
        with pytest.raises(UsageError) as caught:
            read_study(path)
        return line_in(str(caught.value))

    return of


def marked(text):
    (found,) = (n for n, row in enumerate(text.split("\n"), 1) if row.endswith("#!"))
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_mistake_is_at_its_line(line, shape, end):
    first = shape.partition("\n")[0].lstrip()
    # What stands at the top of a file cannot stand behind a header.
    before = not first.startswith("[")
    base = BASE.replace('title = "T"', "") if "title =" in shape else BASE
    text = f"{shape}\n{base}" if before else f"{base}{shape}\n"
    assert line(text.replace("\n", end)) == marked(text)


def test_the_wrong_entry_of_a_table(line):
    text = BASE + 'copur = "copur"\n"a: b" = 3 #!\n'
    assert line(text) == marked(text)
    text = BASE + 'copur = "" #!\n'
    assert line(text) == marked(text)


def test_a_data_set_given_twice_in_a_list_of_several_lines(line):
    text = BASE.replace('datasets = ["mfeat"]', 'datasets = [ #!\n"mfeat",\n"mfeat"\n]')
    assert line(text) == marked(text)


def test_no_line_where_nothing_stands(line):
    assert line('seeds = 3\nsource = "x"') is None
    assert line("") is None


def test_a_part_that_has_the_mistake_leads_to_the_nearest_part():
    text = "a = 1\n[b]\nc = 2\n[[d]]\n[[d]]\ne = [\n[1],\n[2]]\n"
    assert line_of(text, ("b", "x", 3)) == 2
    assert line_of(text, ("d", 1, "x")) == 5
    assert line_of(text, ("d", 2)) == 4
    assert line_of(text, ("d", 1, "e", 1, 0)) == 6
    assert line_of(text, ("x",)) is None
    assert line_of(text, ()) is None
    assert line_of('a = "xyz"', ("a", 1)) == 1


def test_too_much_to_look_at_has_no_line(monkeypatch):
    monkeypatch.setattr(_lines, "_EFFORT", 20)
    assert line_of("a = 1\nb = 2", ("b",)) == 2
    assert line_of("a = [\n[1],\n[2],\n[3],\n[4],\n[5]]\nb = 2", ("b",)) is None


def test_too_deep_a_nesting_is_refused(line):
    deep = ".".join(["a"] * 3000)
    assert line(f"{deep} = 1\n") is None
    with pytest.raises(UsageError, match="too deep a nesting"):
        study_of(tomllib.loads(f"{deep} = 1\n"))


KEYS = st.sampled_from(["a", "b", '"c d"', "'[x]'", '"#"', "e-f", '"="'])
PLAIN = st.sampled_from(
    ["1", '"x"', "'# ['", '"]"', "[]", "[1, 2]", "{}", "true", "1979-05-27"]
)
LONG = st.sampled_from(
    ['"""\n[a]\nb = 1\n"""', "'''\n#'''", "[\n]", "[ # ]\n 1,\n\n [2,\n 3], '''\n]'''\n]",
     '{ a = [\n1,\n{b = """\n"""}\n]}', '"""\\"""\n"""', '"""a\n""""']
)  # fmt: skip
NOISE = st.sampled_from(["", "  ", "# a = 1", "\t# [[b]]", "#'''", '# """'])


@st.composite
def documents(draw):
    """A TOML text, and the line of every key and header in it by what it says."""
    rows, marks = [], {}
    headers = draw(
        st.lists(st.sampled_from(["[t{}]", "[[l]]", "[ u.v{} ]"]), max_size=4)
    )
    tables = 0
    for number, header in enumerate(["", *headers]):
        path = ()
        if header:
            rows += draw(st.lists(NOISE, max_size=2))
            rows.append(header.format(number) + draw(st.sampled_from(["", " # [x]"])))
            if header == "[[l]]":
                path = ("l", tables)
                tables += 1
            else:
                path = tuple(header.format(number).strip("[] ").split("."))
            marks[path] = len(rows)
        for key in draw(st.lists(KEYS, max_size=3, unique=True)):
            rows += draw(st.lists(NOISE, max_size=1))
            marks[*path, key.strip("\"'")] = len(rows) + 1
            rows += f"{key} = {draw(PLAIN | LONG)}".split("\n")
    return "\n".join(rows), marks


@settings(deadline=None)
@given(documents(), st.sampled_from(["\n", "\r\n"]))
def test_every_key_and_header_is_found(document, end):
    text, marks = document
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    found = {path: line_of(text.replace("\n", end), path) for path in marks}
    assert found == marks


@settings(deadline=None)
@given(st.integers(0, 30), st.sampled_from(["titel = 1", "seeds = 'x'"]))
def test_lines_above_move_the_line(count, mistake):
    content = ("# [x]\n" * count + mistake + BASE).encode()
    methods = {"read_bytes": lambda _: content, "__str__": lambda _: "s.toml"}
    with pytest.raises(UsageError) as caught:
        read_study(type("Text", (), methods)())
    assert line_in(str(caught.value)) == count + 1


# How a study is run.


def run_of(text):
    return study_of(tomllib.loads(BASE + "[run]\n" + text)).run


def test_a_file_may_say_how_it_is_run():
    assert run_of("") == RunOptions()
    assert study_of(tomllib.loads(BASE)).run == RunOptions()
    run = run_of(
        'jobs = "auto"\nbackend = "dask"\ntimeout = "20m"\nmemory = "4G"\nthreads = 2\n'
        'device = "cuda"\nlimit = 10\npreset = "full"\nisolation = "none"\n'
        'exclude = ["pgd/copur"]'
    )
    assert (run.jobs, run.backend, run.timeout, run.memory) == (
        "auto",
        "dask",
        "20m",
        "4G",
    )
    assert (run.threads, run.device, run.limit, run.preset) == (2, "cuda", 10, "full")
    assert (run.isolation, run.exclude) == ("none", ["pgd/copur"])
    assert run_of("jobs = 3").jobs == 3


@pytest.mark.parametrize(
    "text",
    ["jobs = 0", 'jobs = "all"', "jobs = 1.5", "jobs = true", "backend = 1", "timeout = 20",
     "memory = 4", "threads = 0", 'device = ""', "limit = 0", 'preset = "slow"',
     'exclude = "a"', 'exclude = [""]', "isolation = true", "jbos = 1"],
)  # fmt: skip
def test_wrong_ways_to_run(line, text):
    assert line(f"{BASE}[run]\n{text}\n") == BASE.count("\n") + 2


PAGE = Path(__file__).parents[1] / "docs" / "suites.md"


def test_the_page_on_suites_has_every_key_of_run():
    text = PAGE.read_text(encoding="utf-8").rpartition("`[run]`")[2]
    for field in RunOptions.__struct_fields__:
        assert f"`{field}`" in text, field
    example = text.partition("```toml\n")[2].partition("```")[0]
    run = study_of(tomllib.loads(BASE + example)).run
    assert (run.jobs, run.timeout, run.exclude) == ("auto", "20m", ["copur/seed=1"])


def test_the_mistake_on_the_page_reads_like_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    example = page.partition("<<'END'\n")[2].partition("END\n")[0]
    before, last, after = example.rpartition("attack =")
    Path("flips.toml").write_text(f"{before}{last.replace('tt', 't')}{after}")
    with pytest.raises(UsageError) as caught:
        read_study(Path("flips.toml"))
    said = re.search(r"`(study flips\.toml, line .*?)`", page)
    assert str(caught.value).startswith(f"{said[1]}; expected one of ")


def test_what_is_not_said_is_not_kept():
    study = study_of(tomllib.loads(BASE))
    assert json.loads(msgspec.json.encode(study))["run"] == {}
