"""`cibench report`: tables, claims and documents of runs made by hand."""

import csv
import html.parser
import io
import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from cibench import cli
from cibench._errors import EmptySelectionError, OutputError
from cibench.bootstrap import percentiles, replicates
from cibench.report import Comparison, Row, read_report
from cibench.report.build import of_records, of_study
from cibench.report.compare import compare, loss, measured
from cibench.report.tables import all_tables, claims_table, panel_table
from cibench.results import RunFolder
from cibench.results.table import tables
from cibench.study import Claim, Published
from helpers_report import failed, outcomes_of, record, study_run

DEFENSES = {"weak": "none", "good": "copur", "close": "copur:tau=2.0"}
SHARES = {"none": 0.3, "copur": 0.9, "copur:tau=2.0": 0.8}


def cells(seeds=3, *, shares=SHARES, n=200, **options):
    """Records whose accuracies are known: the share and 2 points more per seed."""
    return [
        record(spec, seed, outcomes_of(share + 0.02 * seed, n), **options)
        for spec, share in shares.items()
        for seed in range(seeds)
    ]


def table_of(panel):
    """Rows of a rendered table as dicts, by defense."""
    table = panel_table(panel)
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def study(records, **options):
    return of_study(study_run({"a flip": ("flip", None)}, DEFENSES, **options), records)


@pytest.fixture
def folder(tmp_path):
    def write(records, run=None):
        made = RunFolder(tmp_path / "run")
        made.create()
        for found in records:
            made.write(found)
        if run is not None:
            (made.path / "study.json").write_bytes(msgspec.json.encode(run))
        return str(made.path)

    return write


@pytest.fixture
def call(capsys):
    def command(*arguments):
        code = cli.invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


# Rows and comparisons.


def test_a_row_shows_what_its_records_say():
    (panel,) = study(cells(), published=[
        Published(scenario="a flip", defense="weak", dataset="toy", mean=40.4, std=16.9)
    ]).panels  # fmt: skip
    rows = table_of(panel)
    assert list(rows) == ["good", "close", "weak"]
    weak = rows["weak"]
    assert weak["spec"] == "none"
    assert weak["published"] == "40.4 ± 16.9"
    assert weak["under attack"] == "32.0 ± 2.0"
    assert weak["each seed"] == "30.0, 32.0, 34.0"
    assert weak["clean"] == "100.0 ± 0.0"
    assert weak["balanced"] == "32.0 ± 2.0"
    # 140, 136 and 132 of 200 broken.
    assert weak["attack success"] == "408/600 (68.0 %)"
    low, high = map(float, weak["95 % interval"].split(" to "))
    assert low < 32 < high
    assert rows["good"]["published"] == "-"
    notes = " ".join(panel.notes)
    assert "n = 200 test samples under attack of 200; seeds 0, 1, 2" in notes
    assert "(always answering the largest class) 50.0 %" in notes
    assert "flip: compromised last (c) of 3 agents; knowledge oblivious" in notes


@pytest.mark.parametrize(("seeds", "shown"), [(1, False), (4, True), (5, False)])
def test_few_seeds_are_shown_one_by_one(seeds, shown):
    (panel,) = study(cells(seeds)).panels
    assert ("each seed" in panel_table(panel).columns) is shown


def test_comparisons_agree_with_brute_force_and_statsmodels():
    rng = np.random.default_rng(7)
    correct = {
        spec: rng.random((3, 80)) < share
        for spec, share in {"a": 0.8, "b": 0.6, "c": 0.7, "d": 0.4}.items()
    }
    records = [
        record(spec, seed, found[seed].tolist())
        for spec, found in correct.items()
        for seed in range(3)
    ]
    (panel,) = of_records("run", records).panels
    order = sorted(correct, key=lambda spec: -correct[spec].mean())
    assert [row.label for row in panel.rows] == order
    best, others = order[0], order[1:]

    def p_of(spec):
        sides = []
        for alternative in ("greater", "less"):
            seeds = []
            for ours, theirs in zip(correct[spec], correct[best], strict=True):
                wins, losses = (ours & ~theirs).sum(), (theirs & ~ours).sum()
                test = binomtest(int(wins), int(wins + losses), alternative=alternative)
                seeds.append(test.pvalue)
            sides.append(max(seeds))
        return min(1, 2 * min(sides))

    expected = multipletests([p_of(spec) for spec in others], method="holm")[1]
    rows = {row.label: row for row in panel.rows}
    for spec, p in zip(others, expected, strict=True):
        versus = rows[spec].versus
        assert versus.other == best
        assert versus.p == pytest.approx(p)
        gap = correct[spec].mean() - correct[best].mean()
        assert versus.difference == pytest.approx(gap)
        assert versus.low < gap < versus.high
        assert len(versus.seed_p) == 3
    own = rows[best].versus
    assert own.other == others[0]
    assert own.p == rows[others[0]].versus.p
    assert own.difference == -rows[others[0]].versus.difference


