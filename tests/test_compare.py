"""`cibench compare`: pairs, statistics against independent ones, refusals, exit codes."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from cibench import cli
from cibench._errors import EmptySelectionError, UsageError
from cibench.bootstrap import sample_weights
from cibench.results import RunFolder
from cibench.results.paired import compare_runs
from helpers_report import failed, outcomes_of, record

N = 120


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.delenv("CIBENCH_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = cli.invoke(["compare", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def made(name, *records):
    folder = RunFolder(Path(name))
    folder.create()
    for each in records:
        folder.write(each)
    return name


def drawn(share, seed, n=N):
    """Random outcomes with about that share right."""
    return (np.random.default_rng(seed).random(n) < share).tolist()


def rows_of(before, after):
    return {(row.defense, row.attack): row for row in compare_runs(before, after).rows}


def with_clean(one, right):
    labels = one.outcomes.labels
    clean = [
        label if good else 1 - label for label, good in zip(labels, right, strict=True)
    ]
    outcomes = msgspec.structs.replace(one.outcomes, clean=clean)
    return msgspec.structs.replace(one, outcomes=outcomes)


# Numbers.


def test_one_seed_is_the_exact_test_of_statsmodels():
    old, new = drawn(0.7, 1), drawn(0.5, 2)
    rows = rows_of([record("copur", 0, old)], [record("copur", 0, new)])
    row = rows["copur", "flip"]
    table = [[0, sum(b and not a for a, b in zip(old, new, strict=True))],
             [sum(a and not b for a, b in zip(old, new, strict=True)), 0]]  # fmt: skip
    expected = mcnemar(table, exact=True).pvalue
    # Clean decisions are all equal: p = 1, and Holm counts two tests.
    assert row.p == pytest.approx(min(1.0, 2 * expected))
    assert rows["copur", ""].p == 1.0
    assert (row.before, row.after) == (sum(old) / N, sum(new) / N)
    assert row.difference == pytest.approx((sum(new) - sum(old)) / N)
    assert row.n == N
    assert row.differing == sum(a != b for a, b in zip(old, new, strict=True))
    assert row.verdict == "worse"


def test_the_interval_is_the_paired_bootstrap():
    old, new = drawn(0.7, 1), drawn(0.5, 2)
    (_, row) = compare_runs([record("copur", 0, old)], [record("copur", 0, new)]).rows
    # The same draws of samples, and nothing else of the implementation.
    gaps = np.array(new, dtype=float) - np.array(old, dtype=float)
    means = sample_weights(N, 1) @ gaps / N
    assert (row.low, row.high) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975]))
    )
    normal = 1.96 * gaps.std() / N**0.5
    assert row.high - row.low == pytest.approx(2 * normal, rel=0.1)


def test_seeds_count_the_largest_p():
    pairs = [(drawn(0.7, 10 + s), drawn(0.45, 20 + s)) for s in range(3)]
    before = [record("copur", s, old) for s, (old, _) in enumerate(pairs)]
    after = [record("copur", s, new) for s, (_, new) in enumerate(pairs)]
    row = rows_of(before, after)["copur", "flip"]
    alone = [rows_of([before[s]], [after[s]])["copur", "flip"].p for s in range(3)]
    assert row.p == pytest.approx(max(alone))
    assert row.seeds == [0, 1, 2]
    assert row.difference == pytest.approx(
        np.mean([np.mean(new) - np.mean(old) for old, new in pairs])
    )


def test_holm_counts_every_row():
    shares = {"copur": 0.45, "none": 0.55, "genie": 0.62, "vflip": 0.66}
    old = {name: drawn(0.7, 3 + at) for at, name in enumerate(shares)}
    new = {
        name: drawn(share, 30 + at) for at, (name, share) in enumerate(shares.items())
    }
    found = compare_runs(
        [record(name, 0, right) for name, right in old.items()],
        [record(name, 0, right) for name, right in new.items()],
    )
    raw = []
    for row in found.rows:
        pair = list(zip(old[row.defense], new[row.defense], strict=True))
        only = sum(a and not b for a, b in pair), sum(b and not a for a, b in pair)
        table = [[0, only[0]], [only[1], 0]]
        raw.append(mcnemar(table, exact=True).pvalue if row.attack else 1.0)
    adjusted = multipletests(raw, method="holm")[1]
    assert [row.p for row in found.rows] == pytest.approx(list(adjusted))
    assert len(raw) == 8


def test_clean_accuracy_is_a_row_of_its_own_counted_once():
    worse = [i % 3 > 0 for i in range(N)]
    attacks = ("flip", "pgd", "none")
    before = [record("copur", 0, [True] * N, attack=a) for a in attacks]
    after = [with_clean(r, worse) for r in before]
    nobody = [msgspec.structs.replace(r.attack[0], agents="none") for r in before[2:]]
    before[2] = msgspec.structs.replace(before[2], attack=nobody)
    after[2] = msgspec.structs.replace(after[2], attack=nobody)
    found = compare_runs(before, after)
    assert [row.attack for row in found.rows] == ["", "flip", "pgd"]
    assert (found.rows[0].before, found.rows[0].after) == (1.0, sum(worse) / N)
    assert found.rows[0].verdict == "worse"
    assert [row.verdict for row in found.rows[1:]] == ["same", "same"]


def test_samples_that_do_not_count_are_left_out():
    counted = [i < 80 for i in range(N)]
    old, new = drawn(0.8, 1), drawn(0.6, 2)
    row = rows_of(
        [record("copur", 0, old, counted=counted)],
        [record("copur", 0, new, counted=counted)],
    )["copur", "flip"]
    assert row.n == 80
    assert (row.before, row.after) == (sum(old[:80]) / 80, sum(new[:80]) / 80)


def test_equal_runs_are_the_same_with_an_interval_that_is_no_claim_of_certainty():
    run = [record("copur", seed, drawn(0.6, seed)) for seed in range(2)]
    found = compare_runs(run, run)
    for row in found.rows:
        assert (row.difference, row.p, row.verdict) == (0.0, 1.0, "same")
        assert row.low == -row.high
        assert 0.01 < row.high < 0.05
    assert found.regressions == []
    assert found.surroundings == {}


def test_a_small_change_is_neither():
    old = outcomes_of(0.5, N)
    new = [not right if i == 7 else right for i, right in enumerate(old)]
    row = rows_of([record("copur", 0, old)], [record("copur", 0, new)])["copur", "flip"]
    assert row.differing == 1
    assert row.verdict == "unsure"


def test_better_is_the_mirror_image_of_worse():
    old, new = [record("copur", 0, drawn(0.7, 1))], [record("copur", 0, drawn(0.5, 2))]
    there, back = rows_of(old, new)["copur", "flip"], rows_of(new, old)["copur", "flip"]
    assert back.verdict == "better"
    assert back.p == there.p
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert compare_runs(new, old).regressions == []


def test_a_time_series_is_drawn_in_blocks():
    old = [i // 30 % 2 == 0 for i in range(N * 2)]
    new = [i // 60 % 2 == 0 for i in range(N * 2)]
    apart = rows_of([record("c", 0, old)], [record("c", 0, new)])["c", "flip"]
    together = rows_of(
        [record("c", 0, old, time_series=True)], [record("c", 0, new, time_series=True)]
    )["c", "flip"]
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


# Pairs.


def test_cells_are_paired_by_data_set_attack_defense_and_seed():
    before = [
        record(d, s, drawn(0.6, s), attack=a, dataset=t)
        for d in ("copur", "copur:tau=2") for s in (0, 1) for a in ("flip", "pgd+flip")
        for t in ("toy", "toy:n=2")
    ]  # fmt: skip
    found = compare_runs(before, list(reversed(before)))
    assert len(found.rows) == 2 * 2 * (1 + 2)
    assert all(row.seeds == [0, 1] for row in found.rows)
    assert (found.only_before, found.only_after) == ([], [])


def test_what_only_one_run_has_is_named():
    before = [record("copur", s, drawn(0.6, s)) for s in (0, 1)]
    after = [record("copur", 1, drawn(0.6, 1)), record("vflip", 1, drawn(0.6, 1))]
    found = compare_runs(before, after)
    assert found.only_before == ["toy · flip · copur · seed 0"]
    assert found.only_after == ["toy · flip · vflip · seed 1"]
    assert [row.seeds for row in found.rows] == [[1], [1]]
    assert found.regressions == ["toy · flip · copur · seed 0: gone"]


def test_of_several_records_of_a_cell_the_newest_counts():
    old = record("copur", 0, [False] * N, created="2029-01-01T00:00:00+00:00", cell="z")
    new = record("copur", 0, [True] * N)
    row = rows_of([new, old], [new])["copur", "flip"]
    assert row.before == 1.0


def test_a_cell_that_is_not_ok_leaves_no_mean_of_the_others():
    before = [record("copur", s, drawn(0.6, s)) for s in range(3)]
    after = [*before[:2], failed("copur", 2, reason="no memory", status="killed")]
    found = compare_runs(before, after)
    assert [row.trouble for row in found.rows] == ["1 of 3 seeds killed after"] * 2
    assert all(row.before is row.p is None for row in found.rows)
    (ended,) = found.ended
    assert (ended.before, ended.after, ended.reason) == ("ok", "killed", "no memory")
    assert found.regressions == ["toy · flip · copur · seed 2: ok to killed"]
    # The other way round it is no regression.
    assert compare_runs(after, before).regressions == []
    assert compare_runs(after, before).rows[1].trouble == "1 of 3 seeds killed before"


def test_clean_accuracy_is_taken_where_a_cell_is_ok():
    before = [record("copur", 0, drawn(0.6, 0), attack=a) for a in ("flip", "pgd")]
    after = [failed("copur", 0, attack="flip"), before[1]]
    rows = rows_of(before, after)
    assert rows["copur", ""].after == 1.0
    assert rows["copur", "flip"].trouble
    assert rows["copur", "pgd"].verdict == "same"


def test_a_data_set_that_could_not_be_read_is_paired_all_the_same():
    before = [record("copur", 0, drawn(0.6, 0))]
    after = [failed("copur", 0, fingerprint="", embedding={}, status="skipped")]
    (ended,) = compare_runs(before, after).ended
    assert ended.after == "skipped"


def test_what_differs_around_the_numbers_is_told():
    before = record(
        "copur", 0, drawn(0.6, 0), inputs={"defense source": "aa", "seed": "0"}
    )
    after = record(
        "copur", 0, drawn(0.6, 0), inputs={"defense source": "bb", "seed": "0"}
    )
    found = compare_runs([before], [after])
    assert found.surroundings == {"defense source": ["aa", "bb"]}


# Refusals.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": 2}, "one protocol version, got 1 and 2"),
        ({"fingerprint": "0123456789abcdef"}, "same data in both runs, got f and 0123"),
        ({"embedding": {"block": 8}}, "got block 4, joint True and block 8"),
    ],
)
def test_runs_that_mean_something_else_are_refused(changes, says):
    before = [record("copur", 0, drawn(0.6, 0))]
    after = [record("copur", 0, drawn(0.6, 0), **changes)]
    with pytest.raises(UsageError, match=says):
        compare_runs(before, after)


def test_other_test_samples_are_refused():
    before = [record("copur", 0, drawn(0.6, 0))]
    after = [record("copur", 0, drawn(0.6, 0)[:50])]
    with pytest.raises(UsageError, match=r"same test samples .* got 120 and 50"):
        compare_runs(before, after)


def test_one_of_two_embeddings_is_compared_with_itself():
    other = {"block": 8}
    before = [
        record("copur", 0, drawn(0.6, 0)),
        record("copur", 0, drawn(0.2, 1), embedding=other),
    ]
    after = [record("copur", 0, drawn(0.6, 0))]
    found = compare_runs(before, after)
    assert [row.verdict for row in found.rows] == ["same", "same"]
    assert found.rows[0].embedding == "block 4, joint True"
    assert found.only_before == ["toy block 8 · flip · copur · seed 0"]


def test_runs_without_a_common_cell_are_refused():
    with pytest.raises(EmptySelectionError, match="none among 1 and 1"):
        compare_runs([record("copur", 0, [True])], [record("vflip", 0, [True])])


# The verb.


def runs(share=0.5):
    made("old", record("copur", 0, drawn(0.7, 1)), record("none", 0, drawn(0.5, 3)))
    made("new", record("copur", 0, drawn(share, 2)), record("none", 0, drawn(0.5, 3)))
    return "old", "new"


def test_the_table_is_markdown(call):
    code, out, err = call(*runs())
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "### old → new"
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines if line.startswith("|")
    ]  # fmt: skip
    assert cells[0][-1] == "verdict"
    shown = {(row[1], row[2]): row for row in cells[2:]}
    assert len(shown) == 4
    worse = shown["copur", "flip"]
    assert worse[3:5] == ["1", "120"]
    assert worse[-1] == "worse"
    assert worse[7].startswith("-")
    assert shown["none", "flip"][-1] == "same"
    assert "4 comparisons; in 3 of them every decision is as before" in out


def test_only_changed_leaves_the_rest_out(call):
    code, out, _ = call(*runs(), "--only-changed")
    assert code == 0
    assert "| toy" in out
    assert "| none " not in out
    code, out, _ = call("old", "old", "--only-changed")
    assert code == 0
    assert "| toy" not in out
    assert "in 4 of them every decision is as before" in out


def test_json_has_everything_unrounded(call):
    code, out, err = call(*runs(), "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    rows = {(row["defense"], row["attack"]): row for row in told["rows"]}
    assert rows["copur", "flip"]["before"] == sum(drawn(0.7, 1)) / N
    assert rows["copur", "flip"]["verdict"] == "worse"
    assert told["regressions"][0].startswith("copur under flip on toy: ")


def test_a_regression_fails_if_asked(call):
    code, _, err = call(*runs(), "--fail-on-regression")
    assert code == 4
    last = err.splitlines()[-1]
    before, after = 100 * sum(drawn(0.7, 1)) / N, 100 * sum(drawn(0.5, 2)) / N
    assert last == (
        f"regression: copur under flip on toy: {before:.1f} % to {after:.1f} %"
    )
    assert call("new", "old", "--fail-on-regression")[0] == 0
    assert call("old", "old", "--fail-on-regression")[0] == 0


def test_a_cell_that_broke_is_a_regression(call):
    old, _ = runs()
    made("new", *(failed(name, 0, reason="a\nb|c") for name in ("copur", "none")))
    code, out, err = call(old, "new", "--fail-on-regression")
    assert code == 4
    assert err.splitlines()[-1] == (
        "regression: toy · flip · copur · seed 0: ok to failed; toy · flip · none · seed 0:"
        " ok to failed"
    )
    assert "- toy · flip · copur · seed 0: ok → failed: a b|c" in out
    assert "1 of 1 seeds failed after" in out


def test_many_regressions_are_counted(call):
    names = [f"d{i}" for i in range(6)]
    made("old", *(record(name, 0, [True]) for name in names))
    made("new", *(failed(name, 0) for name in names))
    code, out, err = call("old", "new", "--fail-on-regression")
    assert code == 4
    assert err.splitlines()[-1].endswith("; and 3 more")
    assert out.count("ok → failed") == 6


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("-d", "copur"), 2),
        (("-d", "n*", "-d", "copur"), 4),
        (("-a", "flip"), 4),
        (("--dataset", "all"), 4),
        (("-d", "none", "--dataset", "toy", "-a", "fl?p"), 2),
    ],
)
def test_part_of_two_runs_may_be_compared(call, options, rows):
    code, out, _ = call(*runs(), *options, "--json")
    assert code == 0
    assert len(json.loads(out)["rows"]) == rows


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("old", "gone"), 3, "expected a folder with cells/*.json"),
        (("old",), 2, "Missing argument"),
        (("old", "new", "-d", "vflip"), 5, "got none among 0 and 0"),
    ],
)
def test_mistakes_are_one_line(call, arguments, code, says):
    runs()
    got, out, err = call(*arguments)
    assert (got, out) == (code, "")
    assert says in err.splitlines()[-1]


def test_different_specs_alone_have_nothing_in_common(call):
    made("old", record("copur", 0, [True]))
    made("new", record("copur:tau=2", 0, [True]))
    assert call("old", "new")[0] == 5


def test_an_older_protocol_is_a_usage_error(call):
    made("old", record("copur", 0, [True]))
    made("new", record("copur", 0, [True], protocol=2))
    code, out, err = call("old", "new")
    assert (code, out) == (2, "")
    assert err.startswith("error: compare: expected records of one protocol version")
