"""Disks that fill, schedulers that are gone, workers that are not what they should be."""

import contextlib
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from cibench import cli
from cibench.execute import shelf
from cibench.results import folder
from helpers_grid import DATA, RECIPE, Place, until

GRID = ["-d", "none", "-d", "norm-clip", "-a", "flip", "-a", "gaussian"]
CELLS = 8


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that this process works in, with a cache of its own."""
    monkeypatch.setenv("CIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture
def run(capsys):
    """`cibench run` of the grid in this process: code, output and error."""

    def call(*words, out="out"):
        given = ["--dataset", DATA, "--embedding", RECIPE, "--seeds", "2", "-o", out]
        code = cli.invoke(["run", *GRID, *given, "--isolation", "none", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_what_is_finished_and_says_how_to_go_on(
    place, run, monkeypatch, capsys
):
    write, left = folder.write_atomically, [3]

    def until_full(path, content):
        if path.parent.name == "cells":
            left[0] -= 1
            if left[0] < 0:
                with monkeypatch.context() as full:
                    full.setattr(folder.tempfile, "mkstemp", no_space)
                    write(path, content)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_atomically", until_full)
        code, out, error = run()
    assert code == 3
    assert out == ""
    last = error.splitlines()[-1]
    assert "No space left on device" in last
    assert f"3 of {CELLS} cells are finished and kept; go on with: " in last
    kept = place.numbers()
    assert len(kept) == 3
    words = shlex.split(last.split("go on with: ")[1])
    assert cli.invoke([*words[1:], "--isolation", "none"]) == 0
    assert "3 of them already known" in capsys.readouterr().err
    assert kept.items() <= place.numbers().items()
    assert len(place.numbers()) == CELLS


def test_a_full_disk_under_the_cache_costs_time_and_nothing_else(
    place, run, monkeypatch
):
    assert run("-q")[0] == 0
    expected = place.numbers()
    monkeypatch.setenv("CIBENCH_CACHE", str(place.folder / "full"))
    with monkeypatch.context() as patched:
        patched.setattr(shelf, "write_atomically", no_space)
        with pytest.warns(UserWarning, match="expected to store .*No space left"):
            code, _, error = run(out="again")
    assert code == 0, error
    assert place.numbers("again") == expected


def test_a_cache_that_cannot_be_written_is_refused_with_the_remedy(
    place, run, monkeypatch
):
    def read_only(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(shelf, "make_writable", read_only)
        code, out, error = run()
    assert code == 3
    assert out == ""
    last = error.splitlines()[-1]
    for text in (str(place.cache), "Read-only", "CIBENCH_CACHE", "--no-cache"):
        assert text in last
    assert not place.records()
    assert run("--no-cache")[0] == 0


def test_a_cache_that_is_no_folder_is_refused_by_the_command(tmp_path):
    place = Place(tmp_path)
    place.cache.write_text("")
    _, error = place.run(*GRID, "-q", code=3)
    assert "--no-cache" in error.splitlines()[-1]
    assert place.emptied()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_artifact_is_set_aside_and_computed_again(place, run, damage):
    assert run("-q")[0] == 0
    expected = place.numbers()
    artifacts = sorted((place.cache / "artifacts").rglob("*.safetensors"))
    for path in artifacts:
        content = bytearray(path.read_bytes())
        if damage == "changed":
            content[-1] ^= 1
        path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage)])
    with pytest.warns(UserWarning, match="is damaged; it was set aside"):
        code, _, error = run("--rerun", "all", out="again")
    assert code == 0, error
    assert place.numbers("again") == expected
    aside = {path.with_suffix("") for path in place.cache.rglob("*.damaged")}
    assert aside == {path.with_suffix("") for path in artifacts}


@pytest.mark.parametrize("content", [b"", b"{", b'{"cell": 1}', b"\xff\x00"])
def test_a_damaged_record_is_computed_again(place, run, content):
    assert run("-q")[0] == 0
    expected = place.numbers()
    name = min(expected)
    path = place.folder / "out" / "cells" / f"{name}.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"record {path.name} is damaged"):
        code, _, error = run("--no-cache")
    assert code == 0, error
    assert f"{CELLS - 1} of them already known" in error
    assert place.numbers() == expected


def test_two_processes_may_fill_one_folder(tmp_path):
    place = Place(tmp_path)
    given = ["--dataset", DATA, "--embedding", RECIPE, "--seeds", "3", "-o", "out"]
    grid = ["-d", "faulty:deed=dawdles", "-P", "faulty.number=1,2,3", "-a", "flip"]
    both = [place.start("run", *grid, *given, "-q") for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error.decode()
    found = place.numbers()
    assert len(found) == len(place.records()) == 3 * 3
    alone = Place(tmp_path / "alone")
    alone.folder.mkdir()
    alone.call("run", *grid, *given, "-q")
    assert found == alone.numbers()
    assert place.emptied()


# Clusters.


def unused_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def cluster(place, **more):
    """A scheduler and a worker of their own processes, the worker's surroundings given."""
    file = place.folder / "scheduler.json"
    words = [sys.executable, "-P", "-m", "distributed.cli"]
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}
    scheduler = ["dask_scheduler", "--scheduler-file", file, "--no-dashboard"]
    scheduler += ["--host", "127.0.0.1", "--port", "0"]
    worker = ["dask_worker", "--scheduler-file", file, "--nthreads", "1"]
    worker += ["--no-dashboard", "--no-nanny"]
    begun = []
    try:
        for command, variables in ((scheduler, {}), (worker, more)):
            begun.append(
                subprocess.Popen(
                    [*words[:-1], f"{words[-1]}.{command[0]}", *command[1:]],
                    cwd=place.folder,
                    env=place.environment(**quiet, **variables),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            assert until(file.exists)
        yield ["--backend", "dask", "--backend-opt", f"scheduler_file={file}"]
    finally:
        # The worker first: one that has lost its scheduler looks for it for a while.
        for process in reversed(begun):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_scheduler_that_cannot_be_reached(tmp_path):
    pytest.importorskip("distributed")
    place = Place(tmp_path)
    address = f"tcp://127.0.0.1:{unused_port()}"
    words = ["--backend", "dask", "--backend-opt", f"address={address}"]
    _, error = place.run(*GRID, *words, code=3)
    last = error.splitlines()[-1]
    assert address in last
    assert "check the address" in last
    assert not (place.folder / "out").exists()
    assert place.emptied()


def test_a_worker_with_another_version_is_refused(tmp_path):
    pytest.importorskip("distributed")
    place = Place(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text(
        "import cibench._sources\n"
        "cibench._sources.package_hash = lambda: '0123456789abcdef'\n"
    )
    path = os.pathsep.join([str(tmp_path / "other"), place.environment()["PYTHONPATH"]])
    with cluster(place, PYTHONPATH=path) as words:
        _, error = place.run(*GRID, *words, code=3)
    last = error.splitlines()[-1]
    assert "0123456789abcdef" in last
    assert "install the same version of cibench" in last
    assert not place.records()
    assert place.emptied()


def test_a_plugin_that_a_worker_lacks_is_named(tmp_path):
    pytest.importorskip("distributed")
    place = Place(tmp_path)
    with cluster(place, PYTHONPATH=os.environ.get("PYTHONPATH", "")) as words:
        _, error = place.run("-d", "faulty", "-a", "flip", *words, code=3)
        last = error.splitlines()[-1]
        assert "faulty" in last
        assert "install it on every worker" in last
        place.run("-d", "none", "-a", "flip", *words, "-q")
    assert len(place.numbers()) == 1
    assert place.emptied()
