"""From records to boards: worst cases, gaps, challenges, curves, certificates."""

import random

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cibench._errors import UsageError
from cibench.leaderboard.boards import make_leaderboard
from cibench.leaderboard.model import Leaderboard
from cibench.results.record import Certificate, Timings
from leaderboard_samples import (
    AGENTS,
    ATTACKS,
    HOSTILE,
    attack_part,
    component,
    entry,
    failed,
    random_records,
    record,
    sample_entries,
    suite,
)

FLIP, PGD = "flip:agents=random:1", "pgd:agents=random:1"
TWO = (FLIP, PGD)
#: Right on samples 0 to 5 of 10, and the like.
SIX, EIGHT, ALL = (np.arange(10) < count for count in (6, 8, 10))


def boards_of(entries, attacks=TWO, *, seeds=1, **options):
    return make_leaderboard(
        entries, title="Title", owner="Owner", link="", suite_name="standard",
        suite=suite(attacks, seeds=seeds, **options),
    )  # fmt: skip


def only(leaderboard):
    (board,) = leaderboard.boards
    return board


def row_of(board, spec):
    (row,) = (row for row in board.rows if row.spec == spec)
    return row


def row_cells(defense, flip=EIGHT, pgd=SIX, *, clean=ALL, seeds=1, **options):
    """Every cell of a row on the board of `TWO`."""
    options["clean"] = clean
    return [
        one
        for seed in range(seeds)
        for one in (
            record(defense, "none", seed, clean, **options),
            record(defense, FLIP, seed, flip, **options),
            record(defense, PGD, seed, pgd, **options),
        )
    ]


def in_loops(records, spec, attacks, *, oracle):
    """The worst case of a row, one sample at a time."""
    right = total = 0
    for seed in sorted({one.seed for one in records}):
        own = [r for r in records if r.defense.spec == spec and r.seed == seed]
        met = [r for r in own if r.attack[0].component.spec in attacks]
        for at, label in enumerate(own[0].outcomes.labels):
            good = all(r.outcomes.attacked[at] == label for r in met)
            good &= oracle or own[0].outcomes.clean[at] == label
            right, total = right + good, total + 1
    return right / total


def test_the_worst_case_is_that_counted_one_sample_at_a_time():
    (base,) = sample_entries(6, seeds=3, n=50)
    board = only(boards_of([base], ATTACKS, seeds=3))
    assert len(board.rows) == 6
    for row in board.rows:
        expected = in_loops(base.records, row.spec, ATTACKS, oracle=row.oracle)
        assert row.standard.value == pytest.approx(expected)
        assert row.best_known == row.standard
        for attack, result in row.results.items():
            alone = [
                one.metrics.attacked.value
                for one in base.records
                if (one.defense.spec, one.attack[0].component.spec)
                == (row.spec, attack)
            ]
            assert result.share.value == pytest.approx(np.mean(alone))
            assert result.share.n == 50


def test_a_sample_that_is_wrong_without_attack_withstands_nothing():
    cells = [*row_cells("copur", ALL, ALL, clean=SIX), *row_cells("none", ALL, ALL)]
    board = only(boards_of([entry("base", cells)]))
    assert row_of(board, "copur").best_known.value == 0.6
    assert row_of(board, "none").best_known.value == 1.0


def test_of_an_oracle_only_decisions_under_attack_count():
    board = only(boards_of([entry("base", row_cells("genie", ALL, ALL, clean=SIX))]))
    (row,) = board.rows
    assert (row.role, row.oracle, row.rank, row.versus) == ("genie", True, None, None)
    assert row.best_known.value == 1.0


def test_samples_that_one_attack_does_not_count_are_counted_by_none():
    cells = row_cells("copur", ALL, EIGHT)
    cells[1] = record("copur", FLIP, 0, ALL, counted=np.arange(10) != 0)
    cells[2] = record("copur", PGD, 0, EIGHT, counted=np.arange(10) != 9)
    board = only(boards_of([entry("base", cells)]))
    (row,) = board.rows
    assert board.n == row.best_known.n == 8
    assert row.best_known.value == 7 / 8
    assert row.clean.n == 10
    assert "2 of 10 test samples" in board.notes[-1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 4), seeds=st.integers(1, 3),
    n=st.integers(3, 20), apart=st.booleans(), extra=st.booleans(),
)  # fmt: skip
def test_stronger_attacks_never_raise_a_row(seed, rows, seeds, n, apart, extra):
    entries = sample_entries(rows, seeds, n, ATTACKS, seed=seed, apart=apart)
    standard = ATTACKS[:-1] if extra else ATTACKS
    board = only(boards_of(entries, standard, seeds=seeds))
    for row in board.rows:
        assert row.best_known.value <= row.standard.value
        columns = {c.attack: c.standard for c in board.columns}
        for attack, result in row.results.items():
            bound = row.standard if columns[attack] else row.best_known
            assert bound.value <= result.share.value
        if not row.oracle:
            assert row.standard.value <= row.clean.value
        assert bool(row.rank) != row.oracle
        if row.rank:
            assert 1 <= row.rank[0] <= row.rank[1] <= rows
        for share in (row.best_known, row.standard):
            assert 0 <= share.low <= share.high <= 1
    with_less = only(boards_of(entries, standard[:-1], seeds=seeds))
    for row in with_less.rows:
        assert row.standard.value >= row_of(board, row.spec).standard.value


