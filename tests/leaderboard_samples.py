"""Leaderboards and entries made by hand or at random, for tests of what draws them."""

import numpy as np

from cibench.leaderboard.entries import LoadedEntry
from cibench.leaderboard.model import (
    Board,
    Certified,
    Column,
    Cost,
    Curve,
    Entry,
    Leaderboard,
    Line,
    Lowered,
    Result,
    Row,
    Share,
    Versus,
)
from cibench.results import (
    AttackPart,
    CellRecord,
    Component,
    Metrics,
    Outcomes,
    Proportion,
    Timings,
)
from cibench.results.record import Certificate
from cibench.study import Protocol, Study, StudyScenario
from cibench.submission.manifest import Manifest, Verification

#: Text that tries to leave its place on a page.
HOSTILE = (
    "<script>alert(1)</script>",
    "a|b\n## c",
    "../../x",
    "\u202eevil\u2066 \x1b[31mred\x00",
    "x" * 10_000,
    "]](javascript:alert(1)) ${7*7} {{7*7}} </style>",
)

ATTACKS = (
    "flip:agents=random:1,amplification=1.0",
    "flip:agents=random:1",
    "pgd:agents=random:1,knowledge=fusion",
    "pgd:agents=random:1",
)
DEFENSES = ("none", "genie", "copur", "norm-clip", "vflip", "randomized-ablation")
AGENTS = ["audio", "gyro", "phone", "watch"]
EMBEDDING = {"block": 4, "joint": True}


def share(value, n=200, half=0.05, spread=0.01):
    return Share(
        value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n,
        spread=spread,
    )  # fmt: skip


def sample_leaderboard(seed=0, rows=6, *, boards=2, columns=4, hostile=False):
    """A leaderboard with every kind of row, of model objects only.

    Args:
        seed: of the numbers.
        rows: rows of each board; the first is the undefended, the second the genie, the
            last lacks records.
        boards: how many boards, each with a certified and a lowered row.
        columns: attacks of each board.
        hostile: whether names, authors, attacks and notes try to leave their place.
    """
    rng = np.random.default_rng(seed)
    flaw = (lambda i, text: HOSTILE[i % len(HOSTILE)] + text) if hostile else (
        lambda _, text: text
    )  # fmt: skip
    attacks = [flaw(i, f"flip:amplification={i + 1}.0") for i in range(columns)]
    return Leaderboard(
        title=flaw(0, "Defenses of collaborative inference"), owner=flaw(1, "An owner"),
        link="https://example.org/board", suite="standard", protocol=1,
        date="2030-01-31",
        boards=[_board(rng, at, rows, attacks, flaw) for at in range(boards)],
        curves=[
            Curve(
                id=f"curve-{at}", title=flaw(at, f"toy-{at}, flip"),
                dataset=flaw(at, f"toy-{at}"),
                axis=("amplification", "compromised agents")[at % 2], log=at % 2 == 0,
                xs=[1.0, 3.0, 10.0],
                lines=[
                    Line(
                        label=flaw(r, f"defense-{r}"), row=f"board-{at}-row-{r}",
                        shares=[
                            None if (r + x) % 5 == 4 else share(float(rng.uniform()))
                            for x in range(3)
                        ],
                    )
                    for r in range(min(rows, 5))
                ],
            )
            for at in range(boards)
        ],
        entries=[
            Entry(
                name=name, title=flaw(at, f"Entry {name}"),
                author=flaw(at + 1, "Ann O'Nym"),
                link="https://example.org/code", note=flaw(at + 2, "A note."),
                created="2030-01-30", badge=badge, records=100 + at, digest=f"{at:064x}",
            )
            for at, (name, badge) in enumerate(
                [("base", "re-scored"), ("challenge", "claimed")]
            )
        ],
        flags={
            flaw(0, "attack-too-weak"): flaw(1, "the attack proves nothing"),
            "oracle-information": "the defense is told which agents are corrupted",
        },
    )  # fmt: skip


