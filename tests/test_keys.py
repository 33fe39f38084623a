"""Content keys of cells and artifacts, and runs that find what is stored under them."""

import dataclasses
import getpass
import platform
import re
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cibench.execute import keys as keys_module
from cibench.execute.keys import Keys, content_key, key_of
from cibench.execute.loader import Loader
from cibench.execute.settings import Settings
from cibench.grid import expand
from cibench.registry import default_registry
from helpers import run_cells

SET = "synthetic:agents=3,rank=2,samples=60,width=4"
FAST = "identity:epochs=2"


def cells_of(
    dataset=SET, attack="pgd:steps=2", defense="none", seeds=(0,), embedding=FAST
):
    return expand(
        default_registry(), datasets=[dataset], attacks=[attack], defenses=[defense],
        seeds=seeds, embedding=embedding,
    )  # fmt: skip


def keys_of(cell, torch_version="2.0", **options):
    """All keys of a cell, and what they are said to depend on."""
    given = Settings(**options)
    keys, facts = Keys(given, torch_version), Loader(given).facts(cell)
    return keys.of(cell, facts), keys.inputs(cell, facts)


def key(**change):
    of_run = {"torch_version", "samples", "threads", "device"}
    options = {name: change.pop(name) for name in of_run & change.keys()}
    (cell,) = cells_of(**change)
    return keys_of(cell, **options)[0].cell


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "pgd:steps=3"},
        {"attack": "pgd:steps=2,agents=random:1"},
        {"attack": "pgd:steps=2,budget=1"},
        {"attack": "pgd-paper:steps=2"},
        {"attack": "missing:agents=1+pgd:steps=2"},
        {"defense": "copur"},
        {"defense": "none:head=manifold"},
        {"dataset": f"{SET},data_seed=1"},
        {"dataset": f"{SET},noise=0.1"},
        {"dataset": SET.replace("60", "61")},
        {"seeds": (1,)},
        {"embedding": "identity:epochs=3"},
        {"embedding": "mlp-32"},
        {"samples": 100},
        {"samples": 5},
        {"threads": 2},
        {"device": "cuda:0"},
        {"torch_version": "2.1"},
    ],
    ids=str,
)
def test_the_key_changes_with_what_can_change_the_numbers(change):
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "synthetic:width=4,samples=60,rank=2,agents=3"},
        {"dataset": "synthetic[width=4, samples=60, rank=2, agents=3]"},
        {"dataset": f"{SET},noise=0"},
        {"attack": "pgd:steps=2,loss=margin"},
        {"attack": "pgd:agents=last,steps=2,budget=none"},
        {"defense": "none:head=raw"},
        {"embedding": "identity:epochs=2,fill=mean"},
        {"embedding": "mlp-32:block=none,hidden=none,epochs=2,weight_decay=0"},
    ],
    ids=str,
)
def test_the_key_does_not_change_with_how_options_are_written(change):
    assert key(**change) == key()


def test_the_key_does_not_change_with_where_cells_are_computed(tmp_path):
    assert key(device="cuda:0") == key(device="cuda:1")
    (cell,) = cells_of()
    assert keys_of(cell, data_dir=tmp_path, cache=tmp_path) == keys_of(cell)


@settings(max_examples=25, deadline=None)
@given(st.permutations(["steps=2", "step=0.25", "loss=ce", "agents=1/3", "growth=1.5"]))
def test_the_order_of_options_does_not_matter(options):
    (cell,), (other,) = (
        cells_of(attack=f"pgd:{','.join(options)}"),
        cells_of(attack="pgd:agents=1/3,growth=1.5,loss=ce,step=0.25,steps=2"),
    )
    assert cell.attack_spec == other.attack_spec
    assert keys_of(cell) == keys_of(other)


def test_the_key_changes_with_sources_and_versions(monkeypatch):
    before = key()
    monkeypatch.setattr(keys_module, "harness_hash", lambda: "other")
    assert key() != before
    monkeypatch.undo()
    monkeypatch.setattr("cibench.grid.source_hash", lambda module: "other")
    assert key() != before
    monkeypatch.undo()
    monkeypatch.setattr(keys_module, "PROTOCOL", -1)
    assert key() != before
    monkeypatch.undo()
    (cell,) = cells_of()
    for change in ({"version": "99"}, {"distribution": "d"}, {"module": "elsewhere"}):
        entry = dataclasses.replace(cell.defense.entry, **change)
        # The same source under another name or version.
        newer = dataclasses.replace(cell.defense, entry=entry)
        newer.__dict__["component"] = msgspec.structs.replace(
            cell.defense.component, distribution=entry.distribution,
            version=entry.version,
        )  # fmt: skip
        newer = dataclasses.replace(cell, defense=newer)
        assert keys_of(newer)[0].cell != keys_of(cell)[0].cell == before


def test_the_key_changes_with_the_data(monkeypatch):
    from cibench_plugins.datasets.synthetic import Synthetic

    before, load = key(), Synthetic.load

    def edited(self, **options):
        data = load(self, **options)
        data.test.features[0, 0] += 1e-3
        return data

    monkeypatch.setattr(Synthetic, "load", edited)
    assert key() != before


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"attack": "flip"}, "references cell"),
        ({"defense": "copur"}, "fit cell"),
        ({"seeds": (1,)}, "embedding references fit cell"),
        ({"embedding": "mlp-32"}, "embedding references fit cell"),
        ({"dataset": f"{SET},noise=0.1"}, "embedding references fit cell"),
    ],
    ids=str,
)
def test_cells_share_what_does_not_depend_on_where_they_differ(change, other):
    (cell,), (changed,) = cells_of(), cells_of(**change)
    ours, theirs = keys_of(cell)[0]._asdict(), keys_of(changed)[0]._asdict()
    assert {name for name in ours if ours[name] != theirs[name]} == set(other.split())
    assert len(set(ours.values())) == 4