def test_the_best_is_marked_and_so_is_what_cannot_be_told_apart():
    rows = table_of(study(cells()).panels[0])
    assert {label: row["best"] for label, row in rows.items()} == {
        "good": "best", "close": "-", "weak": "-",
    }  # fmt: skip
    # One sample of 200 apart in each direction.
    first = outcomes_of(0.5)
    second = [not first[0], *first[1:]]
    (panel,) = of_records("run", [record("a", 0, first), record("b", 0, second)]).panels
    assert sorted(row.best for row in panel.rows) == ["best", "tied"]


def test_oracle_information_is_compared_and_never_best():
    knowing = cells(shares={"genie": 0.91}, flags=["oracle-information"])
    (panel,) = of_records("run", [*cells(), *knowing]).panels
    rows = {row.label: row for row in panel.rows}
    assert panel.rows[0].label == "genie"
    assert rows["genie"].best == ""
    assert rows["genie"].versus.other == "copur"
    assert rows["copur"].best == "best"
    assert rows["copur"].versus.other == "copur:tau=2.0"
    # One pair, one p: adjusted for the pair with the oracle too.
    p = rows["copur"].versus.p
    assert p == rows["copur:tau=2.0"].versus.p
    assert p == pytest.approx(2 * max(rows["copur"].versus.seed_p))


def test_rows_of_other_seeds_or_samples_are_not_compared():
    def row(label, seeds, n=100):
        found = [record(label, seed, outcomes_of(0.5, n)) for seed in seeds]
        return measured(Row(label=label, spec=label), found)

    assert isinstance(compare(row("a", (0, 1)), row("b", (0, 1))), Comparison)
    assert compare(row("a", (0, 1)), row("b", (0, 2))) is None
    assert compare(row("a", (0,)), row("b", (0,), n=50)) is None


def test_targeted_attacks_count_only_their_samples():
    counted = [i % 2 == 0 for i in range(200)]
    records = [record("a", 0, outcomes_of(0.5), counted=counted)]
    (panel,) = of_records("run", records).panels
    right = sum(
        ok for ok, counts in zip(outcomes_of(0.5), counted, strict=True) if counts
    )
    assert panel.rows[0].accuracy == right / 100
    assert "n = 100 test samples under attack of 200" in " ".join(panel.notes)
    assert panel.rows[0].success == (100 - right, 100)


# Trouble.


def test_a_failed_seed_is_a_row_with_its_reason():
    records = [r for r in cells() if (r.defense.spec, r.seed) != ("copur", 1)]
    (panel,) = study([*records, failed("copur", 1, "it broke")]).panels
    rows = table_of(panel)
    assert rows["good"]["under attack"] == "1 of 3 seeds failed"
    assert all(rows["good"][name] == "" for name in ("95 % interval", "clean", "best"))
    assert any(note.endswith("failed: it broke") for note in panel.notes)
    assert rows["close"]["best"] == "best"
    assert panel.rows[-1].label == "good"


def test_what_was_not_run_is_a_row():
    records = [
        r for r in cells()
        if r.defense.spec != "none" and (r.defense.spec, r.seed) != ("copur", 2)
    ]  # fmt: skip
    rows = table_of(study(records).panels[0])
    assert rows["weak"]["under attack"] == "not run"
    assert rows["good"]["under attack"] == "not run: seeds 2"
    rows = table_of(study([]).panels[0])
    assert {row["under attack"] for row in rows.values()} == {"not run"}


