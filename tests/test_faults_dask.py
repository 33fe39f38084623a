"""The same faults on the workers of a Dask cluster."""

import pytest

from helpers_faults import CRASHING, SOME, cells_of, is_good, selection
from helpers_grid import Place

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("faults_dask")

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A clean run here, and one with faults on two workers."""
    clean = Place(tmp_path_factory.mktemp("clean"))
    clean.run(*selection(), "-q")
    place = Place(tmp_path_factory.mktemp("dask"))
    words = ["--backend", "dask", "-j", "2"]
    _, error = place.run(*selection(SOME), *CRASHING, *words, code=1)
    assert place.emptied()
    return place, clean, error


def test_every_other_cell_has_the_numbers_of_a_clean_run(places):
    place, clean, _ = places
    good = {n for n, record in place.records().items() if is_good(record)}
    found = {n: v for n, v in place.numbers().items() if n in good}
    assert found == clean.numbers()


def test_every_faulty_cell_says_what_happened(places):
    place, *_ = places
    records = place.records()
    for fault in SOME:
        cells = cells_of(records, fault.plugin)
        assert cells, fault
        for record in cells:
            assert record.status == fault.status, record
            assert fault.reason in record.reason
            if fault.log:
                log = place.folder / "out" / record.log
                assert fault.log in log.read_bytes().decode("utf-8", "replace")
    crashed = {r.status for r in records.values() if r.dataset.name == "crashing"}
    assert crashed == {"killed"}


def test_all_statuses_of_failure_were_met(places):
    place, _, error = places
    found = {record.status for record in place.records().values()}
    assert found == {"ok", "failed", "killed", "timeout", "out-of-memory"}
    assert " cells failed (" in error.splitlines()[-1]
    assert "garbage" not in error