def _board(rng, at, rows, attacks, flaw):
    return Board(
        id=f"board-{at}", title=flaw(at, f"toy-{at}, one agent sends anything"),
        dataset=flaw(at, f"toy-{at}"), dataset_name=f"toy-{at}", fingerprint="f" * 64,
        protocol=1, embedding=flaw(at, "block 4, joint"), device="cpu",
        agents=[flaw(i, name) for i, name in enumerate(AGENTS)],
        classes=[flaw(i, name) for i, name in enumerate(("rest", "walk"))],
        rule="random:1", target="any", budget=None,
        threat=[flaw(i, text) for i, text in enumerate(("One agent.", "Knows all."))],
        n=200, seeds=[0, 1, 2, 3, 4], majority=0.4, time_series=at % 2 == 1,
        personal=at % 2 == 1, intervals="bootstrap over seeds and samples",
        notes=[flaw(at, "A note of the data.")],
        columns=[
            Column(
                attack=attack, label=flaw(i, f"flip x{i + 1}"), family="flip",
                knowledge="adaptive" if i == 1 else "oblivious",
                standard=i < len(attacks) - 1 or len(attacks) == 1,
            )
            for i, attack in enumerate(attacks)
        ],
        control=flaw(at, "control: all agents"),
        rows=[_row(rng, at, r, rows, attacks, flaw) for r in range(rows)],
        date="2030-01-31",
    )  # fmt: skip


def _row(rng, at, r, rows, attacks, flaw):
    worst = float(rng.uniform(0.1, 0.6))
    oracle, broken = r == 1, r == rows - 1 and rows > 3
    results = {
        attack: Result(share=share(min(1.0, worst + float(rng.uniform(0.0, 0.3)))))
        for attack in attacks
    }
    lowered = []
    if r == 2 and len(attacks) > 1:
        last = attacks[-1]
        results[last] = Result(
            share=share(worst), author=flaw(r, "Eve"), entry="challenge"
        )
        lowered = [
            Lowered(
                attack=last, author=flaw(r, "Eve"), entry="challenge", badge="claimed",
                date="2030-01-31",
                before=share(min(1.0, worst + 0.1)), after=share(worst),
            )
        ]  # fmt: skip
    if broken:
        results[attacks[0]] = Result(trouble="1 of 5 seeds timeout")
    label = ("none", "genie")[r] if r < 2 else f"defense-{r}"
    return Row(
        id=f"board-{at}-row-{r}", label=flaw(r, label), spec=flaw(r, f"{label}:keep=2"),
        defense=flaw(r, label), distribution=flaw(r + 1, "cibench"), version="1.0",
        citation=flaw(r, "Somebody: A paper. 2029"), link="https://example.org/paper",
        entry="base", author=flaw(r, "Ann O'Nym"), date="2030-01-30",
        badge=("re-scored", "reproduced", "claimed")[r % 3],
        badge_text="12 of 12 witnesses", role=("undefended", "genie", "")[min(r, 2)],
        oracle=oracle, rank=None if oracle or broken else (max(1, r - 1), rows),
        clean=share(min(1.0, worst + 0.3)),
        standard=None if broken else share(min(1.0, worst + (0.1 if lowered else 0))),
        best_known=None if broken else share(worst), results=results,
        unaware=None if broken or at % 2 else share(min(1.0, worst + 0.2)),
        control=Result(trouble=flaw(r, "no record")) if broken else Result(share=share(0)),
        adaptive=("adaptive", "exact", "misled", "none")[r % 4], lowered=lowered,
        certified=[
            Certified(
                kind="agents", confidence=1.0, radii=[0.0, 1.0, 2.0],
                accuracy=[0.9, 0.5, 0.0], here=share(0.5),
            ),
            Certified(
                kind="l2", confidence=0.999, radii=[0.0, 0.5, 2.5],
                accuracy=[0.9, 0.4, 0.1],
            ),
        ] if r == 3 else [],
        flags=["oracle-information"] if oracle else [],
        cost=Cost(fit_seconds=3.5, milliseconds=0.25, relative=1.0 + r),
        seeds=[0, 1, 2, 3, 4],
        versus=None if oracle or broken else Versus(
            other=flaw(r, "none"), difference=-0.1, low=-0.2, high=0.0, p=0.04
        ),
        agents={
            flaw(i, name): share(float(rng.uniform())) for i, name in enumerate(AGENTS)
        },
        trouble=flaw(r, "1 of 5 seeds timeout under flip") if broken else "",
        reasons=[flaw(r, "seed 3: timeout: 20 minutes")] if broken else [],
        command=f"cibench run --suite standard --dataset toy -d defense-{r}",
    )  # fmt: skip


