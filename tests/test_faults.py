"""Plugins that do what they should not: their cells say so, all others are unharmed."""

import json

import pytest

from helpers_faults import (
    ALL,
    ATTACKS,
    CRASHING,
    DEFENSES,
    SOME,
    cells_of,
    is_good,
    selection,
)
from helpers_grid import Place

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("faults")

BACKENDS = {
    "serial": (ALL, ["-j", "1"]),
    "loky": (SOME, ["-j", "2", "--json"]),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The numbers of a run without any faulty plugin."""
    place = Place(tmp_path_factory.mktemp("clean"))
    place.run(*selection(), "-q")
    return place.numbers()


@pytest.fixture(scope="module", params=BACKENDS)
def ran(request, tmp_path_factory):
    """A grid of good and faulty plugins that was run to its end."""
    faults, words = BACKENDS[request.param]
    place = Place(tmp_path_factory.mktemp(request.param))
    out, error = place.run(*selection(faults), *CRASHING, *words, code=1)
    assert place.emptied()
    return place, faults, out, error


def test_every_other_cell_has_the_numbers_of_a_clean_run(ran, clean):
    place, *_ = ran
    good = {n for n, record in place.records().items() if is_good(record)}
    assert {n: v for n, v in place.numbers().items() if n in good} == clean
    assert len(good) == len(clean) == len(DEFENSES) * len(ATTACKS)


def test_every_faulty_cell_says_what_happened(ran):
    place, faults, *_ = ran
    records = place.records()
    for fault in faults:
        cells = cells_of(records, fault.plugin)
        assert cells, fault
        for record in cells:
            assert record.status == fault.status, record
            assert fault.reason in record.reason
            assert "\n" not in record.reason
            assert (record.metrics is None) == (record.status != "ok")
            if fault.log:
                log = place.folder / "out" / record.log
                assert fault.log in log.read_bytes().decode("utf-8", "replace")


def test_disturbing_plugins_get_the_numbers_of_undisturbed_ones(ran):
    place, faults, *_ = ran
    records = place.records()
    plain = {r.defense.spec: r.metrics for r in cells_of(records, "flip")}
    for fault in faults:
        if fault.status == "ok" and fault.plugin != "rogue:deed=nan":
            for record in cells_of(records, fault.plugin):
                name = record.defense.spec
                same = plain["none" if record.defense.name == "faulty" else name]
                assert record.metrics == same, fault


def test_a_cell_computes_with_no_setting_of_the_cell_before(tmp_path, clean):
    place = Place(tmp_path)
    defenses = ("-d", "faulty:fit_deed=spoils", "-d", "none")
    attacks = ("-a", "rogue:deed=spoils", "-a", "flip", "-a", "gaussian")
    place.run(*defenses, *attacks, "-q", "-j", "1")
    found = place.numbers()
    assert len(found) == 6
    same = found.keys() & clean.keys()
    assert len(same) == 2
    assert {name: found[name] for name in same} == {name: clean[name] for name in same}


def test_processes_that_a_cell_left_behind_are_told(ran):
    place, *_ = ran
    (cell,) = cells_of(place.records(), "faulty:deed=forks")
    assert "it left processes behind, which were ended" in cell.notes


def test_a_data_set_that_crashes_is_the_result_of_its_cells(ran):
    place, *_ = ran
    cells = [r for r in place.records().values() if r.dataset.name == "crashing"]
    assert len(cells) == len(DEFENSES) * len(ATTACKS)
    assert {r.status for r in cells} == {"killed"}
    assert {r.reason for r in cells} == {"segmentation fault (signal 11)"}


def test_garbage_reaches_neither_output_nor_error(ran):
    _, _, out, error = ran
    for text in (out, error):
        assert "\x00" not in text
        assert "\x1b[2J" not in text
        assert "garbage" not in text
    assert " cells failed (" in error.splitlines()[-1]


def test_the_output_holds_every_cell(ran):
    place, _, out, _ = ran
    records = place.records()
    if out.startswith("["):
        assert {cell["cell"] for cell in json.loads(out)} == set(records)
        return
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    for record in records.values():
        assert any(line.startswith(f"| {record.defense.spec} ") for line in rows)


def test_show_lists_what_failed(ran):
    place, *_ = ran
    out, _ = place.call("show", "out", "--failed")
    for name, record in place.records().items():
        assert (name in out) == (record.status not in ("ok", "skipped"))


def test_a_data_set_asked_for_by_name_that_crashes_ends_the_command(tmp_path):
    place = Place(tmp_path)
    out, error = place.run("-d", "none", "-a", "flip", data="crashing", code=3)
    assert out == ""
    assert "segmentation fault (signal 11)" in error.splitlines()[-1]
    assert place.emptied()
