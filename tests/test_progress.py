"""What a run shows on the way: bars, lines, JSON, and how much time is left."""

import datetime
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cibench._errors import OutputError
from cibench.cli._board import Board
from cibench.cli._drawing import drawing, shortened
from cibench.cli._lines import Lines
from cibench.cli._pace import Pace, about, clock_text
from cibench.cli._progress import one_line, outcome, progress, trouble
from cibench.execute.channel import Event
from cibench.execute.finished import Finished
from helpers_terminal import OnTerminal


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def cell(number=1, **fields):
    given = {
        "cell": f"id-{number}", "key": "k", "status": "ok", "reason": "",
        "accuracy": 0.942, "source": "computed", "seconds": 0.0, "flags": (), "log": "",
    }  # fmt: skip
    return Finished(title=f"cell {number}", **given | fields)


def failed(number=1, **fields):
    reason = fields.pop("reason", "ValueError: no")
    return cell(number, status="failed", accuracy=None, reason=reason, **fields)


def lines_of(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


# Words.


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (cell(), "94.2 % under attack"),
        (cell(source="cache"), "94.2 % under attack (stored)"),
        (cell(source="folder"), "94.2 % under attack (already in the folder)"),
        (cell(accuracy=0.0), "0.0 % under attack"),
        (failed(), "failed: ValueError: no"),
        (cell(status="skipped", accuracy=None, reason="no 7"), "skipped: no 7"),
        (cell(status="killed", accuracy=None), "killed"),
    ],
)
def test_an_outcome_in_words(done, words):
    assert outcome(done) == words


def test_trouble_says_where_to_read_more():
    assert (
        trouble(failed(log="r/a.txt")) == "cell 1: failed: ValueError: no; log: r/a.txt"
    )
    assert trouble(failed()) == "cell 1: failed: ValueError: no"


def test_text_of_a_plugin_does_not_steer_the_terminal():
    assert (
        one_line("a\x1b[2Jb\n\tc\x07\x9b\u202ed · é")
        == "a\ufffd[2Jb c\ufffd\ufffd\ufffdd · é"
    )


# How much time is left.


@pytest.fixture
def clock():
    return Clock()


def computed_at(pace, clock, *times):
    for now in times:
        clock.now = now
        pace.computed()


def test_the_time_left_is_unknown_at_first(clock):
    pace = Pace(clock)
    assert pace.left(10) is None
    pace.begin()
    computed_at(pace, clock, 10)
    assert pace.left(10) is None
    assert pace.left(0) == 0
    computed_at(pace, clock, 20)
    assert pace.left(10) == 100


def test_preparation_before_the_first_cell_does_not_count(clock):
    pace = Pace(clock)
    clock.now = 1000
    pace.begin()
    computed_at(pace, clock, 1010, 1020)
    pace.begin()
    assert pace.left(3) == 30


def test_it_counts_down_between_cells_and_grows_when_one_is_late(clock):
    pace = Pace(clock)
    pace.begin()
    computed_at(pace, clock, 10, 20)
    clock.now = 24
    assert pace.left(5) == 46
    clock.now = 30
    assert pace.left(5) == 40
    clock.now = 60  # a third cell, were it done now, would make it 20 s each
    assert pace.left(5) == 80


def test_old_cells_are_forgotten(clock):
    pace = Pace(clock)
    pace.begin()
    computed_at(pace, clock, *(step / 10 for step in range(1, 1001)))
    assert pace.left(100) == pytest.approx(10)
    computed_at(pace, clock, *range(110, 1000, 10))
    assert pace.left(100) == pytest.approx(1000, rel=0.05)


def test_slow_cells_are_kept_until_there_are_enough_of_them(clock):
    pace = Pace(clock)
    pace.begin()
    computed_at(pace, clock, 1000, 3000, 5000)
    assert pace.left(3) == pytest.approx(5000)