def suite(
    attacks=ATTACKS, *, seeds=2, defenses=DEFENSES, datasets=("toy",), control=()
):
    """A study of these attacks, after the scenario without one."""
    return Study(
        title="A suite", seeds=seeds,
        scenarios=[
            StudyScenario(label="no attack", attack="none"),
            *(StudyScenario(label=f"attack {a}", attack=a) for a in attacks),
            *(StudyScenario(label=f"control {a}", attack=a, control=True) for a in control),
        ],
        protocols=[
            Protocol(
                name="ours", datasets=list(datasets),
                defenses={f"the {d}" if ":" in d else d: d for d in defenses},
            )
        ],
    )  # fmt: skip


def component(spec, *, version="1", **options):
    name, _, rest = spec.partition(":")
    given = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    return Component(
        name=name, spec=spec, options={**given, **options}, distribution="cibench",
        version=version, source="0",
    )  # fmt: skip


def attack_part(spec, *, agents=AGENTS, **changes):
    """A part of an attack; its threat is read from the spec."""
    found = component(spec)
    rule = found.options.get("agents", "none" if found.name == "none" else "last")
    options = {}
    if found.name == "flip":
        options = {"amplification": float(found.options.get("amplification", 10.0))}
    default = "adaptive" if found.name == "pgd" else "oblivious"
    named = {"none": [[]], "last": [[agents[-1]]]}.get(rule, [])
    fields = {
        "component": component(spec, **options), "agents": rule, "sets": named,
        "knowledge": found.options.get("knowledge", default),
        "target": found.options.get("target", "any"),
        "corrupts": found.name not in ("missing", "none"), "budget": None, "radius": None,
    }  # fmt: skip
    return AttackPart(**{**fields, **changes})


def record(
    defense, attack, seed, attacked, *, clean=None, labels=None, counted=None,
    compromised=None, dataset="toy", agents=AGENTS, created="2030-01-01T00:00:00+00:00",
    version="1", parts=None, **changes,
):  # fmt: skip
    """A finished cell of two classes.

    Args:
        attacked: `(n,)` whether each sample is right under attack.
        clean: `(n,)` whether it is right without; all if left out.
        labels: `(n,)` true classes; 0, 1, 0, ... if left out.
    """
    attacked = np.asarray(attacked, dtype=bool)
    n = len(attacked)
    clean = np.ones(n, bool) if clean is None else np.asarray(clean, dtype=bool)
    labels = np.arange(n) % 2 if labels is None else np.asarray(labels)
    counted = np.ones(n, bool) if counted is None else np.asarray(counted, dtype=bool)
    wrong = 1 - labels

    def portion(right, of=None):
        of = np.ones(n, bool) if of is None else of
        return Proportion(successes=int((right & of).sum()), n=int(of.sum()))

    def decided(right):
        return np.where(right, labels, wrong).tolist()

    hurt, whole = portion(attacked, counted), portion(clean)
    metrics = Metrics(
        clean_undefended=whole, clean=whole, attacked_undefended=hurt, attacked=hurt,
        genie=whole, universal=hurt, universal_set=[], balanced_clean=whole.value,
        balanced_attacked=hurt.value, success_rate=portion(~attacked, counted & clean),
        majority_share=max(labels.mean(), 1 - labels.mean()) if n else 0.0,
        recovery_error=None, recovery_error_clean=None, solver_not_converged=None,
        rejected_blocks=0, queries=0, gradients=0,
    )  # fmt: skip
    if compromised is None:
        quiet = attack == "none"
        compromised = [0 if quiet else 1 << i % len(agents) for i in range(n)]
    fields = {
        "protocol": 1,
        "cell": f"{dataset}--{attack}--{defense}--{seed}".replace(":", "_"),
        "key": f"{dataset}{attack}{defense}{version}{seed}", "status": "ok",
        "dataset": component(dataset), "fingerprint": "f" * 16, "agents": list(agents),
        "classes": ["rest", "walk"], "embedding": EMBEDDING,
        "attack": parts or [attack_part(part, agents=agents) for part in attack.split("+")],
        "defense": component(defense, version=version), "seed": seed, "metrics": metrics,
        "timings": Timings(
            fit_seconds=1.0 + seed, attack_seconds=0.0, predict_seconds=0.0,
            milliseconds_per_sample=0.5,
        ),
        "outcomes": Outcomes(
            labels=labels.tolist(), counted=counted.tolist(),
            clean_undefended=decided(clean), clean=decided(clean),
            attacked_undefended=decided(attacked), attacked=decided(attacked),
            genie=decided(clean), compromised=list(compromised), recovery_error=None,
            solver_status=None,
        ),
        "flags": ["oracle-information"] if defense.partition(":")[0] == "genie" else [],
        "environment": {}, "device": "cpu", "created": created,
    }  # fmt: skip
    return CellRecord(**{**fields, **changes})