def test_the_order_of_entries_and_records_changes_no_byte():
    entries = sample_entries(5, 2, 20, apart=True)
    labels = entries[0].records[0].outcomes.labels
    for name, right in (("late", 15), ("later", 12)):
        attack = f"{name}:agents=random:1"
        cell = record("copur", attack, 0, np.arange(20) < right, labels=labels)
        entries.append(entry(name, [cell], created="2030-03-01"))
    first = msgspec.json.encode(boards_of(entries, ATTACKS, seeds=2))
    shuffle = random.Random(3)
    for _ in range(3):
        for one in entries:
            shuffle.shuffle(one.records)
        shuffle.shuffle(entries)
        assert msgspec.json.encode(boards_of(entries, ATTACKS, seeds=2)) == first


def test_boards_are_one_for_each_data_set_and_threat():
    attacks = (*TWO, "flip:agents=random:2", "flip:agents=last,target=walk")
    cells = random_records(["none"], 1, 10, attacks)
    cells += random_records(["none"], 1, 10, [FLIP], dataset="other:k=2")
    cells += random_records(["none"], 1, 10, [FLIP], device="cuda")
    found = boards_of([entry("base", cells)], attacks)
    assert [board.id for board in found.boards] == [
        "other-k-2-random-1", "toy-last-walk", "toy-random-1", "toy-random-2",
        "toy-random-1-cuda",
    ]  # fmt: skip
    titles = [board.title for board in found.boards]
    assert titles[0] == "other:k=2, one agent drawn for each sample sends anything"
    assert titles[1] == "toy, the last agent sends anything, for the class walk"
    assert titles[3] == "toy, two agents drawn for each sample send anything"
    assert [len(board.columns) for board in found.boards] == [2, 1, 2, 1, 2]
    assert len({row.id for board in found.boards for row in board.rows}) == 5


def test_boards_that_differ_in_what_no_name_tells_have_ids_apart():
    cells = random_records(["none"], 1, 10, TWO)
    cells += random_records(["none"], 1, 10, TWO, fingerprint="e" * 16)
    found = boards_of([entry("base", cells)])
    first, second = found.boards
    assert first.id == "toy-random-1"
    assert second.id.startswith("toy-random-1-")


@pytest.mark.parametrize(
    ("cell", "text", "reason"),
    [
        ("timeout", "1 of 2 seeds timeout", "seed 1: timeout: w"),
        ("skipped", "1 of 2 seeds skipped", "seed 1: skipped: w"),
        ("missing", "1 of 2 seeds without a record", ""),
    ],
)  # fmt: skip
def test_a_row_with_a_gap_has_no_aggregate_and_no_rank(cell, text, reason):
    cells = [*row_cells("none", seeds=2), *row_cells("copur", ALL, ALL, seeds=2)]
    cells = [
        c
        for c in cells
        if (c.defense.spec, c.attack[0].component.spec, c.seed) != ("copur", FLIP, 1)
    ]
    if cell != "missing":
        cells.append(failed("copur", FLIP, 1, status=cell, reason="w"))
    board = only(boards_of([entry("base", cells)], seeds=2))
    assert [row.spec for row in board.rows] == ["none", "copur"]
    row = board.rows[1]
    assert (row.standard, row.best_known, row.rank, row.versus) == (None,) * 4
    assert row.trouble == f"{text} under attack {FLIP}"
    assert row.results[FLIP].trouble == text
    assert row.results[FLIP].share is None
    assert row.results[PGD].share.value == 1.0
    assert row.reasons == ([f"attack {FLIP}, {reason}"] if reason else [])
    assert board.rows[0].rank == (1, 1)