def test_a_published_number_without_a_defense_of_ours_is_a_row():
    number = Published(scenario="a flip", defense="other", dataset="toy", mean=50)
    rows = table_of(study(cells(), published=[number]).panels[0])
    assert rows["other"]["published"] == "50.0"
    assert rows["other"]["under attack"] == "not in this protocol"


def test_records_of_no_part_are_left_out_with_a_note():
    strangers = [
        record("copur", 0, outcomes_of(0.1), attack="pgd"),
        record("copur", 0, outcomes_of(0.1), dataset="toy:n=2"),
        record("vflip", 0, outcomes_of(0.1)),
        record("none", 0, outcomes_of(0.1), embedding={"block": 9}, key="odd"),
    ]
    report = study([*cells(), *strangers])
    assert table_of(report.panels[0]) == table_of(study(cells()).panels[0])
    assert any(note.startswith("4 records of this folder") for note in report.notes)


def test_versions_of_data_and_older_records_do_not_mix():
    older = [
        msgspec.structs.replace(r, created="2020-01-01T00:00:00+00:00", **change)
        for r, change in zip(
            cells(seeds=1), [{"fingerprint": "x"}, {"protocol": 0}, {}], strict=True
        )
    ]
    older = [
        msgspec.structs.replace(r, seed=4 if i < 2 else 0) for i, r in enumerate(older)
    ]
    (panel,) = study([*older, *cells()]).panels
    assert panel.rows[0].seeds == (0, 1, 2)
    assert any(note.startswith("3 older records, or of other") for note in panel.notes)


def test_unavailable_data_and_protocols_are_named():
    run = study_run(
        {"a flip": ("flip", None)}, DEFENSES, unavailable={"far:k=1": "no file"},
        protocols=("ours", "theirs"),
        published=[Published(scenario="a flip", defense="weak", dataset="far", mean=4)],
    )  # fmt: skip
    run = msgspec.structs.replace(
        run, parts=[part for part in run.parts if part.protocol == "ours"]
    )
    notes = of_study(run, cells()).notes
    assert "not run: data set far:k=1: no file" in notes
    assert "not run: protocol theirs" in notes
    assert "not run: far · a flip (1 published numbers)" in notes


def asked(seeds, **options):
    """A study's run that was asked for these seeds."""
    run = study_run({"a flip": ("flip", None)}, DEFENSES, **options)
    parts = [msgspec.structs.replace(part, seeds=seeds) for part in run.parts]
    return msgspec.structs.replace(run, parts=parts)


def test_a_run_killed_between_seeds_has_no_means_over_what_is_there():
    claim = Claim(
        text="It wins", scenario="a flip", dataset="toy", better="good", than=["weak"]
    )
    report = of_study(asked([0, 1, 2], claims=[claim]), cells(seeds=1))
    rows = table_of(report.panels[0])
    assert {row["under attack"] for row in rows.values()} == {"not run: seeds 1, 2"}
    assert [v.outcome for v in report.verdicts] == ["not run"]
    assert any(note.startswith("not finished: 3 of 9 cells") for note in report.notes)
    assert not any("n = " in note for note in report.panels[0].notes)
    whole = of_study(asked([0, 1, 2], claims=[claim]), cells())
    assert whole.notes == ()
    assert [v.outcome for v in whole.verdicts] == ["reproduced"]


def test_seeds_that_were_not_asked_for_are_left_out():
    report = of_study(asked([0]), cells())
    assert report.panels[0].rows[0].seeds == (0,)
    assert any(note.startswith("6 records of this folder") for note in report.notes)


def test_the_prior_is_that_of_the_samples_that_count():
    # 100 samples of each class; all of class 0 and half of class 1 count.
    counted = [i % 2 == 0 or i % 4 == 1 for i in range(200)]
    records = [record("none", 0, outcomes_of(0.5), counted=counted)]
    (panel,) = of_records("run", records).panels
    assert panel.majority == 100 / 150
    (note,) = [note for note in panel.notes if "class prior" in note]
    assert note.endswith("66.7 % under attack, 50.0 % without")
    (panel,) = of_records("run", cells(seeds=1)).panels
    (note,) = [note for note in panel.notes if "class prior" in note]
    assert note.endswith("class) 50.0 %")


