import io
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from cibench._errors import EnvironmentFault, PluginError, UsageError
from cibench._sources import source_hash
from cibench.execute import _scratch, plugin_file, ship
from cibench.execute._scratch import release, scratch
from cibench.execute.describing import describe
from cibench.execute.perform import Context, Work
from cibench.execute.settings import Settings
from cibench.execute.task import CellRef, Task
from cibench.grid import expand
from cibench.registry import Registry, default_registry

DEFENSE = '''
"""A defense that does nothing."""

from dataclasses import dataclass

from cibench import AbstractDefense, hookimpl


@dataclass(frozen=True, kw_only=True)
class Idle(AbstractDefense):
    """Do nothing."""

    name = "NAME"
    citation = "none"

    def fit(self, training, *, generator):
        return training.undefended


@hookimpl
def cibench_defenses():
    return [Idle]
'''


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """What a test adds is forgotten after it, and lies in its own folder."""
    monkeypatch.setattr(plugin_file, "_made", {})
    monkeypatch.setattr(plugin_file, "_folder", [])
    monkeypatch.setattr(_scratch, "_held", {})
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(_scratch.tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    yield
    for name in list(_scratch._held):
        release(name)
    for name in [n for n in sys.modules if re.match("idle_plugins|cibench_file_", n)]:
        del sys.modules[name]
    default_registry.cache_clear()
    source_hash.cache_clear()
    sys.path_importer_cache.clear()


def write(path, name="idle", text=DEFENSE):
    path.write_text(text.replace("NAME", name), encoding="utf-8")
    return path


def editable(folder, name="idle-plugins"):
    """A distribution as `pip install -e` leaves it: metadata here, source elsewhere."""
    source = folder / "source"
    package = source / "idle_plugins"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    write(package / "idle.py", "editable-idle")
    (package / "helper.py").write_text("VALUE = 1\n")
    (package / "data" / "table.csv").write_text("1,2\n")
    (package / ".hidden").write_text("secret")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"x")
    site = folder / "site"
    info = site / "idle_plugins-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n"
    )
    (info / "entry_points.txt").write_text(
        "[cibench]\ndefenses.editable-idle = idle_plugins.idle\n"
    )
    (info / "direct_url.json").write_text(
        json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}})
    )
    sys.path[:0] = [str(site), str(source)]
    default_registry().__dict__.pop("entries", None)
    return package


def cells(defense):
    return expand(
        default_registry(),
        datasets=["synthetic:agents=3,width=4,rank=2,samples=60"],
        attacks=["flip"],
        defenses=[defense],
        seeds=[0],
    )


def contents(bundle):
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_file_becomes_a_distribution(tmp_path):
    default_registry().entries  # noqa: B018
    name = plugin_file.add_file(write(tmp_path / "my idle.py", "filed"))
    assert name == "cibench-file-my-idle"
    entry = default_registry().entry("defense", "filed")
    assert (entry.distribution, entry.version[:2]) == (name, "0+")
    assert entry.module == f"cibench_file_my_idle_{entry.version[2:]}"
    assert entry.summary == "A defense that does nothing."
    assert default_registry().load("defense", "filed").name == "filed"
    assert plugin_file.add_file(tmp_path / "my idle.py") == name
    seen = subprocess.run(
        [sys.executable, "-c", f"import {entry.module} as m; print(m.Idle.name)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout == "filed\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("def f(:\n", "syntax error in line 1"),
        ("import not_there\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("x = 1\n", "implements cibench_defenses"),
        (DEFENSE.replace("[Idle]", "3"), "TypeError"),
        (DEFENSE.replace("[Idle]", "[Idle, Idle]"), "twice"),
        (DEFENSE.replace("cibench_defenses", "cibench_defences"), "cibench_defences"),
        (DEFENSE.replace("NAME", "copur"), "defense copur, which cibench"),
    ],
)
def test_files_that_are_no_plugin(text, match, tmp_path):
    path = write(tmp_path / "bad.py", text=text)
    with pytest.raises(PluginError, match=match) as caught:
        plugin_file.add_file(path)
    assert str(path) in str(caught.value)
    assert not any(e.distribution == "cibench-file-bad" for e in Registry().entries)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="expected a Python file, got No such file"):
        plugin_file.add_file(tmp_path / "none.py")


def test_two_files_of_one_name(tmp_path):
    (tmp_path / "other").mkdir()
    plugin_file.add_file(write(tmp_path / "a.py", "first"))
    with pytest.raises(PluginError, match="two; rename one"):
        plugin_file.add_file(write(tmp_path / "other" / "a.py", "second"))
    with pytest.raises(PluginError, match="cibench-file-a 0"):
        plugin_file.add_file(write(tmp_path / "b.py", "first"))


def test_installed_plugins_are_not_sent():
    (cell,) = cells("none")
    assert ship.bundles(cell.plugins) == ()


def test_an_editable_distribution_is_packed_whole_and_always_the_same(tmp_path):
    package = editable(tmp_path)
    (cell,) = cells("editable-idle")
    ((name, content),) = ship.bundles(cell.plugins)
    assert name == "idle-plugins 0.3"
    assert sorted(contents(content)) == [
        "idle_plugins-0.3.dist-info/METADATA",
        "idle_plugins-0.3.dist-info/entry_points.txt",
        "idle_plugins/__init__.py",
        "idle_plugins/data/table.csv",
        "idle_plugins/helper.py",
        "idle_plugins/idle.py",
    ]
    (package / "helper.py").touch()
    assert ship.bundles(cell.plugins) == ((name, content),)