def failed(defense, attack, seed, status="timeout", reason="20 minutes", **options):
    """A cell without numbers."""
    return record(
        defense, attack, seed, [True], status=status, reason=reason, metrics=None,
        outcomes=None, timings=None, **options,
    )  # fmt: skip


def entry(
    name, records, *, created="2030-01-01", author="Ann O'Nym", badge="claimed", added=0
):
    """An entry of these records."""
    return LoadedEntry(
        manifest=Manifest(
            protocol=1, name=name, title=f"Entry {name}", author=author, created=created,
            cibench="1.0", link="https://example.org/code", files={},
            citations={"copur": "Liu and others 2022"},
        ),
        verification=Verification(badge=badge, records=len(records), added=added),
        records=list(records),
        digest=f"{len(records):064x}",
    )  # fmt: skip


def random_records(
    defenses, seeds=2, n=40, attacks=ATTACKS, *, seed=0, dataset="toy", **options
):
    """Records of every attack on every defense, none included, of random outcomes.

    The defenses differ in how much they withstand; the certificates of
    `randomized-ablation` are of agents.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    found = []
    for spec in defenses:
        strength = rng.uniform(0.6, 0.95)
        for repetition in range(seeds):
            clean = rng.uniform(size=n) < 0.95
            proof = [
                Certificate(
                    kind="agents", confidence=1.0,
                    radius=rng.integers(0, 3, n).astype(float).tolist(),
                )
            ]  # fmt: skip
            shared = {"clean": clean, "labels": labels, "dataset": dataset, **options}
            proved = proof if spec.startswith("randomized-ablation") else []
            found.append(
                record(spec, "none", repetition, clean, certificates=proved, **shared)
            )
            found += [
                record(spec, a, repetition, rng.uniform(size=n) < strength, **shared)
                for a in attacks
            ]
    return found


def sample_entries(rows=6, seeds=2, n=40, attacks=ATTACKS, *, seed=0, apart=False):
    """Entries of random records: one of all rows, or one for each with `apart`.

    The first rows are `none`, `genie` and the like, the others `copur:rank=7` and so on.
    """
    defenses = [*DEFENSES, *(f"copur:rank={at}" for at in range(rows))][:rows]
    records = random_records(defenses, seeds, n, attacks, seed=seed)
    if not apart:
        return [entry("base", records, badge="re-scored")]
    each = len(records) // rows
    return [
        entry(f"entry-{at}", records[at * each : (at + 1) * each]) for at in range(rows)
    ]