def test_keys_do_not_depend_on_the_cells_before():
    specs = ("flip", "missing", "pgd:steps=2", "missing:agents=1+flip")
    cells = [
        cell
        for spec in specs
        for defense in ("none", "copur", "copur:tau=2")
        for cell in cells_of(attack=spec, defense=defense, seeds=(0, 1))
    ]
    given = Settings()
    loader, keys = Loader(given), Keys(given, "2.0")
    for order in (cells, cells[::-1]):
        for cell in order:
            assert keys.of(cell, loader.facts(cell)) == keys_of(cell)[0]
    found = {keys_of(cell)[0].cell for cell in cells}
    assert len(found) == len(cells)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"attack": "pgd:steps=3"}, ["attack options"]),
        ({"defense": "copur"}, ["defense", "defense module", "defense options"]),
        ({"seeds": (1,)}, ["seed"]),
        ({"embedding": "identity:epochs=3"}, ["embedding"]),
        ({"dataset": f"{SET},noise=0.1"}, ["data", "dataset options"]),
    ],
    ids=str,
)
def test_what_a_key_depends_on_is_told_by_name(change, differs):
    (cell,), (changed,) = cells_of(), cells_of(**change)
    (_, ours), (_, theirs) = keys_of(cell), keys_of(changed)
    assert ours.keys() == theirs.keys()
    assert sorted(name for name in ours if ours[name] != theirs[name]) == differs


@given(
    st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4)
)
def test_content_keys_tell_parts_apart(left, right):
    assert (content_key(*left) == content_key(*right)) == (left == right)


NAMED = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=4)


@given(NAMED, NAMED)
def test_keys_tell_named_inputs_apart_whatever_their_order(left, right):
    assert (key_of(left) == key_of(right)) == (left == right)
    assert key_of(dict(reversed(left.items()))) == key_of(left)


# Runs that find what is stored.


def run(cache, **selection):
    found = run_cells(cells_of(**selection), cache=cache)
    return [record for _, record, _ in found], [source for *_, source in found]


def files(folder):
    """Content of the files below a folder, by name, without locks."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


def remove_records(cache):
    for path in (cache / "records").rglob("*.json"):
        path.unlink()


def test_a_stored_record_is_the_answer(tmp_path):
    first, sources = run(tmp_path)
    assert sources == ["computed"]
    assert run(tmp_path) == (first, ["cache"])


def test_a_damaged_record_is_set_aside_and_computed_again(tmp_path):
    (first,), _ = run(tmp_path)
    (path,) = (tmp_path / "records").rglob("*.json")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="is damaged; it was set aside"):
        (again,), sources = run(tmp_path)
    assert sources == ["computed"]
    assert again.outcomes == first.outcomes
    assert path.with_suffix(".damaged").exists()
    assert run(tmp_path)[1] == ["cache"]


def test_damaged_artifacts_are_computed_again(tmp_path):
    (first,), _ = run(tmp_path, defense="manifold-projection")
    paths = list((tmp_path / "artifacts").rglob("*.safetensors"))
    before = files(tmp_path / "artifacts")
    assert len(paths) >= 4  # embedding, manifold, references, fit
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    remove_records(tmp_path)
    with pytest.warns(UserWarning, match="is damaged"):
        (again,), sources = run(tmp_path, defense="manifold-projection")
    assert sources == ["computed"]
    assert again.status == "ok"
    assert again.outcomes == first.outcomes
    assert again.fitted == first.fitted
    assert files(tmp_path / "artifacts").keys() >= before.keys()


def test_artifacts_are_shared_and_without_them_the_numbers_are_the_same(tmp_path):
    (first,), _ = run(tmp_path, defense="copur")
    artifacts = files(tmp_path / "artifacts")
    remove_records(tmp_path)
    (second,), sources = run(tmp_path, defense="copur")
    assert sources == ["computed"]
    (third,), _ = run(None, defense="copur")
    assert artifacts == files(tmp_path / "artifacts")
    assert first.outcomes == second.outcomes == third.outcomes
    assert first.fitted == second.fitted == third.fitted
    assert first.metrics == second.metrics == third.metrics


def test_a_record_says_what_its_key_depends_on(tmp_path):
    (cell,) = cells_of()
    ((_, record, _),) = run_cells([cell], cache=tmp_path)
    keys, inputs = keys_of(cell, torch_version=torch.__version__)
    assert (record.key, record.inputs) == (keys.cell, inputs)


def test_a_run_leaves_the_global_generators_alone(tmp_path):
    before = torch.get_rng_state()
    run(tmp_path, attack="pgd:agents=random:1,restarts=2,steps=2", defense="copur")
    assert torch.equal(torch.get_rng_state(), before)


def test_records_hold_no_trace_of_this_machine(tmp_path):
    (record,), _ = run(tmp_path)
    text = msgspec.json.encode(record).decode()
    assert not re.search(r'"[^"]*(?:^|[\s"(])/\w+/\w+', text)
    for secret in (str(Path.home()), str(tmp_path), platform.node(), sys.prefix):
        if len(secret) > 3:
            assert secret not in text
    user = getpass.getuser()
    assert f'"{user}"' not in text
