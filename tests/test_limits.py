import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cibench import CibenchError
from cibench._errors import UsageError
from cibench.execute import _system, limits
from cibench.execute.limits import (
    Limits,
    default_memory,
    format_duration,
    format_size,
    machine_memory,
    parse_duration,
    parse_size,
    readable_size,
)

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}


@given(st.integers(1, 10 * 365 * 86_400_000))
def test_a_duration_survives_writing_and_reading(milliseconds):
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(1, 2**50))
def test_a_size_survives_writing_and_reading(size):
    assert parse_size(format_size(size)) == size


@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from(list(UNITS))), min_size=1)
)
def test_parts_of_a_duration_add_up(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    expected = sum(number * UNITS[unit] for number, unit in parts)
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20m", 1200),
        ("90", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 2S ", 2),
        ("0.25", 0.25),
        ("250ms", 0.25),
        ("2d", 172800),
        ("none", None),
        ("None", None),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 * 2**30),
        ("512M", 512 * 2**20),
        ("512m", 512 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("1kb", 1024),
        ("2T", 2**41),
        ("77", 77),
        ("77 B", 77),
        ("none", None),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


NO_DURATIONS = {
    "0",
    "0s",
    "-1",
    "1x",
    "h",
    "10:30",
    "nan",
    "inf",
    "1e3",
    "0.0001",
    "ms",
}


@pytest.mark.parametrize(
    "text", ["", "1h 30m", "9" * 40, "1..5s", "\u0661m", *sorted(NO_DURATIONS)]
)
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="expected a duration") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-4G", "4X", "G", "4Gi B", "0.5", "1e9", "inf", "4 G G", "4\u212a"],
)
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="expected a size") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


def test_a_duration_of_a_float_is_rounded_to_the_millisecond():
    assert format_duration(0.1 + 0.2) == "300ms"
    assert format_duration(0) == "0s"
    assert format_duration(3661.5) == "1h1m1s500ms"


def test_readable_sizes():
    sizes = (3, 2**10, 2**20 * 1.26, 2**30, 2**40)
    assert [readable_size(int(size)) for size in sizes] == [
        "3 bytes", "1.0 KiB", "1.3 MiB", "1.0 GiB", "1.0 TiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"timeout": 0}, "timeout of more than 0 seconds, got 0"),
        ({"timeout": float("nan")}, "timeout of more than 0 seconds, got nan"),
        ({"memory": 0}, "at least 1 byte, got 0"),
        ({"grace": -1}, "grace of 0 seconds or more, got -1"),
    ],
)
def test_limits_are_checked(values, words):
    with pytest.raises(CibenchError, match=words):
        Limits(**values)


def test_no_limits_by_default():
    assert (Limits().timeout, Limits().memory) == (None, None)


def test_the_memory_of_the_machine():
    assert 0 < machine_memory() <= psutil.virtual_memory().total
    assert default_memory() == machine_memory() * 9 // 10


def grouped(root, line, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"5:cpu:/other\n{line}\n")
    for path, content in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"a/b/memory.max": "max\n", "a/memory.max": "700\n"}, [700]),
        ("0::/a/b", {"a/memory.max": "700\n", "memory.max": "900\n"}, [700, 900]),
        ("0::/not/seen/here", {"memory.max": "900\n"}, [900]),
        ("0::/../..", {"memory.max": "900\n"}, [900]),
        ("4:memory,x:/a", {"memory/a/memory.limit_in_bytes": "800\n"}, [800]),
        ("4:cpuset:/a", {"memory/a/memory.limit_in_bytes": "800\n"}, []),
    ],
)
def test_limits_of_control_groups(tmp_path, line, files, expected):
    assert _system.cgroup_limits(grouped(tmp_path, line, files)) == expected


def test_the_least_limit_counts(monkeypatch):
    monkeypatch.setattr(limits, "cgroup_limits", lambda: [5 * 2**20, 2**70, 0])
    assert machine_memory() == 5 * 2**20


def test_kills_for_want_of_memory_are_counted(tmp_path):
    events = {"a/memory.events": "low 0\noom 7\noom_kill 2\noom_group_kill 5\n"}
    root = grouped(tmp_path, "0::/a", events)
    assert _system.oom_kills(root) == 2
    (root / "proc/vmstat").write_text("oom_kill 40\npgfault 9")
    assert _system.oom_kills(root) == 42


def test_nothing_is_known_without_a_proc_folder(tmp_path):
    assert _system.oom_kills(tmp_path) == 0
    assert _system.cgroup_limits(tmp_path) == []
