"""Figures of reports: what is drawn is what the records say; files are deterministic."""

import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from cibench import cli
from cibench._errors import OutputError
from cibench.report import build, style
from cibench.report.curves import _spread
from cibench.report.style import COLOURS, LINES, MARKERS, figures, rendered
from cibench.results import RunFolder
from cibench.study import Published
from helpers_report import failed, outcomes_of, record, study_run

DEFENSES = {"weak": "none", "good": "copur"}
XS = (1.0, 3.0, 10.0)
SCENARIOS = {f"x{x:g}": (f"flip:amplification={x}", x) for x in XS}
PUBLISHED = [
    Published(scenario="x10", defense="good", dataset="toy", mean=79.0, std=5.0),
    Published(scenario="x10", defense="unknown", dataset="toy", mean=11.0),
]


def share(defense, x, seed):
    return 0.9 + 0.01 * seed if defense == "copur" else 0.8 / x + 0.02 * seed


def cells(defenses=("none", "copur"), seeds=3, n=100):
    return [
        record(defense, seed, outcomes_of(share(defense, x, seed), n), attack=attack)
        for defense in defenses
        for attack, x in SCENARIOS.values()
        for seed in range(seeds)
    ]


def on_axis(records=None, **options):
    run = study_run(
        SCENARIOS, DEFENSES, axis="amplification", published=PUBLISHED, **options
    )
    return build.of_study(run, cells() if records is None else records)


def lines_of(axes):
    """Connected lines by colour and marker, published points by their hollow marker."""
    ours = [line for line in axes.lines if line.get_linestyle() not in ("None", "none")]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    return ours, hollow


def test_curves_show_means_bands_intervals_and_published_points():
    report = on_axis()
    (name,) = found = figures(report)
    assert name == "curves"
    (axes,) = found["curves"].axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "amplification"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "3", "10"]
    assert axes.get_ylim() == (-3, 103)
    ours, hollow = lines_of(axes)
    means = {
        tuple(np.round(line.get_ydata(), 6))
        for line in ours
        if len(line.get_xdata()) == 3
    }
    for defense in ("none", "copur"):
        counts = [
            [
                100 * sum(outcomes_of(share(defense, x, seed), 100)) / 100
                for seed in range(3)
            ]
            for x in XS
        ]
        assert tuple(round(float(np.mean(c)), 6) for c in counts) in means
        bands = [c.get_paths()[0].vertices[:, 1] for c in axes.collections
                 if isinstance(c, PolyCollection)]  # fmt: skip
        assert any(
            {min(c) for c in counts} | {max(c) for c in counts}
            <= set(np.round(band, 9).tolist())
            for band in bands
        )
    assert [tuple(line.get_ydata()) for line in hollow if len(line.get_ydata())] == [
        (79.0,), (11.0,),
    ]  # fmt: skip
    whiskers = [
        tuple(np.round(segment[:, 1], 9))
        for c in axes.collections
        if not isinstance(c, PolyCollection)
        for segment in c.get_segments()
    ]
    expected = [
        tuple(round(100 * bound, 9) for bound in row.interval)
        for panel in report.panels
        for row in panel.done
    ]
    assert sorted(whiskers) == sorted(expected)
    legend = [text.get_text() for text in found["curves"].legends[0].get_texts()]
    # By the last value, then what is only published.
    assert legend == ["good", "weak", "unknown"]


def test_points_stand_near_their_x():
    (axes,) = figures(on_axis())["curves"].axes
    for line in lines_of(axes)[0]:
        if len(line.get_xdata()) == 3:
            assert line.get_xdata() == pytest.approx(XS, rel=0.16)


def test_a_failed_point_leaves_a_gap():
    records = [r for r in cells() if "3.0" not in r.attack[0].component.spec]
    attack = SCENARIOS["x3"][0]
    records += [
        record("none", s, outcomes_of(0.2, 100), attack=attack) for s in (0, 1, 2)
    ]
    records += [failed("copur", s, attack=attack) for s in (0, 1, 2)]
    (axes,) = figures(on_axis(records))["curves"].axes
    gaps = [
        np.isnan(line.get_ydata()).tolist()
        for line in lines_of(axes)[0]
        if len(line.get_xdata()) == 3
    ]
    assert sorted(gaps) == [[False, False, False], [False, True, False]]
    # Nor does a band bridge it: that of one defense is in two parts.
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert sorted(len(band.get_paths()) for band in bands) == [1, 2]


def test_one_panel_per_protocol_and_data_set():
    found = figures(on_axis(protocols=("ours", "theirs", "third")))
    titles = [
        axes.get_title(loc="left") for axes in found["curves"].axes if axes.axison
    ]
    assert titles == ["ours · toy", "theirs · toy", "third · toy"]