def test_a_row_with_many_gaps_names_the_first():
    cells = [*row_cells("none"), record("copur", PGD, 0, ALL)]
    row = row_of(only(boards_of([entry("base", cells)])), "copur")
    assert row.trouble == f"no record under no attack; no record under attack {FLIP}"
    many = [f"flip:agents=random:1,amplification={x}.0" for x in range(1, 8)]
    row = row_of(only(boards_of([entry("base", cells)], (*many, PGD))), "copur")
    assert row.trouble.endswith("; 5 more")


def test_fewer_seeds_than_the_suite_give_no_rank_and_more_change_nothing():
    cells = [*row_cells("none", seeds=2), *row_cells("copur", seeds=3)]
    board = only(boards_of([entry("base", cells)], seeds=3))
    assert row_of(board, "none").trouble.startswith("1 of 3 seeds without a record")
    assert row_of(board, "copur").rank == (1, 1)
    board = only(boards_of([entry("base", cells)], seeds=2))
    assert row_of(board, "copur").best_known == row_of(board, "none").best_known
    assert row_of(board, "copur").seeds == [0, 1]


def test_a_cell_that_failed_before_its_data_were_read_is_still_on_its_boards():
    cells = [*row_cells("none"), *row_cells("copur")[:2]]
    blank = attack_part(PGD, agents=AGENTS)
    blank = msgspec.structs.replace(blank, agents="", knowledge="", target="", sets=[])
    cells.append(
        failed("copur", PGD, 0, "failed", "no file", fingerprint="", parts=[blank])
    )
    row = row_of(only(boards_of([entry("base", cells)])), "copur")
    assert row.trouble == f"1 of 1 seeds failed under attack {PGD}"
    assert row.reasons == [f"attack {PGD}, seed 0: failed: no file"]


def test_rows_that_decide_other_samples_are_not_compared():
    cells = [*row_cells("none"), *row_cells("vflip")]
    cells += row_cells("copur", labels=np.ones(10, int))
    board = only(boards_of([entry("base", cells)]))
    assert row_of(board, "copur").rank is None
    assert "other test samples" in row_of(board, "copur").trouble
    assert row_of(board, "none").rank == (1, 2)


def test_part_of_the_test_samples_is_never_ranked():
    board = only(boards_of([entry("base", row_cells("none", flags=["partial"]))]))
    assert board.rows[0].trouble == "part of the test samples only"


def test_the_same_cell_of_two_entries_is_that_of_the_older():
    old = entry("old", row_cells("copur"), created="2029-01-01", author="Old")
    new = entry("a-new", row_cells("copur"), created="2029-01-02", author="New")
    (row,) = only(boards_of([new, old])).rows
    assert (row.author, row.entry) == ("Old", "old")


def test_different_numbers_for_one_cell_name_both_entries():
    old, new = entry("old", row_cells("copur")), entry("new", row_cells("copur", SIX))
    with pytest.raises(UsageError, match=r"entries new and old: .* copur .*seed 0"):
        boards_of([old, new])


def test_a_row_stands_on_one_entry_whose_gaps_no_stranger_fills():
    cells = row_cells("copur")
    old = entry("old", [*cells[:2], failed("copur", PGD, 0)])
    one_cell = entry("stranger", cells[2:], author="Eve", added=1)
    row = only(boards_of([old, one_cell])).rows[0]
    assert (row.trouble, row.entry) == (
        "1 of 1 seeds timeout under attack " + PGD,
        "old",
    )
    assert row.rank is None
    whole = entry("whole", cells, author="Bob", added=2)
    row = only(boards_of([old, one_cell, whole])).rows[0]
    assert (row.trouble, row.entry, row.author) == ("", "whole", "Bob")


def test_the_order_of_entries_is_when_they_were_added_whatever_they_claim():
    old = entry("old", row_cells("copur"), author="Ann", added=1)
    copy = entry("copy", row_cells("copur"), created="1999-01-01", added=2)
    assert only(boards_of([copy, old])).rows[0].author == "Ann"
    strong = record("copur", "evil:agents=random:1", 0, ~ALL)
    again = msgspec.structs.replace(strong, created="1999-01-01T00:00:00+00:00")
    first = entry("alice", [strong], author="Alice", created="2030-05-01", added=3)
    second = entry("mallory", [again], author="Mallory", created="1999-01-01", added=4)
    row = only(boards_of([second, first, old])).rows[0]
    assert [one.author for one in row.lowered] == ["Alice"]