def test_a_large_distribution_is_refused(tmp_path, monkeypatch):
    package = editable(tmp_path)
    (cell,) = cells("editable-idle")
    monkeypatch.setattr(ship, "LIMIT", 10_000)
    (package / "data" / "big.bin").write_bytes(bytes(20_000))
    with pytest.raises(PluginError, match=r"idle-plugins 0\.3: .* MB .*big\.bin"):
        ship.bundles(cell.plugins)


SEEN = """
import sys
from cibench._sources import source_hash
from cibench.registry import Registry
entry = Registry().entry("defense", sys.argv[1])
print(entry.distribution, entry.version, entry.module, source_hash(entry.module))
"""


@pytest.mark.parametrize("kind", ["file", "editable"])
def test_an_unpacked_plugin_is_the_same_plugin(kind, tmp_path):
    if kind == "file":
        plugin_file.add_file(write(tmp_path / "idle.py", "editable-idle"))
    else:
        editable(tmp_path)
    (cell,) = cells("editable-idle")
    path = ship.unpack(ship.bundles(cell.plugins), "run")
    bare = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", SEEN, "editable-idle"],
        env={**bare, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    component, entry = cell.defense.component, cell.defense.entry
    expected = [entry.distribution, entry.version, entry.module, component.source]
    assert found.stdout.split() == expected


def zipped(**files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return target.getvalue()


def test_unpacking_is_done_once():
    assert not ship.is_unpacked("run")
    path = Path(ship.unpack((("a 1", zipped(a__py="1")),), "run"))
    assert ship.is_unpacked("run")
    assert (path / "a.py").read_text() == "1"
    (path / "a.py").write_text("2")
    assert Path(ship.unpack((("a 1", b""),), "run")) == path
    assert (path / "a.py").read_text() == "2"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py"])
def test_a_bundle_cannot_write_elsewhere(name, tmp_path):
    with pytest.raises(EnvironmentFault, match=r"below one folder, got .*evil"):
        ship.unpack((("bad 1", zipped(**{name: "x"})),), "run")
    assert not list(tmp_path.rglob("evil.py"))
    assert not ship.is_unpacked("run")


def test_a_damaged_bundle():
    with pytest.raises(EnvironmentFault, match="bad 1: expected what was packed"):
        ship.unpack((("bad 1", b"nothing"),), "run")


AT_ONCE = """
import sys
sys.path[:] = {path!r}
from cibench.execute import ship
import zipfile, io
for i in range(20):
    found = ship.unpack((("a 1", open({zip!r}, "rb").read()),), f"run{{i}}")
    assert sorted(p.name for p in __import__("pathlib").Path(found).iterdir()) == [
        "a.py", "b.py"
    ], found
print("ready", flush=True)
sys.stdin.readline()
"""


def test_many_processes_unpack_at_once_and_the_last_removes_it(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(a__py="1", b__py="2"))
    script = AT_ONCE.format(path=sys.path, zip=str(archive))
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
    (base,) = (tmp_path / "tmp").iterdir()
    started[0].communicate("\n")
    assert len(list(base.glob("run*.lock"))) == 20
    started[1].kill()
    started[1].communicate()
    started[2].communicate("\n")
    assert list(base.iterdir()) == []


def test_what_killed_processes_left_is_removed_by_the_next(tmp_path):
    code = (
        f"import os, sys; sys.path[:] = {sys.path!r}\n"
        "from cibench.execute._scratch import scratch\n"
        "(scratch('old') / 'file').touch()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    (base,) = (tmp_path / "tmp").iterdir()
    assert (base / "old" / "file").exists()
    new = scratch("new")
    assert sorted(path.name for path in new.parent.iterdir()) == ["new", "new.lock"]
    release("new")
    assert list(base.iterdir()) == []


def test_another_users_folder_is_refused(tmp_path):
    base = tmp_path / "tmp" / f"cibench-{os.getuid()}"
    base.mkdir(mode=0o777)
    base.chmod(0o777)
    with pytest.raises(EnvironmentFault, match="this user alone"):
        scratch("run")


@pytest.fixture(scope="module")
def cluster():
    """Workers that were started before the plugins were there."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=60,
        env={"DASK_LOGGING__DISTRIBUTED": "critical"},
    ) as cluster:
        yield cluster


def test_plugins_reach_workers_that_do_not_have_them(cluster, tmp_path):
    from cibench.execute.dask_backend import DaskBackend

    editable(tmp_path)
    plugin_file.add_file(write(tmp_path / "idle.py", "filed"))
    both = [cell for name in ("editable-idle", "filed") for cell in cells(name)]
    settings = Settings(cache=tmp_path / "cache")
    options = {"address": cluster.scheduler_address}
    with DaskBackend(1, options, print, tmp_path / "cache") as backend:
        context = Context(run="shipped", channel=backend.channel)
        bare = works(both, context, settings)
        assert {answer.fault for _, answer in backend.run(bare)} == {"EnvironmentFault"}

        plugins = [plugin for cell in both for plugin in cell.plugins]
        context = replace(context, run="shipped2", bundles=ship.bundles(plugins))
        assert len(context.bundles) == 2
        described = describe(
            both, backend=backend, context=context, settings=settings,
            torch_version=str(torch.__version__),
        )  # fmt: skip
        assert len(described.facts) == 1
        answers = dict(backend.run(works(both, context, settings)))
    assert [answers[n].status for n in (0, 1)] == ["ok", "ok"]
    for number, cell in enumerate(both):
        record = msgspec.json.decode(answers[number].record)
        component = msgspec.to_builtins(cell.defense.component)
        assert record["defense"] == component


def works(cells, context, settings):
    return [
        Work(
            number=number,
            context=context,
            task=Task(
                kind="evaluate", cell=CellRef.of(cell), settings=settings, title="x"
            ),
        )
        for number, cell in enumerate(cells)
    ]
