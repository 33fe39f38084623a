"""Draw the README's figure from a run: accuracy against the number of corrupted agents.

    python tools/readme_figure.py            # about two minutes; needs matplotlib

Runs `cibench run` on `mfeat` with 1 to 4 corrupted agents, reads the records it prints and
writes docs/figures/corrupted-agents.svg. No number is typed in by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

OUT = Path(__file__).resolve().parents[1] / "docs/figures/corrupted-agents.svg"
AGENTS = {1: "6", 2: "5-6", 3: "4-6", 4: "3-6"}
DEFENSES = ("none", "manifold-projection", "copur")
ATTACKS = {
    "flip x10 (knows nothing)": "flip:agents={}",
    "PGD (knows the defense)": "pgd:agents={}",
}
#: Okabe and Ito's colours, told apart by every kind of colour vision.
STYLES = {
    "none": ("#D55E00", "o"),
    "manifold-projection": ("#E69F00", "s"),
    "copur": ("#0072B2", "D"),
    "genie": ("#777777", "^"),
}


def records() -> list[dict]:
    """Run the grid and return its records."""
    command = [
        str(Path(sys.executable).parent / "cibench"),
        "run",
        "--json",
        "--seeds",
        "3",
    ]
    for defense in DEFENSES:
        command += ["-d", defense]
    for spec in ATTACKS.values():
        for agents in AGENTS.values():
            command += ["-a", spec.format(agents)]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )


def share(proportion: dict) -> float:
    """A proportion in percent."""
    return 100 * proportion["successes"] / proportion["n"]


def draw(found: list[dict]) -> None:
    """Draw one panel per attack: mean over seeds, whiskers from lowest to highest."""
    mpl.rcParams.update({"svg.hashsalt": "cibench", "font.size": 9})
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for panel, (title, spec) in zip(panels, ATTACKS.items(), strict=True):
        for name, (colour, marker) in STYLES.items():
            metric = "genie" if name == "genie" else "attacked"
            defense = "none" if name == "genie" else name
            curve = []
            for count in AGENTS:
                values = [
                    share(r["metrics"][metric])
                    for r in found
                    if r["defense"]["spec"] == defense
                    and r["attack"][0]["component"]["name"] == spec.partition(":")[0]
                    and len(r["attack"][0]["sets"][0]) == count
                ]
                curve.append((sum(values) / len(values), min(values), max(values)))
            mean, low, high = zip(*curve, strict=True)
            whiskers = [
                [m - v for m, v in zip(mean, low, strict=True)],
                [v - m for m, v in zip(mean, high, strict=True)],
            ]
            panel.errorbar(
                list(AGENTS), mean, whiskers, color=colour, marker=marker, label=name,
                capsize=3, linestyle="--" if name == "genie" else "-",
            )  # fmt: skip
        panel.set(title=title, xlabel="corrupted agents of 6", ylim=(-3, 103))
        panel.set_xticks(list(AGENTS))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy under attack (%)")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="lower center", ncols=4)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    draw(records())