def test_strangers_say_nothing_of_a_row_but_what_their_attack_did():
    base = entry("base", [*row_cells("copur"), *row_cells("none")])
    flags = ["gradient-unusable", "oracle-information", "transfer-beats-adaptive"]
    evil = record(
        "copur", "evil:agents=random:1", 0, ALL, flags=flags, time_series=True,
        personal=False, agents=["e0", "e1", "e2", "e3"], classes=["x", "y"],
        notes=["Best: Eve"], created="1970-01-01T00:00:00+00:00",
    )  # fmt: skip
    board = only(boards_of([entry("a-eve", [evil], added=1), base]))
    alone = only(boards_of([base]))
    for ours, theirs in zip(board.rows, alone.rows, strict=True):
        same = ("rank", "oracle", "adaptive", "flags", "standard", "best_known")
        assert [getattr(ours, n) for n in same] == [getattr(theirs, n) for n in same]
    for name in ("agents", "classes", "notes", "time_series", "intervals"):
        assert getattr(board, name) == getattr(alone, name)


def test_many_strangers_do_not_outvote_the_samples_or_the_suite():
    base = entry("base", [*row_cells("copur"), *row_cells("none")])
    labels = 1 - np.arange(10) % 2
    crowd = [
        entry(
            f"e{at}",
            [record(f"d{at}", FLIP, 0, ALL, labels=labels), odd(f"d{at}")],
            added=1 + at,
        )
        for at in range(5)
    ]
    found = boards_of([*crowd, base])
    board = next(b for b in found.boards if b.budget is None)
    row = row_of(board, "copur")
    assert row.standard.value == 0.6
    assert [column.attack for column in board.columns if column.standard] == list(TWO)
    assert "other test samples" in row_of(board, "d0").trouble


def odd(defense):
    """A record of the suite's attack that claims a budget."""
    part = msgspec.structs.replace(attack_part(PGD), budget=9.0)
    return record(defense, PGD, 0, ALL, parts=[part])


def test_a_witness_alone_makes_no_row_adaptively_evaluated():
    witness = "witness:agents=random:1,digest=abc"
    part = msgspec.structs.replace(attack_part(witness), knowledge="adaptive")
    cells = [
        record("copur", "none", 0, ALL),
        record("copur", FLIP, 0, EIGHT),
        record("copur", witness, 0, SIX, parts=[part]),
    ]
    (row,) = only(boards_of([entry("base", cells)], [FLIP])).rows
    assert row.adaptive == "none"


def test_versions_of_an_attack_are_columns_of_their_own():
    def sharp(version, right):
        part = attack_part("sharp:agents=random:1")
        own = msgspec.structs.replace(
            part.component, distribution="acme", version=version
        )
        part = msgspec.structs.replace(part, component=own)
        return record("copur", "sharp:agents=random:1", 0, right, parts=[part])

    base = entry("base", row_cells("copur"))
    one = entry("one", [sharp("1", np.arange(10) > 0)], added=1)
    two = entry("two", [sharp("2", np.arange(10) > 2)], added=2)
    (row,) = only(boards_of([base, one, two])).rows
    assert [step.entry for step in row.lowered] == ["one", "two"]
    assert "sharp:agents=random:1 of acme 2" in row.results


def test_versions_and_distributions_are_rows_of_their_own():
    cells = [*row_cells("copur"), *row_cells("copur", version="2")]
    board = only(boards_of([entry("base", cells)]))
    assert [row.label for row in board.rows] == [
        "copur (cibench 1)", "copur (cibench 2)",
    ]  # fmt: skip
    assert len({row.id for row in board.rows}) == 2


def test_a_stronger_attack_lowers_the_row_and_keeps_the_old_number():
    base = entry("base", [*row_cells("copur", seeds=2), *row_cells("none", seeds=2)])
    march, april = "2030-03-02T00:00:00+00:00", "2030-04-01T00:00:00+00:00"
    # Seed 0 only: samples 0 to 3 fall, seed 1 stays.
    strong = record(
        "copur", "evil:agents=random:1", 0, np.arange(10) > 3, created=april
    )
    weak = record("copur", "weak:agents=random:1", 0, np.arange(10) > 0, created=march)
    later = record("copur", "late:agents=random:1", 1, ALL, created=april)
    board = only(
        boards_of(
            [
                base,
                entry("z-first", [weak], author="Ann", added=1),
                entry("eve", [strong, later], author="Eve", added=2),
            ],
            seeds=2,
        )
    )
    row = row_of(board, "copur")
    assert row.standard.value == 0.6
    assert row.best_known.value == pytest.approx((2 + 6) / 20)
    assert [
        (one.attack, one.author, one.entry, one.date) for one in row.lowered
    ] == [
        ("weak:agents=random:1", "Ann", "z-first", "2030-03-02"),
        ("evil:agents=random:1", "Eve", "eve", "2030-04-01"),
    ]  # fmt: skip
    before = [one.before.value for one in row.lowered]
    after = [one.after.value for one in row.lowered]
    assert before == pytest.approx([0.6, 11 / 20])
    assert after == pytest.approx([11 / 20, 8 / 20])
    extra = [column for column in board.columns if not column.standard]
    assert [column.family for column in extra] == ["evil", "late", "weak"]
    assert row.results["evil:agents=random:1"].author == "Eve"
    assert row.results["evil:agents=random:1"].share.value == 0.6
    assert "evil:agents=random:1" not in row_of(board, "none").results
    assert (row.entry, row.author, row.date) == ("base", "Ann O'Nym", "2030-04-01")
    assert [r.spec for r in board.rows] == ["none", "copur"]