def test_dots_show_intervals_seeds_and_published_numbers():
    run = study_run({"x10": SCENARIOS["x10"]}, {**DEFENSES, "idle": "vflip"},
                    published=PUBLISHED[:1])  # fmt: skip
    report = build.of_study(run, cells())
    (name,) = found = figures(report)
    assert name == "dots-ours-toy"
    (axes,) = found[name].axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["good", "weak", "idle"]
    points = {
        (round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        for x, y in zip(
            np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True
        )
    }
    assert {(91.0, 0.0), (90.0, -0.22), (91.0, -0.22), (92.0, -0.22)} <= points
    assert (79.0, 0.22) in points
    assert [text.get_text() for text in axes.texts] == ["not run"]
    (row,) = (row for row in report.panels[0].rows if row.label == "good")
    segments = [s[:, 0].tolist() for c in axes.collections for s in c.get_segments()]
    assert [100 * bound for bound in row.interval] in segments
    # The published deviation.
    assert [74.0, 84.0] in segments


def test_a_plain_run_is_drawn_as_dots_per_data_set():
    report = build.of_records("run", cells())
    found = figures(report)
    assert list(found) == ["dots-toy"]
    assert len(found["dots-toy"].axes) == 3


def test_every_defense_of_a_large_study_looks_different():
    looks = [style.style(index) for index in range(18)]
    assert len({(colour, marker) for colour, marker, _ in looks}) == 18
    # In greyscale the marker or the line is left.
    assert len({(marker, line) for _, marker, line in looks}) == 18
    assert {line for _, _, line in looks} == set(LINES)
    assert len(set(COLOURS)) == 7
    assert len(set(MARKERS)) == len(MARKERS)


def luminance(colour):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_paper(colour):
    assert 1.05 / (luminance(colour) + 0.05) > 2


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_files_are_the_same_each_time(kind):
    first = rendered(figures(on_axis())["curves"], kind)
    assert rendered(figures(on_axis())["curves"], kind) == first
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    if kind == "svg":
        assert not re.search(rb"<dc:date>|\b20\d\d-\d\d-\d\d", first)


def run_folder(path, records):
    folder = RunFolder(path)
    folder.create()
    for found in records:
        folder.write(found)
    return path


def test_figures_are_written_beside_the_run_or_where_asked(tmp_path, capsys):
    run = run_folder(tmp_path / "run", cells(seeds=1))
    assert cli.invoke(["report", str(run), "--format", "svg"]) == 0
    assert capsys.readouterr().out == f"{run / 'report' / 'dots-toy.svg'}\n"
    out = tmp_path / "deep" / "figures"
    assert cli.invoke(["report", str(run), "--format", "png", "-o", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["dots-toy.png"]


def test_figures_need_a_folder_and_a_number(tmp_path, capsys):
    run = run_folder(tmp_path / "run", cells(seeds=1))
    assert cli.invoke(["report", str(run), "-f", "png", "-o", "x.png"]) == 2
    assert "expected a folder for the figures" in capsys.readouterr().err
    broken = run_folder(tmp_path / "broken", [failed("none", 0)])
    assert cli.invoke(["report", str(broken), "-f", "png"]) == 5
    assert "expected a finished scenario to draw" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    blocked = ["report", str(run), "-f", "svg", "-o", str(tmp_path / "file" / "in")]
    assert cli.invoke(blocked) == OutputError.exit_code
    assert "choose another with -o" in capsys.readouterr().err


def test_a_label_with_an_underscore_is_in_the_legend():
    run = study_run(SCENARIOS, {"_weak": "none", "$a$": "copur"}, axis="$x$ of $y^$")
    (figure,) = figures(build.of_study(run, cells())).values()
    assert rendered(figure, "png")
    legend = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert legend == ["$a$", "_weak"]


def test_long_and_hostile_labels_are_cut_and_drawn_as_text():
    label = r"_ $\frac{ $x_{ $ $" + "long-" * 20
    run = study_run({label: SCENARIOS["x10"]}, {label: "none"})
    (figure,) = figures(build.of_study(run, cells())).values()
    assert rendered(figure, "png")
    assert all(
        t.get_text().startswith(r"_ $\frac{") for t in figure.axes[0].get_yticklabels()
    )
    assert all(len(t.get_text()) <= 44 for t in figure.axes[0].get_yticklabels())


def test_many_lines_are_spread_over_panels_with_the_common_ones_together():
    names = [f"d{i:02}" for i in range(13)]
    assert _spread(names[:10], set()) == [names[:10]]
    common = {"d03", "d07", "d11"}
    panels = _spread(names, common)
    assert panels[0] == sorted(common)
    assert [len(panel) for panel in panels] == [3, 10]
    assert sorted(label for panel in panels for label in panel) == names
    assert [len(panel) for panel in _spread(names, set(names))] == [10, 3]
