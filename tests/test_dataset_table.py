import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cibench import DataError
from cibench._errors import OptionError
from cibench.spec import Spec, build
from cibench_plugins.datasets import table
from cibench_plugins.datasets._table_mapping import numbers
from cibench_plugins.datasets.table import Table

MAPPING = """
label = "ill"
categorical = ["colour"]

[agents]
clinic = ["age", "colour"]
lab = ["lab_*"]
"""
PARTS = ("train", "validation", "test")


def frame(rows=50, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "age": rng.integers(20, 80, rows),
            "lab_a": rng.normal(size=rows).round(3),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "lab_b": rng.normal(size=rows).round(3),
            "ill": rng.choice(["yes", "no"], rows),
        }
    )


@pytest.fixture
def write(tmp_path):
    """Write table and mapping; return the configured plugin."""

    def make(data=None, mapping=MAPPING, name="data.csv", **options):
        data = frame() if data is None else data
        path, keys = tmp_path / name, tmp_path / "agents.toml"
        if isinstance(data, str):
            path.write_text(data, encoding="utf-8")
        elif name.endswith(".csv"):
            data.to_csv(path, index=False)
        else:
            data.to_parquet(path)
        keys.write_text(mapping, encoding="utf-8")
        return Table(path=str(path), mapping=str(keys), **options)

    return make


def splits(data):
    return {part: getattr(data, part) for part in PARTS}