def test_a_challenge_changes_neither_the_clean_nor_the_standard_number():
    liar = record("copur", "evil:agents=random:1", 0, ALL, clean=~ALL)
    few = record("copur", "few:agents=random:1", 0, ~ALL, counted=np.arange(10) == 0)
    base = entry("base", row_cells("copur"))
    alone = only(boards_of([base])).rows[0]
    row = only(boards_of([base, entry("eve", [liar, few])])).rows[0]
    assert (row.clean, row.standard) == (alone.clean, alone.standard)
    # Of the sample that it counts, `few` says something; of the others nothing.
    assert [one.attack for one in row.lowered] == ["few:agents=random:1"]
    assert row.best_known.value == pytest.approx(alone.best_known.value - 0.1)
    assert row.results["few:agents=random:1"].share.n == 1


def test_a_third_partys_failed_cell_costs_no_rank():
    evil = failed("copur", "evil:agents=random:1", 0)
    board = only(boards_of([entry("base", row_cells("copur")), entry("eve", [evil])]))
    (row,) = board.rows
    assert row.rank == (1, 1)
    assert row.results["evil:agents=random:1"].trouble == "1 of 1 seeds timeout"
    assert row.lowered == []


def test_another_distributions_attack_never_passes_for_the_suites():
    fake = attack_part(FLIP)
    fake = msgspec.structs.replace(
        fake, component=msgspec.structs.replace(component(FLIP), distribution="evil")
    )
    cells = row_cells("copur")
    cells[1] = record("copur", FLIP, 0, ALL, parts=[fake])
    board = only(boards_of([entry("base", cells)]))
    (row,) = board.rows
    assert row.trouble == f"no record under attack {FLIP}"
    assert row.results[f"{FLIP} of evil 1"].share.value == 1.0


def test_the_witnesses_of_an_entry_are_one_column():
    base = entry("base", row_cells("copur", seeds=2))
    files = ["a" * 64, "b" * 64]
    cells = [
        record("copur", f"witness:agents=random:1,digest={file}", seed, SIX[::-1])
        for seed, file in enumerate(files)
    ]
    board = only(boards_of([base, entry("eve", cells)], seeds=2))
    assert [c.attack for c in board.columns[2:]] == ["witness:agents=random:1 (eve)"]
    assert board.rows[0].best_known.value == pytest.approx(0.2)
    assert len(board.rows[0].lowered) == 1
    # Two files for one cell are two attacks.
    cells.append(record("copur", f"witness:agents=random:1,digest={'c' * 64}", 0, ALL))
    board = only(boards_of([base, entry("eve", cells)], seeds=2))
    assert len(board.columns) == 5


def test_rows_stand_in_order_of_how_they_were_evaluated():
    fusion, evil = f"{PGD},knowledge=fusion", "evil:agents=random:1"
    everything, cells = np.ones(100, bool), []
    for at, spec in enumerate(["none", "genie", "copur", "vflip", "norm-clip"]):
        right = np.arange(100) < 90 - 20 * at
        cells += [record(spec, "none", 0, everything), record(spec, fusion, 0, right)]
    knowing = [attack_part(evil, knowledge="adaptive")]
    cells.append(record("norm-clip", evil, 0, everything, parts=knowing))
    cells.append(record("agent-dropout", fusion, 0, everything))
    board = only(boards_of([entry("base", cells)], [fusion]))
    found = [(row.spec, row.adaptive, row.rank) for row in board.rows]
    assert found == [
        # Who knows the undefended knows all of it.
        ("none", "adaptive", (1, 1)),
        ("norm-clip", "adaptive", (4, 4)),
        ("copur", "none", (2, 2)),
        ("vflip", "none", (3, 3)),
        ("genie", "none", None),
        ("agent-dropout", "none", None),
    ]
    assert board.rows[0].versus.other == "norm-clip"
    assert {row.versus.other for row in board.rows[1:4]} == {"none"}