def test_data_that_is_gone_since_does_not_cost_what_was_run():
    claim = Claim(
        text="It wins", scenario="a flip", dataset="toy", better="good", than=["weak"]
    )
    run = study_run({"a flip": ("flip", None)}, DEFENSES, claims=[claim])
    run = msgspec.structs.replace(run, unavailable={"toy": "gone"})
    report = of_study(run, cells())
    assert len(report.panels[0].done) == 3
    assert [v.outcome for v in report.verdicts] == ["reproduced", "not run"]
    assert "not run: data set toy: gone" in report.notes


# Claims.


def verdict(better, than, records=None, **options):
    claim = Claim(
        text="It wins", scenario="a flip", dataset="toy", better=better, than=than
    )
    report = study(cells() if records is None else records, claims=[claim], **options)
    return report.verdicts


def test_the_three_outcomes_of_a_claim():
    (found,) = verdict("good", ["weak"])
    assert found.outcome == "reproduced"
    assert found.text.startswith("reproduced (+60.0, 95 % +5")
    (found,) = verdict("weak", ["good"])
    assert found.outcome == "not reproduced"
    assert found.text.startswith("not reproduced (-60.0, 95 % -6")
    records = [record(s, 0, outcomes_of(0.5)) for s in DEFENSES.values()]
    (found,) = verdict("good", ["close"], records)
    assert found.outcome == "undecided"
    assert found.deciding.low < 0 < found.deciding.high


def test_a_difference_above_0_whose_interval_holds_0_is_undecided():
    first = outcomes_of(0.5)
    records = [
        record("copur", 0, first),
        record("none", 0, outcomes_of(0.1)),
        record("copur:tau=2.0", 0, [False, *first[1:]]),
    ]
    (found,) = verdict("good", ["close"], records)
    assert found.outcome == "undecided"
    assert found.deciding.difference == pytest.approx(1 / 200)


def test_the_interval_of_a_comparison_is_the_paired_bootstrap():
    (panel,) = of_records("run", cells()).panels
    rows = {row.label: row for row in panel.rows}
    ours, theirs = (
        np.array([outcomes_of(SHARES[spec] + 0.02 * seed) for seed in range(3)])
        for spec in ("none", "copur")
    )
    everyone = np.ones(200, dtype=bool)
    low, high = percentiles(replicates(ours, everyone) - replicates(theirs, everyone))
    assert (rows["none"].versus.low, rows["none"].versus.high) == (low, high)


def test_a_claim_over_several_must_hold_against_each():
    assert verdict("good", ["weak", "close"])[0].deciding.other == "close"
    (found,) = verdict("close", ["weak", "good"])
    assert (found.outcome, found.deciding.other) == ("not reproduced", "good")
    same = [record(s, 0, outcomes_of(0.9)) for s in ("copur", "copur:tau=2.0")]
    (found,) = verdict("good", ["weak", "close"], [
        *same, record("none", 0, outcomes_of(0.2)),
    ])  # fmt: skip
    assert (found.outcome, found.deciding.other) == ("undecided", "close")


def test_claims_that_were_not_run_say_why():
    (found,) = verdict("good", ["weak"], [*cells()[3:], failed("none", 0)])
    assert found.text == "not run: weak: 1 of 1 seeds failed"
    (found,) = verdict("good", ["absent"])
    assert found.text == "not run: no absent in this protocol"
    (found,) = verdict("good", ["weak"], datasets=("other",))
    assert (
        found.text
        == "not run: no protocol of this run has the scenario on this data set"
    )
    found = verdict(
        "good", ["weak"], datasets=("other",), unavailable={"toy:k=1": "gone"}
    )
    assert [v.text for v in found] == ["not run: data set: gone"]
    assert found[0].dataset == "toy:k=1"
    (found,) = verdict(
        "good", ["weak"], [], datasets=(), unavailable={"toy": "f " * 200}
    )
    assert len(found.text) < 110


def test_a_claim_is_judged_under_every_protocol():
    found = verdict("good", ["weak"], protocols=("ours", "theirs"))
    assert [(v.protocol, v.outcome) for v in found] == [
        ("ours", "reproduced"), ("theirs", "reproduced"),
    ]  # fmt: skip


def kept_within(points, lost, counted=None):
    """The verdict on a defense that loses a share of 200 samples, all right without."""
    records = [
        record("copur", seed, outcomes_of(1 - lost), counted=counted) for seed in (0, 1)
    ]
    claim = Claim(
        text="It stays", scenario="a flip", dataset="toy", better="good",
        loses_at_most=points,
    )  # fmt: skip
    (found,) = study(records, claims=[claim]).verdicts
    return found