def test_columns_become_blocks_of_agents(write):
    source = frame()
    data = write(source).load()
    assert data.layout.names == ("clinic", "lab")
    assert data.layout.widths == (4, 2)
    assert data.class_names == ("no", "yes")
    assert sum(len(s) for s in splits(data).values()) == 50
    # Undo the scaling by matching rows: each sample is a row of the file, once.
    raw = np.column_stack(
        [
            source["age"],
            *(source["colour"] == c for c in ("blue", "green", "red")),
            source["lab_a"],
            source["lab_b"],
        ]
    ).astype(float)
    rows = {}
    for part, split in splits(data).items():
        rows[part] = []
        for i in range(len(split)):
            ranks = np.abs(split.features[i, 4].item() - scaled(raw, data)[:, 4])
            rows[part].append(int(ranks.argmin()))
    assert sorted(itertools.chain(*rows.values())) == list(range(50))
    train = raw[rows["train"]]
    for part, split in splits(data).items():
        expected = (raw[rows[part]] - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(split.features, expected, atol=1e-5)
        labels = (source["ill"] == "yes").to_numpy()[rows[part]]
        assert split.labels.tolist() == labels.astype(int).tolist()


def scaled(raw, data):
    """Raw columns in the scale of the training rows, from extremes alone."""
    every = torch.cat([s.features for s in splits(data).values()]).double().numpy()
    low, high = raw.min(axis=0), raw.max(axis=0)
    step = (every.max(axis=0) - every.min(axis=0)) / (high - low)
    return (raw - low) * step + every.min(axis=0)


def test_the_split_is_stratified_and_seeded(write):
    data = write().load()
    counts = np.array([torch.bincount(s.labels) for s in splits(data).values()])
    total = counts.sum(axis=0)
    np.testing.assert_allclose(counts[0] / total, 0.64, atol=0.04)
    np.testing.assert_allclose(counts[2] / total, 0.2, atol=0.03)
    assert write().load().fingerprint == data.fingerprint
    assert write(split_seed=1).load().fingerprint != data.fingerprint


def test_parquet_says_what_csv_says(write):
    pytest.importorskip("pyarrow")
    source = frame()
    source.loc[3, "lab_a"] = np.nan
    as_csv = write(source).load()
    as_parquet = write(source, name="data.parquet").load()
    assert as_parquet.fingerprint == as_csv.fingerprint


def test_empty_cells_are_missing_agents(write):
    source = frame()
    source["colour"] = source["colour"].astype(object)
    source.loc[[1, 5], ["lab_a", "lab_b"]] = np.nan
    source.loc[[2, 9], ["age", "colour"]] = np.nan
    source.loc[7, "lab_a"] = np.nan
    data = write(source).load()
    observed = torch.cat(
        [s.observation(data.layout).observed for s in splits(data).values()]
    )
    assert (~observed).sum(dim=0).tolist() == [2, 2]
    values = torch.cat([s.features for s in splits(data).values()])
    assert torch.isnan(values).sum(dim=0).tolist() == [2, 2, 2, 2, 3, 2]


def test_rows_without_a_label_are_left_out(write):
    source = frame()
    source["ill"] = source["ill"].astype(object)
    source.loc[[0, 4, 8], "ill"] = None
    data = write(source).load()
    assert sum(len(s) for s in splits(data).values()) == 47
    assert "3 rows without a label were left out" in data.notes


def test_a_split_column_decides(write):
    source = frame()
    source["part"] = (["train"] * 3 + ["validation", "test"]) * 10
    data = write(source, 'split = "part"' + MAPPING).load()
    for part, split in splits(data).items():
        chosen = source[source["part"] == part]
        assert split.labels.tolist() == (chosen["ill"] == "yes").astype(int).tolist()
    source.loc[6, "part"] = "tets"
    with pytest.raises(DataError, match=r"column part: expected train.*'tets' in .* 7"):
        write(source, 'split = "part"' + MAPPING).load()


@pytest.mark.parametrize("kind", ["number", "date", "typed"])
def test_time_series_are_split_by_time(write, kind):
    source = frame()
    when = np.random.default_rng(1).permutation(50)
    source["when"] = when
    if kind != "number":
        source["when"] = pd.Timestamp("2020-01-30") + pd.to_timedelta(when, unit="D")
    name = "data.parquet" if kind == "typed" else "data.csv"
    plugin = write(source, 'order = "when"' + MAPPING, name, time_series=True)
    data = plugin.load()
    assert data.time_series
    ordered = (source.iloc[np.argsort(when)]["ill"] == "yes").astype(int).tolist()
    found = [s.labels.tolist() for s in splits(data).values()]
    assert list(itertools.chain(*found)) == ordered
    assert [len(part) for part in found] == [32, 8, 10]
    unordered = write(source, time_series=True).load()
    assert unordered.train.labels.tolist() == [
        int(v == "yes") for v in source["ill"][:32]
    ]


def test_times_are_checked(write):
    source = frame()
    source["when"] = ["yesterday", *["2020-01-01"] * 49]
    with pytest.raises(DataError, match=r"column when: .*'yesterday' in row 1"):
        write(source, 'order = "when"' + MAPPING, time_series=True).load()


def test_given_splits_of_a_time_series_are_in_order(write):
    """Intervals resample neighbouring rows, so neighbours have to stay neighbours."""
    source = frame()
    source["when"] = np.random.default_rng(1).permutation(50)
    source["part"] = (["train"] * 3 + ["validation", "test"]) * 10
    mapping = 'split = "part"\norder = "when"' + MAPPING
    data = write(source, mapping, time_series=True).load()
    for part, split in splits(data).items():
        rows = source[source["part"] == part].sort_values("when")
        assert split.labels.tolist() == (rows["ill"] == "yes").astype(int).tolist()


def test_one_class_written_in_two_ways(write):
    source = frame()
    source["ill"] = ["1", "1.0", " 1", "0", "0."] * 10
    source["colour"] = ["red", "red ", "blue", " blue", "blue"] * 10
    data = write(source).load()
    assert data.class_names == ("0", "1")
    assert data.layout.widths == (3, 2)


def test_rows_are_counted_as_in_the_file(write):
    source = frame()
    source.loc[:3, "ill"] = ""
    source["age"] = source["age"].astype(object)
    source.loc[30, "age"] = "old"
    with pytest.raises(DataError, match=r"row 31, column age: .*got 'old'"):
        write(source).load()


def test_lines_before_the_header_may_be_empty(write):
    source = frame().to_csv(index=False)
    plain = write(source).load().fingerprint
    assert write("\n\n" + source).load().fingerprint == plain


def test_durations_are_no_numbers(write):
    pytest.importorskip("pyarrow")
    source = frame()
    source["age"] = pd.to_timedelta(source["age"], unit="s")
    with pytest.raises(DataError, match=r"row 1, column age: expected a finite number"):
        write(source, name="data.parquet").load()


def test_categories_are_those_of_training_rows(write):
    source = frame()
    source["part"] = (["train"] * 3 + ["validation", "test"]) * 10
    source.loc[4, "colour"] = "violet"  # a test row
    data = write(source, 'split = "part"' + MAPPING).load()
    assert data.layout.widths == (4, 2)
    train = source[source["part"] == "train"]
    shares = np.array([(train["colour"] == c).mean() for c in ("blue", "green", "red")])
    expected = -shares / np.sqrt(shares * (1 - shares))
    np.testing.assert_allclose(data.test.features[0, 1:4], expected, atol=1e-5)


def test_classes_are_in_the_order_of_numbers(write):
    source = frame()
    source["ill"] = [10, 2] * 25
    assert write(source).load().class_names == ("2", "10")


def test_a_glob_never_takes_the_label(write):
    data = write(mapping='label = "ill"\n[agents]\nall = ["*a*"]\nrest=["i*"]').load()
    assert data.layout.widths == (3, 1)  # age, lab_a, lab_b; id, not ill


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (MAPPING.replace('"age"', '"aeg"'), r"data.csv: expected column 'aeg'.*'age'"),
        (MAPPING.replace('"ill"', '"sick"'), r"expected column 'sick'"),
        (MAPPING.replace("lab_*", "labs_*"), r"columns for agent lab, got none .*labs_"),
        (MAPPING.replace('"lab_*"', '"ill"'), r"features for agent lab, got 'ill'"),
        (MAPPING.replace('"lab_*"', '"i[l]*"'), r"columns for agent lab, got none"),
        (MAPPING.replace('"lab_*"', '"*a*"'), r"one agent for column 'age', got clinic"),
        (MAPPING.replace('["lab_*"]', "[]"), r"agents.toml: expected label.*length"),
        (MAPPING.replace('label = "ill"', ""), r"agents.toml: .*missing.*`label`"),
        (MAPPING.replace("label", "lable"), r"agents.toml: expected label.*`lable`"),
        ('label = "ill"\n[agents]', r"agents.toml: expected label"),
        ('label = "ill', r"agents.toml: expected a TOML file"),
        (MAPPING.replace('["colour"]', '["size"]'), r"expected column 'size'"),
        (MAPPING.replace('["colour"]', '["col_*"]'), r"categorical .* col_\*, got none"),
        ('order = "age"' + MAPPING, r"agents.toml: expected time_series=true .*'age'"),
        (MAPPING.replace('categorical = ["colour"]', ""), r"row 1, column colour: .*categ"),
    ],
)  # fmt: skip
def test_mappings_that_do_not_fit_are_named(write, mapping, message):
    with pytest.raises(DataError, match=message):
        write(mapping=mapping).load()


