import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cibench import DataError
from cibench._errors import OptionError, UsageError
from cibench.embedding.recipe import RECIPES, recipe_of
from cibench.embedding.train import fit_embedding
from cibench.spec import Spec, build
from cibench_plugins.datasets import _nuswide_rows, nuswide
from cibench_plugins.datasets._nuswide_text import read_rows
from cibench_plugins.datasets.nuswide import NusWide
from helpers import seeded
from helpers_nuswide import CONCEPTS, FEATURES, write_folder

SMALL = {"train": 30, "validation": 6, "test": 20}
LABELS = "Groundtruth/TrainTestLabels"
TRAIN_CH = f"{FEATURES}/Train_Normalized_CH.dat"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuswide") / "data" / "nuswide"
    return folder, write_folder(folder)


@pytest.fixture
def root(generated, tmp_path):
    """A folder of its own, to damage."""
    copy = tmp_path / "data" / "nuswide"
    shutil.copytree(generated[0], copy)
    return copy


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def expected(truth, part, count):
    """By hand: the first rows with one concept, in the paper's order of columns."""
    rows = [i for i, f in enumerate(truth.labels[part]) if f.sum() == 1][:count]
    blocks = [truth.image[part][x] for x in ("CM55", "CH", "EDH", "CORR", "WT")]
    features = np.hstack([*blocks, truth.tags[part]])[rows]
    return features, [int(np.flatnonzero(truth.labels[part][i])[0]) for i in rows]


@pytest.mark.parametrize("whole", [False, True])
def test_both_variants_give_the_rows_of_the_paper(tmp_path, whole):
    truth = write_folder(tmp_path / "n", whole=whole, seed=3)
    data = NusWide(**SMALL, standardize="none", path=str(tmp_path / "n")).load()
    features, labels = expected(truth, "Train", 30)
    found = torch.cat([data.train.features, data.validation.features])
    np.testing.assert_allclose(found, features, rtol=1e-6)
    assert [*data.train.labels.tolist(), *data.validation.labels.tolist()] == labels
    features, labels = expected(truth, "Test", 20)
    np.testing.assert_allclose(data.test.features, features, rtol=1e-6)
    assert data.test.labels.tolist() == labels
    assert [len(s) for s in (data.train, data.validation, data.test)] == [24, 6, 20]
    assert data.layout.names == ("image1", "image2", "tags1", "tags2")
    assert data.layout.widths == (360, 274, 500, 500)
    assert data.class_names == CONCEPTS
    assert data.name == "nuswide:standardize=none,test=20,train=30,validation=6"


def test_image_columns_are_scaled_by_training_rows_alone(generated):
    root, truth = generated
    data = NusWide(**SMALL, path=str(root)).load()
    train, _ = expected(truth, "Train", 24)
    test, _ = expected(truth, "Test", 20)
    mean, deviation = train[:, :634].mean(axis=0), train[:, :634].std(axis=0)
    np.testing.assert_allclose(
        data.test.features[:, :634], (test[:, :634] - mean) / deviation, atol=1e-4
    )
    np.testing.assert_array_equal(data.test.features[:, 634:], test[:, 634:])


def test_folders_are_found_below_the_data_folder(generated, tmp_path):
    root, _ = generated
    plugin = NusWide(**SMALL)
    found = plugin.load(data_dir=root.parent).fingerprint
    assert plugin.load(data_dir=root).fingerprint == found
    assert plugin.present(data_dir=root.parent)
    assert not plugin.present(data_dir=tmp_path)
    assert not plugin.present()
    (tmp_path / "link").symlink_to(root.parent / "nuswide")
    assert NusWide(**SMALL, path=str(tmp_path / "link")).load().fingerprint == found


def test_concepts_are_the_classes(generated):
    root, truth = generated
    options = "concepts=person/grass,train=12,validation=2,test=8,standardize=none"
    plugin = build("dataset", NusWide, Spec.parse(f"nuswide:{options}"))
    data = plugin.load(data_dir=root)
    flags = truth.labels["Test"][:, [4, 1]]
    rows = np.flatnonzero(flags.sum(axis=1) == 1)[:8]
    assert data.test.labels.tolist() == flags[rows].argmax(axis=1).tolist()
    np.testing.assert_array_equal(data.test.features[:, 634:], truth.tags["Test"][rows])
    assert data.class_names == ("person", "grass")
    assert data.name == "nuswide:" + ",".join(sorted(options.split(",")))


def test_defaults_are_the_counts_of_the_paper():
    plugin = NusWide()
    assert (plugin.train, plugin.test) == (60_000, 10_000)
    assert plugin.concepts.split("/") == list(CONCEPTS)
    assert sum(nuswide.AGENTS.values()) == 634 + 1000
    assert nuswide.cibench_datasets() == [NusWide]


