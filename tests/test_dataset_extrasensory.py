import gzip
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cibench import DataError
from cibench._errors import OptionError
from cibench.spec import Spec, build
from cibench_plugins.datasets import extrasensory
from cibench_plugins.datasets._extrasensory_csv import AGENTS, parse, read_user_file
from cibench_plugins.datasets.extrasensory import ExtraSensory
from helpers_extrasensory import (
    PAPER_USER,
    header,
    real_data_dir,
    text_of,
    write_table,
    write_user,
)

NAMES = header()
SITTING = NAMES.index("label:SITTING")
BOUNDARIES = [0, 26, 52, 83, 129, 138, 155, 183, 209, 213, 221]
CHRONOLOGICAL = ExtraSensory(split="chronological")
OTHER_USER = "00000000-1111-2222-3333-ABCDEFABCDEF"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with a generated file of 2600 rows."""
    place = tmp_path_factory.mktemp("data")
    write_user(place / "extrasensory")
    return place


@pytest.fixture(scope="module")
def table(folder):
    name = f"{PAPER_USER}.features_labels.csv.gz"
    return read_user_file(folder / "extrasensory" / name)


@pytest.fixture(scope="module")
def real():
    place = real_data_dir()
    if place is None:
        pytest.skip("needs the real ExtraSensory file (CIBENCH_DATA or ../shared/data)")
    return place


def small(rows=4):
    """A table in the real format with labels 0 1 0 1 ..."""
    values = np.arange(rows * len(NAMES), dtype=float).reshape(rows, len(NAMES))
    values[:, 226:277] = np.arange(rows)[:, None] % 2
    return values


def as_bytes(values=None, names=NAMES):
    return text_of(list(names), small() if values is None else values).encode()


def splits(data):
    return {"train": data.train, "validation": data.validation, "test": data.test}


def stacked(data, parts=("train", "validation", "test")):
    features = np.vstack([splits(data)[part].features.numpy() for part in parts])
    return features, np.concatenate([splits(data)[p].labels.numpy() for p in parts])


def reference(values, split, standardize):
    """The documented preprocessing, written plainly: three (features, labels) pairs."""
    keep = [i for i, name in enumerate(NAMES[:226]) if i and name not in DROPPED]
    label = values[:, SITTING]
    if split == "paper":
        before, after = np.arange(2500), np.arange(2500, len(values) - 1)
    else:
        labelled = np.flatnonzero(~np.isnan(label))
        first = labelled[len(labelled) - round(0.2 * len(labelled))]
        before, after = np.arange(first), np.arange(first, len(values))
    old, new = (rows[~np.isnan(label[rows])] for rows in (before, after))
    kept = len(old) - round(0.2 * len(old))
    train, validation = old[:kept], old[kept:]
    first_fit, test_fit = (before, after) if standardize == "paper" else (train, train)
    with np.errstate(invalid="ignore"):  # scikit-learn on a column without any value
        scaler = StandardScaler().fit(values[np.ix_(first_fit, keep)])
        test_scaler = StandardScaler().fit(values[np.ix_(test_fit, keep)])
    return [
        (scale.transform(values[np.ix_(rows, keep)]), label[rows])
        for scale, rows in ((scaler, train), (scaler, validation), (test_scaler, new))
    ]


DROPPED = {
    f"lf_measurements:{name}"
    for name in (
        "proximity",
        "relative_humidity",
        "screen_brightness",
        "temperature_ambient",
    )
}


# The format


def test_agents_are_the_columns_of_the_real_header_in_order():
    assert [name for block in AGENTS.values() for name in block] == NAMES[1:226]
    assert [len(block) for block in AGENTS.values()] == [
        26, 26, 31, 46, 9, 17, 28, 26, 8, 8,
    ]  # fmt: skip
    assert len(NAMES) == 278
    assert len(set(NAMES)) == 278


@pytest.mark.parametrize("columns", ["paper", "all"])
def test_layout(folder, columns):
    layout = ExtraSensory(columns=columns).load(data_dir=folder).layout
    stops = [0, *(columns.stop for columns in layout.slices)]
    if columns == "paper":
        assert stops == BOUNDARIES
    else:
        assert layout.width == 225
    assert layout.names == tuple(AGENTS)
    assert layout.names[9] == "time-of-day"


def test_generated_files_are_deterministic(tmp_path):
    one = write_user(tmp_path / "a", rows=50).read_bytes()
    assert write_user(tmp_path / "b", rows=50).read_bytes() == one
    assert write_user(tmp_path / "b", rows=50, seed=1).read_bytes() != one


# Splits and scaling


def test_paper_split_takes_the_papers_rows(folder, table):
    data = ExtraSensory().load(data_dir=folder)
    label = table.values[:, SITTING]
    old, new = label[:2500], label[2500:-1]
    assert len(data.train) + len(data.validation) == (~np.isnan(old)).sum()
    assert len(data.test) == (~np.isnan(new)).sum()
    assert data.test.labels.sum() == np.nansum(new)
    assert len(data.validation) == round(0.2 * (~np.isnan(old)).sum())


@pytest.mark.parametrize("split", ["paper", "chronological"])
@pytest.mark.parametrize("standardize", ["train", "paper"])
def test_standardization_agrees_with_scikit_learn(folder, table, split, standardize):
    plugin = ExtraSensory(split=split, standardize=standardize)
    data = plugin.load(data_dir=folder)
    expected = reference(table.values, split, standardize)
    for ours, (features, labels) in zip(splits(data).values(), expected, strict=True):
        np.testing.assert_allclose(ours.features.numpy(), features, atol=1e-5)
        np.testing.assert_array_equal(ours.labels.numpy(), labels)


def test_training_statistics_do_not_see_later_rows(tmp_path, table):
    changed = table.values.copy()
    changed[2300:, 1:226] *= 3
    name = f"{PAPER_USER}.features_labels.csv.gz"
    write_table(tmp_path / "a" / name, NAMES, table.values)
    write_table(tmp_path / "b" / name, NAMES, changed)
    one, two = (ExtraSensory().load(data_dir=tmp_path / place) for place in "ab")
    assert torch.equal(one.train.features.nan_to_num(), two.train.features.nan_to_num())
    assert not torch.equal(
        one.test.features.nan_to_num(), two.test.features.nan_to_num()
    )


def test_chronological_sorts_by_time_and_splits_are_disjoint(tmp_path):
    values = small(200)
    values[:, 1] = np.arange(200)  # a feature that tells the row
    values[7, SITTING] = np.nan
    values[:, 0] = np.arange(200)[::-1]  # the file is in reverse order
    name = f"{PAPER_USER}.features_labels.csv.gz"
    write_table(tmp_path / name, NAMES, values)
    data = CHRONOLOGICAL.load(data_dir=tmp_path)
    seen = [split.features[:, 0] for split in splits(data).values()]
    assert [len(part) for part in seen] == [127, 32, 40]
    times = torch.cat(seen)
    assert (times.diff() < 0).all()
    assert len(times) == 199


def test_missing_sensors_are_not_observed(tmp_path):
    values = small(100)
    gyroscope, compass = slice(27, 53), slice(130, 139)
    values[:, gyroscope] = np.nan
    values[::2, compass] = np.nan
    values[:, 140] = np.nan  # one column of the location: the agent is still heard
    write_table(tmp_path / f"{PAPER_USER}.features_labels.csv.gz", NAMES, values)
    data = CHRONOLOGICAL.load(data_dir=tmp_path)
    for split in splits(data).values():
        observed = split.observation(data.layout).observed
        assert not observed[:, 1].any()
        assert observed[:, 4].tolist() == [bool(label) for label in split.labels]
        others = [i for i in range(10) if i not in (1, 4)]
        assert observed[:, others].all()
        assert torch.isnan(split.features[:, data.layout.slices[1]]).all()
    assert "gyroscope 100.0%" in data.notes[0]


def test_identity(folder):
    data = ExtraSensory(path=str(folder / "extrasensory")).load()
    assert data.name == "extrasensory"
    assert data.class_names == ("not SITTING", "SITTING")
    assert data.recipe == "linear-32"
    assert data.time_series
    assert "CC BY-NC-SA 4.0" in data.licence
    assert "10.1109/MPRV.2017.3971131" in data.citation
    assert data.notes[0].startswith(f"train: {len(data.train)} rows, ")
    other = CHRONOLOGICAL.load(data_dir=folder)
    assert other.name == "extrasensory:split=chronological"
    assert other.fingerprint != data.fingerprint
    paper = ExtraSensory(standardize="paper").load(data_dir=folder)
    assert "own statistics" in paper.notes[-1]
    assert "features_labels.csv.gz" in ExtraSensory.files_needed
    assert extrasensory.cibench_datasets() == [ExtraSensory]


def test_a_model_learns_the_generated_label(folder):
    data = ExtraSensory().load(data_dir=folder)
    features, labels = stacked(data, ("train", "validation"))
    model = LogisticRegression(C=0.01, max_iter=5000)
    model.fit(np.nan_to_num(features), labels)
    test, truth = stacked(data, ("test",))
    assert model.score(np.nan_to_num(test), truth) >= 0.9


def test_fingerprint_is_the_same_in_another_process(folder):
    code = (
        "import sys; from pathlib import Path;"
        "from cibench_plugins.datasets.extrasensory import ExtraSensory;"
        "print(ExtraSensory().load(data_dir=Path(sys.argv[1])).fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    here = ExtraSensory().load(data_dir=folder).fingerprint
    assert done.stdout.strip() == here


# Where the file is looked for


def test_the_file_is_found_in_every_documented_place(tmp_path, folder):
    data = CHRONOLOGICAL.load(data_dir=folder)
    packed = folder / "extrasensory" / f"{PAPER_USER}.features_labels.csv.gz"
    plain = tmp_path / f"{PAPER_USER}.features_labels.csv"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    renamed = tmp_path / "mine.csv.gz"
    renamed.write_bytes(packed.read_bytes())
    for place in (packed, packed.parent, plain, renamed):
        found = replace(CHRONOLOGICAL, path=str(place)).load(data_dir=None)
        assert found.fingerprint == data.fingerprint
    assert CHRONOLOGICAL.load(data_dir=packed.parent).fingerprint == data.fingerprint
    assert CHRONOLOGICAL.load(data_dir=tmp_path).fingerprint == data.fingerprint


def test_an_absent_file_is_named_with_the_remedy(tmp_path):
    name = rf"{PAPER_USER}\.features_labels\.csv\.gz"
    remedy = r"--data-dir, CIBENCH_DATA or extrasensory:path=.*per_uuid_features_labels"
    with pytest.raises(DataError, match=rf"a data folder with {name}.*{remedy}"):
        ExtraSensory().load(data_dir=None)
    for plugin, where in (
        (ExtraSensory(), tmp_path),
        (ExtraSensory(path=str(tmp_path)), None),
    ):
        with pytest.raises(DataError, match=rf"{name} in .*no such file; .*{remedy}"):
            plugin.load(data_dir=where)
    absent = ExtraSensory(path=str(tmp_path / "absent.csv.gz"))
    with pytest.raises(DataError, match=r"path to be a file or folder, got .*absent"):
        absent.load()


def test_another_users_file_is_refused(tmp_path):
    path = write_user(tmp_path, rows=30, user=OTHER_USER)
    with pytest.raises(DataError, match=rf"add the option user={OTHER_USER}"):
        replace(CHRONOLOGICAL, path=str(path)).load()
    data = replace(CHRONOLOGICAL, user=OTHER_USER).load(data_dir=tmp_path)
    assert data.name == f"extrasensory:split=chronological,user={OTHER_USER}"


@pytest.mark.parametrize("user", ["../../etc/passwd", "me", PAPER_USER.lower(), "a/b"])
def test_a_user_is_a_uuid(user):
    with pytest.raises(OptionError, match=r"user: expected a UUID in capitals"):
        build("dataset", ExtraSensory, Spec("extrasensory", (("user", user),)))


# Damaged files


def test_damaged_gzip_files_are_named(tmp_path):
    path = write_user(tmp_path, rows=30)
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-4],
        whole[:100] + bytes(200) + whole[300:],
        b"timestamp,not packed",
        b"\x1f\x8b",
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"features_labels\.csv\.gz: expected a whole"
        ):
            read_user_file(path)


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(DataError, match=r"^folder: expected a readable file, got Is a"):
        read_user_file(path)


def changed(row, column, value):
    """The small file with one field replaced by text."""
    lines = as_bytes().decode().split("\r\n")
    cells = lines[row - 1].split(",")
    cells[column] = value
    lines[row - 1] = ",".join(cells)
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"^f: expected a header and at least one row, got 0 lines"),
        (as_bytes(small(0)), r"at least one row, got 1 lines"),
        (
            as_bytes(small()[:, 1:], NAMES[1:]),
            r"got 277 columns: missing 'timestamp'",
        ),
        (
            as_bytes(names=[NAMES[0], "extra", *NAMES[2:]]),
            r"278 columns: missing 'raw_acc:magnitude_stats:mean'; unexpected 'extra'",
        ),
        (
            as_bytes(small()[:, :226], NAMES[:226]),
            r"got 226 columns: missing 'label:\*'",
        ),
        (
            as_bytes(names=[*NAMES[:277], NAMES[276]]),
            r"repeated 'label:WITH_FRIENDS'",
        ),
        (b"a,b\n1,2\n", r"got 2 columns: missing 'timestamp', .* and 224 more; unexp"),
        (b"\x00\xff\xfe binary\nrubbish\n", r"^f: expected the header .*1 columns"),
        (changed(3, 5, "1,2"), r"^f, line 3: expected 278 fields, got 279"),
        (as_bytes() + b"1,2,3\r\n", r"^f, line 6: expected 278 fields, got 3"),
        (as_bytes().replace(b"\r\n", b"\r\n\r\n", 2), r"^f, line 2: expected 278"),
        (
            changed(4, 2, "abc"),
            r"^f, line 4, column raw_acc:magnitude_stats:std: expected a number or"
            r" nothing, got 'abc'",
        ),
        (changed(2, 277, "1_0"), r"^f, line 2, column label_source: .* got '1_0'"),
        (changed(2, 1, '"1"'), r"^f, line 2, column raw_acc"),
        (changed(2, 1, " "), r"nothing, got ' '"),
        (changed(2, 1, "1\x00"), r"nothing, got '1\\x00'"),
        (changed(5, 1, "-inf"), r"^f, line 5, column raw_acc.*finite .*, got -inf"),
        (changed(5, 1, "1e39"), r"^f, line 5, column raw_acc.*finite .*, got 1e\+39"),
        (changed(3, 0, ""), r"^f, line 3, column timestamp: expected a time stamp"),
        (
            changed(3, SITTING, "2"),
            r"^f, line 3, column label:SITTING: expected 0, 1 or nothing, got 2",
        ),
    ],
)
def test_every_deviation_from_the_format_is_named(data, message):
    with pytest.raises(DataError, match=message) as caught:
        parse(data, "f")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_missing_values_may_be_written_in_either_way():
    values = small()
    values[1, 1:80] = np.nan
    for missing in ("", "nan", "NaN"):
        text = text_of(NAMES, values, missing)
        for written in (text, text.replace("\r\n", "\n"), "\ufeff" + text, text + "\n"):
            read = parse(written.encode(), "f")
            np.testing.assert_array_equal(read.values, values)


def test_columns_are_found_by_name_in_any_order():
    values = small()
    order = np.random.default_rng(0).permutation(len(NAMES))
    names = [NAMES[i] for i in order]
    read = parse(as_bytes(values[:, order], names), "f")
    np.testing.assert_array_equal(read.take(NAMES), values)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.just(225)),
        elements=st.floats(-3e38, 3e38) | st.just(np.nan),
    ),
    st.sampled_from(["", "nan"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_number_comes_back_exactly(features, missing, newline):
    values = small(len(features))
    values[:, 1:226] = features
    rows = [
        ",".join(missing if cell != cell else repr(cell) for cell in row)
        for row in values.tolist()
    ]
    read = parse(newline.join([",".join(NAMES), *rows]).encode(), "f")
    np.testing.assert_array_equal(read.values, values)
    assert read.columns == tuple(NAMES)


# Labels


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "SITING",
            r"unknown label 'SITING' \(did you mean 'SITTING'\?\); expected one",
        ),
        (
            "SLEEPING",
            r"labelled SLEEPING in every split.*train 0 negative and 0 positive",
        ),
        ("LOC_home", r"both classes in train, got train 0 negative and \d+ positive"),
    ],
)
@pytest.mark.parametrize("split", ["paper", "chronological"])
def test_labels_that_do_not_serve_are_named(folder, split, label, message):
    with pytest.raises(DataError, match=message):
        ExtraSensory(label=label, split=split).load(data_dir=folder)


def test_another_label(folder):
    data = ExtraSensory(label="FIX_walking").load(data_dir=folder)
    plain = ExtraSensory().load(data_dir=folder)
    assert data.class_names == ("not FIX_walking", "FIX_walking")
    assert torch.equal(data.test.labels, 1 - plain.test.labels)


def test_the_paper_split_needs_enough_rows(tmp_path):
    write_user(tmp_path, rows=60)
    with pytest.raises(
        DataError, match=r"at least 2502 rows .*got 60; use split=chrono"
    ):
        ExtraSensory().load(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("columns=some", r"option columns: paper or all expected, got 'some'"),
        ("split=random", r"option split: paper or chronological expected"),
        ("labels=SITTING", r"unknown option 'labels' \(did you mean 'label'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        build("dataset", ExtraSensory, Spec.parse(f"extrasensory:{options}"))


# The real file


def test_real_facts(real):
    data = ExtraSensory().load(data_dir=real)
    _, old = stacked(data, ("train", "validation"))
    assert (len(old), old.sum()) == (1721, 967)
    assert (len(data.train), len(data.validation)) == (1377, 344)
    assert (len(data.test), data.test.labels.sum()) == (465, 333)
    assert [0, *(columns.stop for columns in data.layout.slices)] == BOUNDARIES
    share = 1 - data.test.observation(data.layout).observed.double().mean(0)
    missing = dict(zip(data.layout.names, share.tolist(), strict=True))
    expected = {"watch-accelerometer": 58 / 465, "compass": 154 / 465}
    assert missing == pytest.approx({name: expected.get(name, 0) for name in missing})


def test_real_header_is_the_one_kept_for_the_tests(real):
    name = f"{PAPER_USER}.features_labels.csv.gz"
    path = next(p / name for p in (real, real / "extrasensory") if (p / name).is_file())
    with gzip.open(path, "rt", newline="") as stream:
        assert stream.readline().strip().split(",") == NAMES
    assert read_user_file(path).values.shape == (3108, 278)


@pytest.mark.parametrize("split", ["paper", "chronological"])
@pytest.mark.parametrize("standardize", ["train", "paper"])
def test_real_preprocessing_agrees_with_scikit_learn(real, split, standardize):
    name = f"{PAPER_USER}.features_labels.csv.gz"
    path = next(p / name for p in (real, real / "extrasensory") if (p / name).is_file())
    values = read_user_file(path).values
    plugin = ExtraSensory(split=split, standardize=standardize)
    expected = reference(values, split, standardize)
    ours = splits(plugin.load(data_dir=real)).values()
    for split_, (features, labels) in zip(ours, expected, strict=True):
        np.testing.assert_allclose(split_.features.numpy(), features, atol=1e-5)
        np.testing.assert_array_equal(split_.labels.numpy(), labels)


@pytest.mark.parametrize(("standardize", "known"), [("paper", 0.83), ("train", 0.845)])
def test_real_clean_accuracy(real, standardize, known):
    # The known values belong to C=0.01; C=1 gives .77 and .74.
    data = ExtraSensory(standardize=standardize).load(data_dir=real)
    features, labels = stacked(data, ("train", "validation"))
    model = LogisticRegression(C=0.01, max_iter=5000)
    model.fit(np.nan_to_num(features), labels)
    test, truth = stacked(data, ("test",))
    assert model.score(np.nan_to_num(test), truth) == pytest.approx(known, abs=0.02)