def test_the_window_does_not_grow_with_the_grid(clock):
    pace = Pace(clock)
    pace.begin()
    computed_at(pace, clock, *(step / 1000 for step in range(1, 200_001)))
    assert pace.left(1000) == pytest.approx(1)
    assert len(pace._seconds) < 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-:--"), (0, "0:00"), (65.9, "1:05"), (3599, "59:59"),
        (3845, "1:04:05"), (47.9 * 3600, "47:54:00"), (52 * 3600, "2 d 4 h"),
    ],
)  # fmt: skip
def test_a_clock(seconds, text):
    assert clock_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (42, "42 s"), (720, "12 min"), (89 * 60, "89 min"), (7200, "2 h")],
)
def test_an_estimate(seconds, text):
    assert about(seconds) == text


# Plain lines.


def test_a_line_a_cell(capsys):
    with progress(3, quiet=False, verbose=False) as shown:
        shown.stage("embed", 5)
        shown.event(Event("cell 1", "evaluate", "attack"))
        shown.finished(cell(1, source="cache", flags=("partial",)))
        shown.prepared("fit of cell 2", 1.0, "")
        shown.prepared("fit of cell 3", 1.0, "ValueError: bad\nthing")
        shown.finished(cell(2, status="skipped", accuracy=None, reason="no 7"))
        shown.finished(failed(3, log="r/3.txt"))
    assert lines_of(capsys) == [
        "[1/3] cell 1: 94.2 % under attack (stored)",
        "fit of cell 3: ValueError: bad thing",
        "[2/3] cell 2: skipped: no 7",
        "[3/3] cell 3: failed: ValueError: no; log: r/3.txt",
    ]


def test_a_long_stage_gets_a_line(capsys):
    with progress(3, quiet=False, verbose=False) as shown:
        shown.stage("embed", 6)
        shown.stage("fit+refer", 7)
        shown.stage("evaluate", 0)
    assert lines_of(capsys) == ["embeddings: 6 to do", "fits and references: 7 to do"]


def test_verbose_tells_all(capsys):
    with progress(500, quiet=False, verbose=True) as shown:
        shown.stage("embed", 1)
        shown.event(Event("e", "embed", "", started=True))
        for done in range(3):
            shown.event(Event("e", "embed", "epochs", done, 3))
        shown.prepared("e", 1.23, "")
        shown.event(Event("cell 1", "evaluate", "attack"))
        shown.finished(cell(1, flags=("partial", "randomized")))
        for number in range(2, 501):
            shown.finished(cell(number))
    lines = lines_of(capsys)
    assert lines[:5] == [
        "embeddings: 1 to do",
        "e: epochs",
        "e: done in 1.2 s",
        "cell 1: attack",
        "[1/500] cell 1: 94.2 % under attack; flags: partial, randomized",
    ]
    assert len(lines) == 4 + 500


def test_many_cells_get_a_line_a_second_and_failures_always_theirs(capsys, clock):
    lines = Lines(60_000, verbose=False, clock=clock)
    lines.stage("evaluate", 60_000)
    capsys.readouterr()
    for number in range(1, 2001):
        clock.now = number / 100
        done = failed(number) if number % 100 == 50 else cell(number)
        lines.finished(done)
    lines.close()
    said = lines_of(capsys)
    troubles = [line for line in said if line.endswith("failed: ValueError: no")]
    assert troubles[0] == "[50/60000] cell 50: failed: ValueError: no"
    assert len(troubles) == 20
    sums = [line for line in said if " ok" in line]
    assert 20 <= len(sums) <= 22
    assert len(said) == len(troubles) + len(sums)
    assert sums[-1] == "[2000/60000] 1980 ok, 20 failed, about 10 min left"


def test_stored_cells_say_nothing_of_the_time_left(capsys, clock):
    lines = Lines(1000, verbose=False, clock=clock)
    lines.stage("evaluate", 500)
    for number in range(1, 501):
        lines.finished(cell(number, source="cache" if number % 2 else "folder"))
    clock.now = 10
    lines.finished(cell(501))
    clock.now = 20
    lines.finished(cell(502))
    assert lines_of(capsys)[-1] == "[502/1000] 502 ok, about 83 min left"


def test_quiet_shows_nothing(capsys):
    with progress(1, quiet=True, verbose=True) as shown:
        shown.stage("embed", 100)
        shown.finished(failed())
    assert lines_of(capsys) == []