def test_a_claim_that_little_is_lost():
    found = kept_within(3, 0.2)
    assert found.outcome == "not reproduced"
    assert found.deciding.difference == pytest.approx(-0.2)
    assert found.text.startswith("not reproduced (-20.0, 95 % -2")
    assert found.text.endswith("against itself without attack, -3 allowed)")
    assert kept_within(40, 0.2).outcome == "reproduced"
    assert kept_within(20, 0.2).outcome == "undecided"
    assert kept_within(3, 0).outcome == "reproduced"
    # Only samples that count: the other half is right, and changes nothing.
    right = outcomes_of(0.8)
    counted = [not ok or i % 4 < 2 for i, ok in enumerate(right)]
    share = sum(r for r, c in zip(right, counted, strict=True) if c) / sum(counted)
    found = kept_within(3, 0.2, counted)
    assert found.deciding.difference == pytest.approx(share - 1)


def test_the_interval_of_a_loss_is_the_paired_bootstrap():
    right = np.array([outcomes_of(0.7), outcomes_of(0.5)])
    records = [record("copur", seed, list(right[seed])) for seed in (0, 1)]
    own = loss(measured(Row(label="x", spec="copur"), records))
    counted = np.ones(200, bool)
    drawn = replicates(right, counted) - replicates(np.ones((2, 200), bool), counted)
    assert (own.low, own.high) == percentiles(drawn)
    assert own.difference == pytest.approx(-0.4)


def test_the_claims_table_states_its_rule():
    claim = Claim(
        text="It wins", scenario="a flip", dataset="toy", better="good", than=["weak"]
    )
    report = study(cells(), claims=[claim])
    table = claims_table(report)
    assert table.rows[0][:4] == ("It wins", "a flip", "ours", "toy")
    assert "lies above 0 against every defense" in table.notes[0]
    assert all_tables(report)[0] == table
    assert claims_table(study(cells())) is None


# Documents.


def test_markdown_of_a_plain_run(call, folder):
    code, out, err = call("report", folder(cells(seeds=1)))
    assert (code, err) == (0, "")
    assert out.startswith("# run\n\n### toy · flip\n\n| defense ")
    assert "published" not in out
    assert "Claims" not in out
    assert "| copur " in out
    assert "bootstrap over samples" in out
    assert "±" not in out.partition("### How to read")[0]


def test_tables_of_one_title_say_what_tells_them_apart():
    other = {"block": 9, "joint": True}
    found = [
        *cells(seeds=1),
        *cells(seeds=1, embedding=other),
        *cells(seeds=1, attack="pgd"),
    ]
    titles = [panel.title for panel in of_records("r", found).panels]
    assert titles == [
        "embedding block 4 · toy · flip", "embedding block 9 · toy · flip", "toy · pgd",
    ]  # fmt: skip
    assert [table.title for table in tables(found)] == [
        "toy · flip · embedding block 4", "toy · flip · embedding block 9", "toy · pgd",
    ]  # fmt: skip


def test_reports_do_not_depend_on_the_order_of_records():
    found = cells()
    assert of_records("r", found) == of_records("r", found[::-1])


def test_comma_separated_values_are_numbers(call, folder):
    run = study_run({"a flip": ("flip", 2.0)}, DEFENSES, published=[
        Published(scenario="a flip", defense="weak", dataset="toy", mean=40.4)
    ])  # fmt: skip
    records = [*cells()[:6], failed("copur:tau=2.0", 0, 'a "reason", long\nlines')]
    code, out, _ = call("report", folder(records, run), "--format", "csv")
    assert code == 0
    rows = {row["defense"]: row for row in csv.DictReader(io.StringIO(out))}
    weak = rows["weak"]
    assert float(weak["accuracy_percent"]) == pytest.approx(32.0)
    assert float(weak["accuracy_std_percent"]) == pytest.approx(2.0)
    assert float(weak["published_mean_percent"]) == 40.4
    assert weak["published_std_percent"] == ""
    assert (weak["attack_successes"], weak["attack_success_n"]) == ("408", "600")
    assert (weak["protocol"], weak["x"], weak["n"]) == ("ours", "2.0", "200")
    assert float(weak["difference_points"]) == pytest.approx(-60.0)
    assert weak["other"] == "good"
    assert 0 < float(weak["largest_p_of_a_seed"]) <= float(weak["p_holm"]) < 1e-6
    bad = rows["close"]
    assert bad["status"] == "1 of 1 seeds failed"
    assert bad["accuracy_percent"] == bad["low_percent"] == bad["seeds"] == ""
    assert 'a "reason", long' in bad["reason"]