def test_the_recipe_of_the_paper_has_non_negative_embeddings(generated):
    data = NusWide(**SMALL).load(data_dir=generated[0])
    recipe = replace(RECIPES["copur-nuswide"], epochs=1)
    encoders, center = fit_embedding(data, recipe, seeded(), torch.device("cpu"))
    embedded = encoders(data.test.observation(data.layout)).features
    assert embedded.shape == (20, 240)
    assert embedded.min() == 0
    assert (embedded > 0).double().mean() > 0.1
    assert [m.out_features for m in encoders.encoders[0] if hasattr(m, "bias")] == [
        128,
        60,
    ]
    assert center.fill.abs().max() == 0
    assert any(p.grad is not None for p in encoders.parameters())
    linear = fit_embedding(
        data, replace(recipe, output="linear"), seeded(), torch.device("cpu")
    )[0]
    assert linear(data.test.observation(data.layout)).features.min() < 0
    with pytest.raises(UsageError, match="output: expected linear where block is none"):
        recipe_of("identity:output=relu")


def test_what_was_parsed_is_kept_until_a_file_changes(root, cache, monkeypatch):
    plugin, parsed = NusWide(**SMALL), []
    parse = _nuswide_rows._parsed

    def counted(*given):
        parsed.append(1)
        return parse(*given)

    monkeypatch.setattr(_nuswide_rows, "_parsed", counted)
    first = plugin.load(data_dir=root)
    assert plugin.load(data_dir=root).fingerprint == first.fingerprint
    assert len(parsed) == 1
    (kept,) = (cache / "datasets").iterdir()
    kept.write_bytes(kept.read_bytes()[:-30])
    assert plugin.load(data_dir=root).fingerprint == first.fingerprint
    assert len(parsed) == 2
    os.utime(root / TRAIN_CH, ns=(1, 1))
    plugin.load(data_dir=root)
    NusWide(**{**SMALL, "test": 19}).load(data_dir=root)
    NusWide(**SMALL, concepts="grass/buildings/animal/water/person").load(data_dir=root)
    assert len(parsed) == 5
    # Neither enters what is kept.
    NusWide(**{**SMALL, "validation": 5}, standardize="none").load(data_dir=root)
    assert len(parsed) == 5


def test_a_cache_that_cannot_be_written_costs_time_only(root, cache):
    cache.write_text("a file where the folder should be")
    assert len(NusWide(**SMALL).load(data_dir=root).test) == 20


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_do_not_matter(tmp_path, chunk):
    values = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    path = tmp_path / "t.dat"
    path.write_text("".join(" ".join(map(repr, r)) + " \n" for r in values.tolist()))
    slots = np.full(20, -1)
    rows = [19, 0, 7, 8, 9, 3, 12]
    slots[rows] = range(7)
    into = np.full((7, 4), np.nan, dtype=np.float32)
    sizes = []
    read_rows(path, slots, into, separator=b" ", chunk=chunk, advance=sizes.append)
    np.testing.assert_allclose(into, values[rows], rtol=3e-7)
    assert sum(sizes) == path.stat().st_size


def test_a_chunk_is_all_that_is_held(tmp_path, monkeypatch):
    path = tmp_path / "t.dat"
    path.write_text("1 2 3 \n" * 50)
    seen = []
    parse = read_rows.__globals__["_parse"]

    def watched(path, lines, *rest):
        seen.append(len(lines))
        return parse(path, lines, *rest)

    monkeypatch.setitem(read_rows.__globals__, "_parse", watched)
    into = np.empty((50, 3), dtype=np.float32)
    read_rows(path, np.arange(50), into, separator=b" ", chunk=8)
    assert seen == [8] * 6 + [2]


def test_line_ends_and_missing_trailing_separators(tmp_path):
    path = tmp_path / "t.dat"
    for text in ("1 2 \n3 4 \n", "1 2\n3 4", "1 2 \r\n3 4 \r\n", "1 2 \n3 4 \n\n\n"):
        path.write_bytes(text.encode())
        into = np.empty((2, 2), dtype=np.float32)
        read_rows(path, np.arange(2), into, separator=b" ")
        assert into.tolist() == [[1, 2], [3, 4]]


def replaced(path, line, change):
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    path.write_text("".join(lines))


def kept_row(truth):
    """Line number of a training row that is read."""
    return int(np.flatnonzero(truth.labels["Train"].sum(axis=1) == 1)[4]) + 1


def skipped_row(truth):
    return int(np.flatnonzero(truth.labels["Train"].sum(axis=1) != 1)[1]) + 1


@pytest.mark.parametrize("row", [kept_row, skipped_row])
@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (lambda line: line.split(" ", 1)[1], 63),
        (lambda line: "1 " + line, 65),
        (lambda line: " " + line, 65),
        (lambda line: line.replace(" ", "  ", 1), 65),
        (lambda line: "\n", 0),
    ],
)
def test_a_wrong_column_count_is_named_by_file_and_line(
    root, generated, row, change, columns
):
    line = row(generated[1])
    replaced(root / TRAIN_CH, line, change)
    message = (
        rf"Train_Normalized_CH.dat, line {line}: expected 64 columns, got {columns}"
    )
    with pytest.raises(DataError, match=message):
        NusWide(**SMALL).load(data_dir=root)