def test_misled_gradients_and_exact_silence_are_told():
    flagged = row_cells("copur")
    flagged[2] = msgspec.structs.replace(flagged[2], flags=["transfer-beats-adaptive"])
    found = boards_of([entry("base", flagged)])
    assert only(found).rows[0].adaptive == "misled"
    assert list(found.flags) == ["transfer-beats-adaptive"]
    silence = "missing:agents=worst:1"
    cells = [record("copur", "none", 0, ALL), record("copur", silence, 0, SIX)]
    board = only(boards_of([entry("base", cells)], [silence]))
    assert board.rows[0].adaptive == "exact"
    assert board.title == "toy, the worst one agent for each sample falls silent"
    assert board.rows[0].agents == {}


def test_what_not_knowing_the_defense_is_worth_counts_the_others_alone():
    cells = [*row_cells("copur"), *row_cells("none", ALL, ALL, clean=EIGHT)]
    board = only(boards_of([entry("base", cells)]))
    row, undefended = row_of(board, "copur"), row_of(board, "none")
    assert (row.unaware.value, row.best_known.value) == (0.8, 0.6)
    # Wrong without attack is wrong under any.
    assert (undefended.unaware.value, undefended.best_known.value) == (0.8, 0.8)
    # A suite of one kind has nothing to set apart.
    for attack in TWO:
        own = [c for c in cells if c.attack[0].component.spec in (attack, "none")]
        board = only(boards_of([entry("base", own)], [attack]))
        assert {row.unaware for row in board.rows} == {None}
    gap = [cell for cell in cells if cell is not cells[2]]
    assert row_of(only(boards_of([entry("base", gap)])), "copur").unaware is None


EVERYBODY = "pgd:agents=all"


def controlled(standing):
    cells = [*row_cells("copur"), *row_cells("none")]
    cells += [
        record(defense, EVERYBODY, 0, np.arange(10) < left, clean=ALL)
        for defense, left in standing.items()
    ]
    return boards_of([entry("base", cells)], control=[EVERYBODY])


def test_a_control_has_no_board_and_tells_what_it_left_of_each_row():
    board = only(controlled({"copur": 0, "none": 3}))
    assert (board.rule, board.control) == ("random:1", f"control {EVERYBODY}")
    assert [c.attack for c in board.columns] == list(TWO)
    assert row_of(board, "copur").control.share.value == 0.0
    assert row_of(board, "none").control.share.value == 0.3
    assert row_of(board, "none").flags == ["attack-broken"]
    # It changes nothing else.
    cells = [*row_cells("copur"), *row_cells("none")]
    plain = only(boards_of([entry("base", cells)]))
    for row in board.rows:
        before = msgspec.structs.replace(row, control=None, flags=[])
        assert before == row_of(plain, row.spec)


def test_a_missing_control_is_told_and_costs_no_rank():
    board = only(controlled({"none": 0}))
    assert row_of(board, "copur").control.trouble == "no record"
    assert row_of(board, "copur").rank is not None
    # Without a control in the suite, all agents are a board as any other.
    cells = [record(d, EVERYBODY, 0, SIX, clean=ALL) for d in ("copur", "none")]
    found = boards_of([entry("base", [*row_cells("copur"), *cells])])
    assert {board.rule for board in found.boards} == {"random:1", "all"}


def test_knowing_attacks_take_back_the_flag_that_others_do_not_know():
    cells = row_cells("copur", flags=["not-adaptive", "clean-drop"])
    assert only(boards_of([entry("base", cells)])).rows[0].flags == ["clean-drop"]


def test_flags_of_attacks_are_of_columns_unless_all_that_know_anything_are_weak():
    fusion, weak = f"{PGD},knowledge=fusion", ["attack-too-weak"]

    def found(strong):
        cells = [record("copur", "none", seed, ALL) for seed in range(3)]
        for seed in range(3):
            cells.append(record("copur", fusion, seed, SIX, flags=weak))
            few = weak if seed not in strong else []
            cells.append(record("copur", PGD, seed, SIX, flags=few))
        cells += [record("copur", FLIP, seed, SIX, flags=[]) for seed in range(3)]
        board = only(boards_of([entry("base", cells)], (FLIP, fusion, PGD), seeds=3))
        return [column.flags for column in board.columns], board.rows[0].flags

    assert found({0, 1, 2}) == ([[], weak, []], [])
    assert found({0, 1}) == ([[], weak, []], [])  # one seed in which it fell short
    assert found({0}) == ([[], weak, weak], [])
    assert found(set()) == ([[], weak, weak], weak)


