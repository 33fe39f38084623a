"""Records made by hand, so that reports are tested against numbers known beforehand."""

from cibench.results import (
    AttackPart,
    CellRecord,
    Component,
    Metrics,
    Outcomes,
    Proportion,
    Timings,
)
from cibench.study import Axis, Protocol, Study, StudyPart, StudyRun, StudyScenario

EMBEDDING = {"block": 4, "joint": True}


def component(spec):
    return Component(
        name=spec.partition(":")[0], spec=spec, options={}, distribution="cibench",
        version="1", source="0",
    )  # fmt: skip


def attack_part(spec):
    return AttackPart(
        component=component(spec), agents="last", sets=[["c"]], knowledge="oblivious",
        target="any", corrupts=True, budget=None, radius=None,
    )  # fmt: skip


def record(
    defense, seed, correct, *, attack="flip", dataset="toy", counted=None,
    time_series=False, flags=(), **changes,
):  # fmt: skip
    """A finished cell of two classes: labels 0, 1, 0, ...; right where `correct` says."""
    n = len(correct)
    counted = list(counted or [True] * n)
    labels = [i % 2 for i in range(n)]
    attacked = [
        label if right else 1 - label
        for label, right in zip(labels, correct, strict=True)
    ]
    right = sum(a and b for a, b in zip(correct, counted, strict=True))
    share = Proportion(successes=right, n=sum(counted))
    whole = Proportion(successes=n, n=n)
    metrics = Metrics(
        clean_undefended=whole, clean=whole, attacked_undefended=share, attacked=share,
        genie=whole, universal=share, universal_set=["c"], balanced_clean=1.0,
        balanced_attacked=share.value,
        success_rate=Proportion(successes=sum(counted) - right, n=sum(counted)),
        majority_share=0.5, recovery_error=None, recovery_error_clean=None,
        solver_not_converged=None, rejected_blocks=0, queries=0, gradients=0,
    )  # fmt: skip
    fields = {
        "protocol": 1, "cell": f"{dataset}--{attack}--{defense}--{seed}".replace(":", "_"),
        "key": f"{dataset}{attack}{defense}{seed}", "status": "ok",
        "dataset": component(dataset), "fingerprint": "f", "agents": ["a", "b", "c"],
        "classes": ["0", "1"], "embedding": EMBEDDING,
        "attack": [attack_part(spec) for spec in attack.split("+")],
        "defense": component(defense), "seed": seed, "metrics": metrics,
        "timings": Timings(
            fit_seconds=0, attack_seconds=0, predict_seconds=0,
            milliseconds_per_sample=0.1,
        ),
        "outcomes": Outcomes(
            labels=labels, counted=counted, clean_undefended=labels, clean=labels,
            attacked_undefended=attacked, attacked=attacked, genie=labels,
            compromised=[4] * n, recovery_error=None, solver_status=None,
        ),
        "flags": list(flags), "environment": {}, "device": "cpu",
        "time_series": time_series, "created": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    return CellRecord(**{**fields, **changes})


def failed(defense, seed, reason="why", status="failed", **options):
    return record(
        defense, seed, [True], status=status, reason=reason, metrics=None, outcomes=None,
        timings=None, **options,
    )  # fmt: skip


def outcomes_of(share, n=200, offset=0):
    """A share of correct samples, spread evenly; others' shares hold or lie within it."""
    return [(i * 61 + offset) % n < share * n for i in range(n)]


def study_run(
    scenarios, defenses, *, published=(), claims=(), axis=None, datasets=("toy",),
    protocols=("ours",), unavailable=None,
):  # fmt: skip
    """A study of which every part was run.

    Args:
        scenarios: label to attack and `x`.
        defenses: label to spec.
        unavailable: data set specs and why they could not be loaded.
    """
    study = Study(
        title="A study", description="About nothing.", source="Nobody 2030",
        scenarios=[
            StudyScenario(label=label, attack=attack, x=x)
            for label, (attack, x) in scenarios.items()
        ],
        protocols=[
            Protocol(
                name=name, datasets=[*datasets, *(unavailable or {})], defenses=defenses
            )
            for name in protocols
        ],
        published=list(published), claims=list(claims),
        figure=None if axis is None else Axis(label=axis, scale="log"),
    )  # fmt: skip
    parts = [
        StudyPart(
            protocol=name, dataset=dataset, dataset_name=dataset.partition(":")[0],
            embedding=EMBEDDING, scenario=label, attack=attack, x=x, defenses=defenses,
        )
        for name in protocols
        for dataset in datasets
        for label, (attack, x) in scenarios.items()
    ]  # fmt: skip
    return StudyRun(name="s", study=study, parts=parts, unavailable=unavailable or {})