@pytest.mark.parametrize("verbose", [False, True])
def test_nothing_is_shown_after_the_end(capsys, tmp_path, verbose):
    log = tmp_path / "log"
    with progress(1000, quiet=False, verbose=verbose, json_log=log) as shown:
        pass
    shown.stage("embed", 100)
    shown.event(Event("a", "embed", "epochs"))
    shown.prepared("a", 1.0, "bad")
    shown.finished(failed())
    assert lines_of(capsys) == []
    assert log.read_bytes() == b""


def test_a_failed_run_ends_its_display_too(capsys):
    def interrupted():
        with progress(1000, quiet=False, verbose=False) as shown:
            shown.finished(cell(1, source="cache"))
            shown.finished(cell(2, source="cache"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert lines_of(capsys) == ["[1/1000] 1 ok", "[2/1000] 2 ok"]


def test_an_error_output_that_is_closed_does_not_end_the_run():
    script = """
import sys
from cibench.cli._progress import progress
with progress(3, quiet=False, verbose=False) as shown:
    sys.stdin.readline()
    for number in range(3):
        shown.prepared(f"fit {number}", 1.0, "bad")
print("went on")
sys.stderr = None
"""
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    running.stderr.close()
    out, _ = running.communicate("\n", timeout=60)
    assert out == "went on\n"


# JSON.


def report_all(shown):
    shown.stage("fit+refer", 2)
    shown.event(Event("a · é", "fit", "", started=True))
    shown.event(Event("a · é", "fit", "epochs", 1, 20))
    shown.prepared("a · é", 0.5, "")
    shown.finished(cell(1, flags=("partial",), seconds=1.5, log="r/1"))


EXPECTED = [
    {"event": "stage", "stage": "fit+refer", "tasks": 2},
    {"event": "started", "title": "a · é", "stage": "fit"},
    {
        "event": "phase", "title": "a · é", "stage": "fit", "phase": "epochs",
        "done": 1, "total": 20,
    },
    {"event": "prepared", "title": "a · é", "seconds": 0.5, "reason": ""},
    {
        "event": "finished", "title": "cell 1", "cell": "id-1", "key": "k", "status": "ok",
        "reason": "", "accuracy": 0.942, "source": "computed", "seconds": 1.5,
        "flags": ["partial"], "log": "r/1",
    },
]  # fmt: skip


def parsed(text):
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        time = datetime.datetime.fromisoformat(event.pop("time"))
        assert time.utcoffset() == datetime.timedelta(0)
    return events


def test_json_is_appended_event_by_event_besides_the_display(capsys, tmp_path):
    log = tmp_path / "log.jsonl"
    for again in (1, 2):
        with progress(1, quiet=False, verbose=False, json_log=log) as shown:
            report_all(shown)
            assert (
                parsed(log.read_text()) == again * EXPECTED
            )  # already, not at the end
    assert lines_of(capsys) == 2 * ["[1/1] cell 1: 94.2 % under attack"]


def test_json_on_standard_error_takes_the_place_of_the_display(capsys):
    with progress(1, quiet=False, verbose=True, json_log=Path("-")) as shown:
        report_all(shown)
    assert parsed("\n".join(lines_of(capsys))) == EXPECTED


def test_json_is_written_when_quiet(capsys, tmp_path):
    with progress(1, quiet=True, verbose=False, json_log=tmp_path / "log") as shown:
        report_all(shown)
    assert lines_of(capsys) == []
    assert parsed((tmp_path / "log").read_text()) == EXPECTED


def test_json_takes_paths_that_are_no_text(tmp_path):
    with progress(1, quiet=True, verbose=False, json_log=tmp_path / "log") as shown:
        shown.prepared("a\udcff", 0.5, "")
    (event,) = parsed((tmp_path / "log").read_text())
    assert event["title"] == "a\udcff"


def test_a_json_file_that_cannot_be_opened_is_refused(tmp_path):
    with (
        pytest.raises(OutputError, match=r"--json-log .*expected a file.*No such") as e,
        progress(1, quiet=True, verbose=False, json_log=tmp_path / "no" / "log"),
    ):
        pass
    assert e.value.exit_code == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_json_and_not_the_run(capsys):
    with progress(1, quiet=True, verbose=False, json_log=Path("/dev/full")) as shown:
        report_all(shown)
    (line,) = lines_of(capsys)
    assert line == "warning: --json-log /dev/full ends here: No space left on device"


# What the bars show.


def drawn(board, width, height=24):
    text = io.StringIO()
    console = Console(file=text, width=width, height=height, force_terminal=False)
    console.print(drawing(board, width, height))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


LONG = "extrasensory:user=1 · missing:agents=7+pgd-paper · copur:tau=1000 · seed {}"


def busy(clock, cells=60, running=12, done=3):
    board = Board(cells, clock)
    board.stage("evaluate", cells)
    for number in range(done):
        clock.now += 10
        board.finished(cell(number))
    for number in range(running):
        board.event(Event(LONG.format(number), "evaluate", "", started=True))
        board.event(
            Event(LONG.format(number), "evaluate", "attack", 1, 4 * (number % 2))
        )
    clock.now += 5
    return board


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_board_fits_the_terminal(clock, width):
    lines = drawn(busy(clock), width)
    assert lines[0].startswith("cells ")
    assert "3/60 " in lines[0]
    assert " 5 %" in lines[0]
    assert "0:35" in lines[0]
    assert "9:25" in lines[0]
    assert lines[1] == "evaluations 3/60; 3 ok"
    rows = lines[2:10]
    assert [row.endswith(" 0:05") for row in rows] == [True] * 8
    assert [f"seed {number} " in row for number, row in enumerate(rows)] == [True] * 8
    assert all("attack" in row for row in rows)
    assert ("25 %" if width == 40 else "━━") in rows[1]
    assert ("25 %" if width == 40 else "━━") not in rows[0]
    assert lines[10:] == ["  and 4 more"]


@pytest.mark.parametrize("width", [1, 10, 20, 30])
def test_a_board_survives_any_width(clock, width):
    drawn(busy(clock, cells=1_000_000), width)


def test_a_board_fits_a_low_terminal(clock):
    assert len(drawn(busy(clock), 80, height=8)) <= 7


def test_percent_is_never_rounded_up(clock):
    board = Board(1000, clock)
    for number in range(999):
        board.finished(cell(number))
    assert " 99 %" in drawn(board, 80)[0]
    board.finished(cell(999))
    assert " 100 %" in drawn(board, 80)[0]


def test_a_run_without_cells_can_be_drawn(clock):
    assert "0/0" in drawn(Board(0, clock), 80)[0]


def test_stored_and_skipped_cells_are_told_apart_and_not_timed(clock):
    board = Board(10, clock)
    board.stage("evaluate", 7)
    clock.now = 10
    board.finished(cell(1, source="cache"))
    board.finished(cell(2, source="folder"))
    board.finished(cell(3, status="skipped", accuracy=None, reason="no 7"))
    board.finished(failed(4))
    assert board.left is None
    assert drawn(board, 80)[1] == "evaluations 1/7; 1 failed, 2 stored, 1 skipped"
    clock.now = 20
    board.finished(cell(5))
    assert board.left == 50


def test_preparation_counts_in_its_own_stage(clock):
    board = Board(10, clock)
    board.stage("fit+refer", 3)
    board.event(Event("fit", "fit", "epochs"))
    board.finished(cell(1, source="cache"))
    board.prepared("fit")
    assert drawn(board, 80)[1:] == ["fits and references 1/3; 1 stored"]


def test_a_belated_event_does_not_revive_a_task(clock):
    board = Board(10, clock)
    board.event(Event("cell 1", "evaluate", "attack"))
    board.finished(cell(1))
    board.event(Event("cell 1", "evaluate", "", started=True))
    board.event(Event("cell 1", "evaluate", "predict"))
    assert board.running == {}
    clock.now = 5
    board.event(Event("cell 1", "evaluate", "attack"))
    assert list(board.running) == ["cell 1"]


def test_a_task_that_is_tried_again_starts_anew(clock):
    board = Board(10, clock)
    board.event(Event("a", "fit", "epochs", 3, 4))
    clock.now = 60
    board.event(Event("a", "fit", "", started=True))
    assert (board.running["a"].since, board.running["a"].total) == (60, 0)


def test_a_board_does_not_grow_with_the_grid(clock):
    board = Board(100_000, clock)
    for number in range(10_000):
        clock.now = number / 100
        board.event(Event(f"cell {number}", "evaluate", "attack"))
        board.finished(cell(number))
    assert len(board._ended) < 200


@pytest.mark.parametrize(
    ("width", "text"),
    [(10, "abcdefghij"), (9, "abcd…ghij"), (4, "ab…j"), (1, "…"), (0, "")],
)
def test_text_is_shortened_in_the_middle(width, text):
    assert shortened("abcdefghij", width) == text


# On a real terminal.

SCRIPT = """
import sys
from cibench.cli._progress import progress
from cibench.execute.channel import Event
from cibench.execute.finished import Finished

def wait():
    assert sys.stdin.readline()

def cell(number, **fields):
    given = dict(
        cell="c", key="k", status="ok", reason="", accuracy=0.5, source="computed",
        seconds=0.0, flags=(), log="",
    )
    shown.finished(Finished(title=f"cell {number}", **given | fields))

with progress(60, quiet=False, verbose=False) as shown:
    shown.stage("embed", 10)
    for number in range(3):
        shown.prepared(f"e{number}", 1.0, "")
    wait()
    shown.stage("evaluate", 60)
    shown.event(Event("cell 7", "evaluate", "attack", 1, 2))
    for number in range(6):
        cell(number)
    wait()
    cell(6, status="failed", accuracy=None, reason="no \\x1b[2J [red] thing", log="r/6")
    print("a warning", file=sys.stderr)
    print("a table")
    wait()
shown.finished(None)
print("the last line", file=sys.stderr)
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bars_on_a_terminal(columns):
    with OnTerminal(SCRIPT, columns=columns) as terminal:
        terminal.until(lambda screen: "embeddings 3/10" in screen)
        terminal.step()
        screen = terminal.until(lambda screen: "evaluations 6/60; 6 ok" in screen)
        bar, _, *rows = screen
        assert bar.startswith("cells ━")
        assert "6/60" in bar
        assert "10 %" in bar
        assert "-:--" in bar or ":" in bar
        (row,) = rows
        assert row.split()[:3] == ["cell", "7", "attack"]
        terminal.step()
        line = "cell 6: failed: no \ufffd[2J [red] thing; log: r/6"
        screen = terminal.until(
            lambda screen: "evaluations 7/60; 1 failed, 6 ok" in screen
        )
        assert sorted(screen[:2]) == ["a warning", line]
        assert len(screen) == 5
        assert terminal.text.index("\x1b[31m") < terminal.text.index(line)
        terminal.step()
        assert sorted(terminal.end()[:2]) == ["a warning", line]
        assert terminal.screen[2:] == ["the last line"]
        assert terminal.text.rstrip().endswith("the last line")
        assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
        assert terminal.process.stdout.read() == "a table\n"


def plain_run(**environment):
    with OnTerminal(SCRIPT, **environment) as terminal:
        for _ in range(3):
            terminal.step()
        terminal.end()
        return terminal.text


def test_no_color_is_honoured():
    assert "\x1b[31m" in plain_run()
    text = plain_run(NO_COLOR="1")
    assert "\x1b[?25h" in text
    assert "\x1b[3" not in text
    assert "failed: no" in text


def test_a_dumb_terminal_gets_lines():
    text = plain_run(TERM="dumb")
    assert "\x1b" not in text
    assert "embeddings: 10 to do\r\n" in text
    assert "[7/60] cell 6: failed: no \ufffd[2J [red] thing; log: r/6\r\n" in text


def test_a_terminal_that_goes_away_does_not_end_the_run():
    script = SCRIPT.replace("file=sys.stderr", "file=sys.stdout")
    with OnTerminal(script) as terminal:
        terminal.until(lambda screen: "embeddings 3/10" in screen)
        terminal.hang_up()
        for _ in range(3):
            terminal.step()
        assert terminal.process.stdout.read().endswith("the last line\n")


# Imports.


def test_the_interface_is_light():
    script = "import sys, cibench.cli._progress; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()).isdisjoint({"torch", "rich", "numpy", "msgspec"})