def test_a_board_without_an_attack_of_the_suite_ranks_nobody():
    cells = [
        record("copur", "none", 0, ALL),
        record("copur", "evil:agents=last", 0, SIX),
    ]
    board = only(boards_of([entry("base", cells)]))
    (row,) = board.rows
    assert row.best_known is None
    assert row.rank is None
    assert "the suite has no attack" in row.trouble
    assert row.results["evil:agents=last"].share.value == 0.6


def test_agents_are_told_apart_by_the_samples_they_were_drawn_for():
    (base,) = sample_entries(3, seeds=2, n=40)
    board = only(boards_of([base], ATTACKS, seeds=2))
    for row in board.rows:
        for at, agent in enumerate(AGENTS):
            mine = [
                msgspec.structs.replace(one, outcomes=msgspec.structs.replace(
                    one.outcomes, **{
                        name: [v for i, v in enumerate(getattr(one.outcomes, name))
                               if i % len(AGENTS) == at]
                        for name in ("labels", "clean", "attacked")
                    }
                ))
                for one in base.records
            ]  # fmt: skip
            expected = in_loops(mine, row.spec, ATTACKS, oracle=row.oracle)
            assert row.agents[agent].value == pytest.approx(expected)
            assert row.agents[agent].n == 10


def test_attacks_on_different_agents_hurt_each_only_by_its_own():
    first, second = [1] * 10, [2] * 10
    cells = [
        record("copur", "none", 0, ALL),
        record("copur", FLIP, 0, SIX, compromised=first),
        record("copur", PGD, 0, EIGHT, compromised=second),
    ]
    row = only(boards_of([entry("base", cells)])).rows[0]
    assert {name: share.value for name, share in row.agents.items()} == {
        AGENTS[0]: 0.6, AGENTS[1]: 0.8,
    }  # fmt: skip


def test_certified_accuracy_counts_samples_that_are_right_and_proved():
    radius = [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0]
    ball = [float(at) for at in range(10)]
    proofs = [
        Certificate(kind="agents", radius=radius, confidence=1.0),
        Certificate(kind="l2", radius=ball, confidence=0.999),
    ]
    cells = row_cells("copur", clean=EIGHT)
    cells[0] = record("copur", "none", 0, EIGHT, clean=EIGHT, certificates=proofs)
    agents, l2 = only(boards_of([entry("base", cells)])).rows[0].certified
    assert agents.radii == [0.0, 1.0, 2.0, 3.0]
    assert agents.accuracy == pytest.approx([0.8, 0.6, 0.3, 0.0])
    assert agents.here.value == 0.6
    assert (l2.kind, l2.here, l2.confidence) == ("l2", None, 0.999)
    assert l2.radii == [float(at) for at in range(8)]
    assert l2.accuracy == pytest.approx([0.8 - at / 10 for at in range(8)])


def test_curves_of_certificates_have_few_points_and_need_every_seed():
    n = 300
    rng = np.random.default_rng(0)
    proof = Certificate(kind="l2", radius=rng.uniform(size=n).tolist(), confidence=0.9)
    right = np.ones(n, bool)
    cells = row_cells("copur", right, right, clean=right, seeds=2)
    for at in (0, 3):
        cells[at] = msgspec.structs.replace(cells[at], certificates=[proof])
    (found,) = only(boards_of([entry("base", cells)], seeds=2)).rows[0].certified
    assert len(found.radii) == 60
    assert found.radii[0] == 0.0
    assert found.radii[-1] == max(proof.radius)
    for radius, accuracy in zip(found.radii, found.accuracy, strict=True):
        assert accuracy == np.mean(np.array(proof.radius) >= radius)
    cells[3] = msgspec.structs.replace(cells[3], certificates=[])
    assert only(boards_of([entry("base", cells)], seeds=2)).rows[0].certified == []


def test_costs_are_medians_beside_the_undefended_of_the_same_entry():
    def timed(defense, milliseconds):
        return [
            msgspec.structs.replace(one, timings=Timings(
                fit_seconds=fit, attack_seconds=0, predict_seconds=0,
                milliseconds_per_sample=milliseconds + fit,
            ))
            for fit, one in enumerate(row_cells(defense))
        ]  # fmt: skip

    base = entry("base", [*timed("none", 1.0), *timed("copur", 7.0)])
    later = entry("later", timed("vflip", 3.0), created="2030-02-02")
    board = only(boards_of([base, later]))
    cost = row_of(board, "copur").cost
    assert (cost.fit_seconds, cost.milliseconds, cost.relative) == (1.0, 8.0, 4.0)
    assert row_of(board, "vflip").cost.relative is None