def text(rows, header="id,age,lab_a,colour,lab_b,ill"):
    return "\n".join([header, *rows]) + "\n"


GOOD = [f"{i},3{i},0.{i},red,1.{i},{'yes' if i % 2 else 'no'}" for i in range(10)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (text([*GOOD, "1,x,1,red,1,no"]), r"row 11, column age: .*got 'x'"),
        (text([*GOOD, "1,inf,1,red,1,no"]), r"row 11, column age: .*got 'inf'"),
        (text([*GOOD, "1,1e39,1,red,1,no"]), r"row 11, column age: .*got '1e39'"),
        (text([*GOOD, "1,2,1,red,1,no,7"]), r"data.csv, line 12: expected 6 .*got 7"),
        (text([f"{row},7" for row in GOOD]), r"data.csv, line 2: expected 6 .*got 7"),
        (text([*GOOD, "1,2,1"]), r"data.csv, line 12: expected 6 cells.*got 3"),
        ('"' + text(GOOD * 900), r"expected a readable table .*field limit"),
        (text([row.rstrip("yesno") for row in GOOD]), r"ill: expected a label in some"),
        (text([]), r"expected at least one row, got none"),
        ("", r"data.csv: expected a readable table"),
        (
            text(GOOD, "id,age,lab_a,colour,age,ill"),
            r"each column once, got 'age' twice",
        ),
        (text([*GOOD, "1,2,1,red,1,maybe"]), r"3 rows of each class, got 1 of 'maybe'"),
        (text(GOOD[::2]), r"samples of at least two classes"),
    ],
)
def test_tables_that_are_wrong_are_named(write, data, message):
    with pytest.raises(DataError, match=message) as raised:
        write(data).load()
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_parquet(write):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"data.parquet: expected a readable table"):
        write("id,age\n1,2\n", name="data.parquet").load()
    with pytest.raises(DataError, match=r"ends in .csv or .parquet, got .xls"):
        write("x", name="data.xls").load()


def test_files_are_asked_for(tmp_path):
    assert not Table().present()
    with pytest.raises(DataError, match=r"expected the option path=FILE, got none"):
        Table().load()
    (tmp_path / "a.csv").write_text("a\n1\n")
    only = Table(path=str(tmp_path / "a.csv"))
    with pytest.raises(DataError, match=r"expected the option mapping=FILE"):
        only.load()
    with pytest.raises(DataError, match=r"expected path to be a file, got .*b.csv"):
        Table(path=str(tmp_path / "b.csv"), mapping="x").load()


def test_locations_stay_out_of_the_name(write):
    plugin = write(title="ward 7", split_seed=2)
    data = plugin.load()
    assert data.name == "table:split_seed=2,title=ward 7"
    assert plugin.present()
    built = build("dataset", Table, Spec.parse(f"{data.name},path=p,mapping=m"))
    assert built == Table(title="ward 7", split_seed=2, path="p", mapping="m")
    assert table.cibench_datasets() == [Table]
    with pytest.raises(OptionError, match="unknown option 'maping'"):
        build("dataset", Table, Spec.parse("table:maping=x"))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cells=st.lists(
        st.one_of(
            st.floats(-1e30, 1e30).map(repr),
            st.integers(-(10**9), 10**9).map(str),
            st.just(""),
            st.just("nan"),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_cells_are_read_as_python_reads_them(cells, tmp_path):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["x", "y"], *([cell, "1"] for cell in cells)])
    path = Path(tmp_path) / "t.csv"
    path.write_text(buffer.getvalue(), newline="")
    from cibench_plugins.datasets._table_mapping import read_table

    found = numbers(read_table(path)["x"], "t.csv")
    expected = [float(cell) if cell else float("nan") for cell in cells]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