class Page(html.parser.HTMLParser):
    """Tags, links and text of a page."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_escaped_file(call, folder, tmp_path):
    evil = "<script>alert(1)</script>"
    claim = Claim(text=evil, scenario=evil, dataset="toy", better="good", than=[evil])
    run = study_run({evil: ("flip", None)}, {**DEFENSES, evil: "vflip"}, claims=[claim])
    records = [*cells(), failed("vflip", 0, evil)]
    out = tmp_path / "new" / "page.html"
    code, printed, _ = call("report", folder(records, run), "-f", "html", "-o", out)
    assert (code, printed) == (0, f"{out}\n")
    text = out.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.text.count(evil) >= 4
    # Offline: nothing but what the file holds.
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert page.tags.count("table") == 2
    assert "50.0" not in page.text or "How to read" in page.text


def test_a_document_is_not_written_over_a_folder(call, folder, tmp_path):
    code, _, err = call("report", folder(cells(seeds=1)), "-o", tmp_path)
    assert code == 2
    assert "expected a file for the document of format md, got a folder" in err


@pytest.mark.parametrize("kind", ["md", "html"])
def test_a_reader_is_told_what_each_protocol_is(call, folder, kind):
    run = study_run({"a flip": ("flip", None)}, DEFENSES, protocols=("ours", "theirs"))
    described = [
        msgspec.structs.replace(p, description=f"How {p.name}\nis <run>.")
        for p in run.study.protocols
    ]
    run = msgspec.structs.replace(
        run,
        study=msgspec.structs.replace(run.study, protocols=described),
        parts=[part for part in run.parts if part.protocol == "ours"],
    )
    _, out, _ = call("report", folder(cells(), run), "-f", kind)
    text = " ".join((Page(out).text if kind == "html" else out).split())
    assert "How ours is" in text
    assert "How theirs" not in text
    assert "<run>" not in out


def test_documents_are_the_same_each_time(call, folder):
    path = folder(cells(), study_run({"a flip": ("flip", None)}, DEFENSES))
    for kind in ("md", "html", "csv"):
        assert call("report", path, "-f", kind) == call("report", path, "-f", kind)


def test_markdown_cells_are_escaped(call, folder):
    run = study_run({"a|b <i>": ("flip", None)}, {"x|y": "none"})
    _, out, _ = call("report", folder(cells(), run))
    assert r"x\|y" in out
    assert "<i>" not in out.replace("### ours · toy · a|b <i>", "")


# Errors.


def test_errors_name_the_file_and_the_remedy(call, folder, tmp_path):
    assert call("report", tmp_path / "absent")[0] == 3
    path = folder([])
    code, _, err = call("report", path)
    assert code == 5
    assert "expected a finished cell, got none" in err
    with pytest.raises(EmptySelectionError, match="run it again"):
        read_report(tmp_path / "run")
    (tmp_path / "run" / "study.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(OutputError, match=r"study\.json: expected a study of this"):
        read_report(tmp_path / "run")
    code, _, err = call("report", path, "--format", "pdf")
    assert code == 2
    assert "'md', 'html', 'csv', 'svg', 'png'" in err


@pytest.mark.parametrize(
    ("kind", "package"),
    [("html", "jinja2"), ("html", "matplotlib"), ("svg", "matplotlib")],
)
def test_an_absent_package_is_named(call, folder, monkeypatch, kind, package):
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.figure", None)
    code, _, err = call("report", folder(cells(seeds=1)), "-f", kind)
    assert code == 3
    assert f"expected {package} to be installed" in err
    assert 'pip install "cibench[report]"' in err


def test_a_report_needs_no_torch(folder):
    script = (
        "import sys; from cibench import cli; code = cli.invoke(sys.argv[1:]);"
        " print(code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "report", folder(cells(seeds=1))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False False"