def test_curves_run_over_amplification_and_over_the_number_of_agents():
    attacks = (
        *ATTACKS, "pgd:agents=random:2", "flip:agents=random:2", "missing:agents=last",
    )  # fmt: skip
    base = entry("base", random_records(["none", "copur"], 1, 20, attacks))
    found = boards_of([base], attacks)
    assert [(curve.id, curve.axis, curve.xs, curve.log) for curve in found.curves] == [
        ("toy-flip-random-1-amplification", "amplification", [1.0, 10.0], True),
        ("toy-flip-random-agents", "compromised agents", [0.0, 1.0, 2.0], False),
        ("toy-pgd-random-agents", "compromised agents", [0.0, 1.0, 2.0], False),
    ]
    curve = found.curves[2]
    assert curve.title == "toy: pgd, agents drawn for each sample"
    by_id = {board.id: board for board in found.boards}
    for line in curve.lines:
        rows = [row_of(by_id[f"toy-random-{q}"], line.label) for q in (1, 2)]
        assert line.row == rows[0].id
        assert line.shares == [
            rows[0].clean, rows[0].results[PGD].share,
            rows[1].results["pgd:agents=random:2"].share,
        ]  # fmt: skip


def test_labels_commands_and_citations_are_of_the_suite_and_the_entry():
    cells = [
        *row_cells("randomized-ablation"), *row_cells("copur:rank=7"), *row_cells("copur"),
    ]  # fmt: skip
    keep = {"options": {"keep": 2, "how": "mean"}}
    cells = [
        msgspec.structs.replace(
            one, defense=msgspec.structs.replace(one.defense, **keep)
        )
        if one.defense.name == "randomized-ablation"
        else one
        for one in cells
    ]
    specs = ("randomized-ablation:keep=2", "copur:rank=8")
    board = only(boards_of([entry("base", cells)], defenses=specs))
    labels = {row.spec: row.label for row in board.rows}
    assert labels == {
        "randomized-ablation": "the randomized-ablation:keep=2",
        "copur:rank=7": "copur:rank=7", "copur": "copur",
    }  # fmt: skip
    row = row_of(board, "copur:rank=7")
    assert row.command == "cibench run --suite standard --dataset toy -d copur:rank=7"
    assert row.citation == "Liu and others 2022"
    cells = row_cells("copur", dataset="extrasensory:subjects=a b")
    row = only(boards_of([entry("base", cells)])).rows[0]
    assert row.command == (
        "cibench run --suite standard --dataset 'extrasensory:subjects=a b' -d copur"
        " --data-dir DIR"
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_text_breaks_no_board_and_enters_no_id(text):
    huge = attack_part(FLIP, agents=AGENTS, target=text)
    huge = msgspec.structs.replace(
        huge, agents=f"random:{'9' * 6000}",
        component=component(text, strength=10**400, other=text),
    )  # fmt: skip
    cells = [
        *row_cells("copur"), *row_cells(text, dataset=text),
        record("copur", text, 0, ALL), record(text, text, 0, ALL, parts=[huge]),
    ]  # fmt: skip
    found = boards_of([entry("base", cells, author=text[:200])])
    content = msgspec.json.encode(found)
    assert msgspec.json.decode(content, type=Leaderboard) == found
    rows = [row.id for board in found.boards for row in board.rows]
    ids = [*(b.id for b in found.boards), *rows, *(c.id for c in found.curves)]
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for one in ids)
    assert len(set(ids)) == len(ids)


def test_without_entries_there_is_an_empty_leaderboard():
    found = boards_of([])
    assert (found.boards, found.curves, found.entries, found.date) == ([], [], [], "")


def test_a_board_says_what_its_numbers_are():
    found = boards_of(
        [entry("base", row_cells("none", seeds=2, time_series=True))], seeds=2
    )
    board = only(found)
    assert (board.rule, board.target, board.budget) == ("random:1", "any", None)
    assert (board.n, board.majority, board.seeds) == (10, 0.5, [0, 1])
    assert "blocks of 2 neighbouring samples" in board.intervals
    assert board.threat[0].startswith("Compromised of 4 agents: one agent drawn")
    assert found.date == board.date == "2030-01-01"
    assert found.entries[0].records == 6
    assert [column.knowledge for column in board.columns] == ["oblivious", "adaptive"]