@pytest.mark.parametrize("field", ["nan", "inf", "1e50", "", "x", "0x10"])
def test_a_bad_number_is_named_by_file_line_and_column(root, generated, field):
    line = kept_row(generated[1])

    def change(text):
        fields = text.split(" ")
        fields[2] = field
        return " ".join(fields)

    replaced(root / TRAIN_CH, line, change)
    message = rf"CH.dat, line {line}, column 3: expected a finite number, got '{field}'"
    with pytest.raises(DataError, match=message):
        NusWide(**SMALL).load(data_dir=root)


def test_tags_are_0_or_1(root, generated):
    line = kept_row(generated[1])
    replaced(
        root / "NUS_WID_Tags/Train_Tags1k.dat",
        line,
        lambda text: "2" + text[1:],
    )
    message = rf"Train_Tags1k.dat, line {line}, column 1: expected 0 or 1, got '2'"
    with pytest.raises(DataError, match=message):
        NusWide(**SMALL).load(data_dir=root)


@pytest.mark.parametrize(
    "change", [lambda t: t[: t.rindex("\n", 0, -1) + 1], lambda t: t + t]
)
def test_other_numbers_of_lines_are_named(root, change):
    path = root / TRAIN_CH
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=r"CH.dat: expected 60 lines.*got (59|120)"):
        NusWide(**SMALL).load(data_dir=root)


def test_missing_files_are_named_with_where_to_get_them(root, tmp_path):
    (root / TRAIN_CH).unlink()
    (root / LABELS / "Labels_grass_Test.txt").unlink()
    with pytest.raises(DataError) as raised:
        NusWide(**SMALL).load(data_dir=root)
    text = str(raised.value)
    assert f"got no {LABELS}/Labels_grass_Test.txt, {TRAIN_CH};" in text
    assert "https://lms.comp.nus.edu.sg/" in text
    with pytest.raises(DataError, match=r"got no .*Labels_buildings_Train.* more;"):
        NusWide().load(data_dir=tmp_path)
    with pytest.raises(DataError, match=r"expected a data folder .*, got none"):
        NusWide().load()
    assert list(tmp_path.glob("cache/datasets/*")) == []


def test_a_concept_without_rows_is_named(root):
    path = root / LABELS / "Labels_water_Train.txt"
    path.write_text(path.read_text().replace("1", "0"))
    with pytest.raises(DataError, match=r"Train labels: .* 0 water.*other concepts"):
        NusWide(**SMALL).load(data_dir=root)
    with pytest.raises(DataError, match=r"no .*Labels_sky_Train.txt"):
        NusWide(concepts="sky/water").load(data_dir=root)


def test_too_few_rows_are_counted(root):
    with pytest.raises(DataError, match=r"Test labels: expected 10000 rows .* choose"):
        NusWide(train=30, validation=6).load(data_dir=root)


def test_labels_are_checked(root):
    path = root / LABELS / "Labels_water_Train.txt"
    whole = path.read_text()
    replaced(path, 5, lambda line: "yes\n")
    with pytest.raises(DataError, match=r"water_Train.txt, line 5: .*got 'yes'"):
        NusWide(**SMALL).load(data_dir=root)
    path.write_text(whole[:-2])
    with pytest.raises(DataError, match=r"as many lines in each file.*water 59"):
        NusWide(**SMALL).load(data_dir=root)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("Train", lambda t: t + "folder\\none.jpg\r\n", r"Train.*line 61.*none.jpg"),
        ("Train", lambda t: t + t.split("\r\n")[0], r"each image once, got .* twice"),
        ("Train", lambda t: t.split("\r\n", 1)[1], r"has|Train labels|lines"),
        ("", lambda t: t + t.split("\r\n")[0], r"^Imagelist.txt: .* twice"),
        ("", lambda t: t + "more.jpg", r"Labels_buildings.txt: expected 101 lines"),
    ],
)
def test_image_lists_are_checked(tmp_path, file, change, message):
    write_folder(tmp_path, whole=True)
    path = tmp_path / f"ImageList/{file}Imagelist.txt"
    path.write_text(change(path.read_bytes().decode()), newline="")
    with pytest.raises(DataError, match=message):
        NusWide(**SMALL, path=str(tmp_path)).load()


def test_image_lists_are_asked_for(tmp_path):
    write_folder(tmp_path, whole=True)
    (tmp_path / "ImageList/TrainImagelist.txt").unlink()
    with pytest.raises(DataError, match=r"got no ImageList/TrainImagelist.txt"):
        NusWide(**SMALL, path=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("concepts=water", r"two or more different names joined by /.*got 'water'"),
        ("concepts=water/water", r"two or more different"),
        ("concepts=water/../x", r"two or more different"),
        ("validation=60000", r"validation: expected fewer than the 60000"),
        ("train=0", r"option train: integer >= 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        build("dataset", NusWide, Spec.parse(f"nuswide:{options}"))
