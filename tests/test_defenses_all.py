"""What every shipped defense keeps, with default options, on data it was not made for."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import cibench_plugins.defenses.leave_one_out as leave_one_out
from cibench import cli
from cibench.embedding import RECIPES, prepare
from cibench.execute.store import ArtifactStore
from cibench.registry import default_registry
from cibench.spec import Spec
from cibench_plugins.datasets.synthetic import Synthetic
from cibench_plugins.defenses.latent_median import LatentMedian
from cibench_plugins.defenses.leave_one_out import LeaveOneOut
from helpers import seeded
from helpers_extrasensory import write_user

SHIPPED = [
    entry.name
    for entry in default_registry().entries
    if entry.kind == "defense" and entry.module.startswith("cibench_plugins.")
]


def test_the_paper_s_defenses_and_those_beyond_it_are_shipped():
    assert len(SHIPPED) >= 17


def configured(name):
    return default_registry().configure("defense", Spec.parse(name))


# The numbers of a run must not depend on what an earlier one has stored


@pytest.fixture(scope="module")
def embedded():
    """Training of five agents."""
    training, _, _ = prepare(
        Synthetic(agents=5, width=4, rank=2, samples=200, noise=0.3).load(),
        dataclasses.replace(RECIPES["identity"], epochs=2),
        seed=0,
        store=ArtifactStore(None),
        device=torch.device("cpu"),
    )
    return training


def fitted(defense, training, folder):
    stored = dataclasses.replace(training, store=ArtifactStore(folder), _fitted={})
    center = defense.fit(stored, generator=seeded())
    return center.facts, {k: v.clone() for k, v in center.state_dict().items()}


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for key, value in one[1].items():
        assert torch.equal(value, other[1][key]), key


@pytest.mark.parametrize("name", SHIPPED)
def test_a_fit_does_not_depend_on_what_is_stored(embedded, tmp_path, name):
    fresh = fitted(configured(name), embedded, tmp_path)
    assert_same(fresh, fitted(configured(name), embedded, tmp_path))
    for path in sorted(tmp_path.rglob("*.safetensors")):
        path.unlink()  # as if the run had been interrupted before it
        assert_same(fresh, fitted(configured(name), embedded, tmp_path))


@pytest.mark.parametrize("stored", ["maps", "head"])
def test_a_latent_median_interrupted_half_way_is_the_same(embedded, tmp_path, stored):
    fresh = fitted(LatentMedian(), embedded, tmp_path)
    paths = list(tmp_path.rglob("*.safetensors"))
    lost = [p for p in paths if (b'"maps"' in p.read_bytes()) != (stored == "maps")]
    assert 0 < len(lost) < len(paths)
    for path in lost:
        path.unlink()
    assert_same(fresh, fitted(LatentMedian(), embedded, tmp_path))


def test_leave_one_out_is_judged_by_the_same_corruption(
    monkeypatch, embedded, tmp_path
):
    seen, simulate = [], leave_one_out.simulate_corruption

    def spy(*arguments):
        seen.append(simulate(*arguments))
        return seen[-1]

    monkeypatch.setattr(leave_one_out, "simulate_corruption", spy)
    for _ in range(2):
        fitted(LeaveOneOut(), embedded, tmp_path)
    assert torch.equal(seen[0].features, seen[1].features)


# Defaults carry over


def write_table(folder):
    """Three agents of a hospital: numbers and categories, some not recorded."""
    rng = np.random.default_rng(0)
    ill = rng.random(300) < 0.5
    lines = ["age,pulse,colour,lab_a,lab_b,note,ill"]
    for sick in ill:
        shift = 1.5 if sick else -1.5
        a, b, c, d = rng.normal(size=4) + shift
        pulse = "" if rng.random() < 0.1 else f"{60 + 10 * b:.2f}"
        colour = rng.choice(["red", "green"], p=[0.8, 0.2] if sick else [0.2, 0.8])
        lines.append(
            f"{40 + 9 * a:.1f},{pulse},{colour},{c:.3f},{d * 1e4:.0f},{a:.2f},"
            f"{'yes' if sick else 'no'}"
        )
    Path(folder, "patients.csv").write_text("\n".join(lines) + "\n")
    Path(folder, "patients.toml").write_text(
        'label = "ill"\ncategorical = ["colour"]\n[agents]\n'
        'ward = ["age", "pulse"]\nlab = ["lab_*"]\ndesk = ["colour", "note"]\n'
    )
    return "table:path=patients.csv,mapping=patients.toml,title=patients"


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset",
    ["mfeat", "extrasensory", "sensor-array:samples=600", "table", "synthetic"],
)
def test_every_defense_runs_with_its_defaults(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    spec = write_table(tmp_path) if dataset == "table" else dataset
    if dataset == "extrasensory":
        write_user(tmp_path / "extrasensory")
    named = [part for name in SHIPPED for part in ("-d", name)]
    attacks = ("-a", "flip", "-a", "missing")
    run = ("run", "-q", "--quick", "--data-dir", ".", "--dataset", spec, "-o", "out")
    run += ("--isolation", "none")
    code = cli.invoke([*run, *attacks, *named])
    assert code == 0, capsys.readouterr().err
    records = [json.loads(p.read_text()) for p in Path("out/cells").glob("*.json")]
    assert len(records) == 2 * len(SHIPPED)
    for record in records:
        assert record["status"] == "ok", record["reason"]
        metrics = record["metrics"]
        clean, undefended = (
            metrics[key]["successes"] / metrics[key]["n"]
            for key in ("clean", "clean_undefended")
        )
        # Adversarial training without a bound may collapse; the others keep what there is.
        if "adversarial" not in record["defense"]["name"]:
            assert clean > undefended - 0.1, record["cell"]
