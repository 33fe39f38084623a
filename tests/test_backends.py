import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

import helpers_backends
from cibench._errors import EnvironmentFault, UsageError
from cibench.execute import _cluster, dask_backend, ray_backend
from cibench.execute._cluster import ClusterBackend, Lost
from cibench.execute._remote import Lacking
from cibench.execute.dask_backend import DaskBackend
from cibench.execute.describing import describe
from cibench.execute.keys import Keys
from cibench.execute.perform import Context, Work
from cibench.execute.ray_backend import RayBackend
from cibench.execute.settings import Settings
from cibench.execute.task import Answer, CellRef, Task
from cibench.grid import expand
from cibench.registry import default_registry
from helpers_backends import began, pretend, work

#: One worker runs them all: what they share takes long to make.
pytestmark = pytest.mark.xdist_group("backends")

distributed = pytest.importorskip("distributed")


def eventually(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pid_is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def cluster():
    """A cluster that was there before, as that of a site; its workers know no plugin."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=60,
        env={"DASK_LOGGING__DISTRIBUTED": "critical"},
    ) as cluster:
        yield cluster


@pytest.fixture
def pretending(monkeypatch):
    """Workers of Dask pretend."""
    monkeypatch.setattr(dask_backend, "do_here", pretend)


def dask_on(cluster, cache, on_event=print, **options):
    given = {"address": cluster.scheduler_address, **options}
    return DaskBackend(1, given, on_event, cache)


def grid(**parts):
    given = {"attacks": ["flip"], "defenses": ["none"], "seeds": [0], **parts}
    data = ["synthetic:agents=3,width=4,rank=2,samples=60"]
    return expand(default_registry(), datasets=data, **given)


class Fake(ClusterBackend):
    """Answers in the order of sending; a script says what comes back instead."""

    name = "fake"

    def __init__(self, script=(), threads=2):
        self.script, self.threads = dict(script), threads
        self.sent, self.cancelled, self.at_most = [], [], 0

    def _submit(self, sent, where):
        self.sent.append((sent, where))
        return len(self.sent) - 1

    def _collect(self, handles):
        self.at_most = max(self.at_most, len(handles))
        handle = min(handles)
        number = self.sent[handle][0].work.number
        planned = self.script.get(number, [])
        back = planned.pop(0) if planned else (number, Answer())
        return [(handle, back)]

    def _threads(self):
        return self.threads

    def close(self):
        pass

    def _cancel(self, handles):
        self.cancelled += handles


def works(count, folder=Path("cache")):
    return (work(i, "ok", folder=folder) for i in range(count))


def test_few_works_are_in_flight_and_each_is_answered():
    backend = Fake()
    assert sorted(n for n, _ in backend.run(works(50))) == list(range(50))
    assert backend.at_most == 4
    assert backend.cancelled == []


def test_a_work_is_taken_from_the_grid_only_when_there_is_room():
    backend, taken = Fake(threads=1), []

    def noted():
        for each in works(50):
            taken.append(each.number)
            yield each

    answers = backend.run(noted())
    next(answers)
    assert len(taken) == 3
    answers.close()
    assert backend.cancelled == [1, 2]


def test_a_lost_work_is_tried_again_and_last_of_all_alone():
    backend = Fake({1: [Lost("w"), Lost("w")]})
    assert {n: a.status for n, a in backend.run(works(9))} == dict.fromkeys(
        range(9), "ok"
    )
    order = [sent.work.number for sent, _ in backend.sent]
    assert order.count(1) == 3
    assert order[-1] == 1


def test_a_work_that_loses_every_worker_is_given_up_as_killed():
    backend = Fake({1: [Lost("w1"), Lost("w2"), Lost("w3")]})
    answers = dict(backend.run(works(3)))
    assert answers[1].status == "killed"
    assert answers[1].reason == "its worker died, 3 times: w3"
    assert answers[0].status == answers[2].status == "ok"


def test_what_a_worker_lacks_is_sent_to_it_and_only_that(tmp_path):
    lacks = Lacking(plugins=True, artifacts=("aa/b",), worker="tcp://w")
    given = work(0, "ok", folder=tmp_path, bundles=(("p 1", b"zip"),), carry=True)
    given = replace(given, artifacts={"aa/a": b"A", "aa/b": b"B"})
    backend = Fake({0: [lacks]})
    assert [a.status for _, a in backend.run([given])] == ["ok"]
    (first, anywhere), (second, there) = backend.sent
    assert (anywhere, there) == ("", "tcp://w")
    assert first.artifacts == second.artifacts == ("aa/a", "aa/b")
    assert first.work.artifacts == {}
    assert first.work.context.bundles == (("p 1", b""),)
    assert second.work.artifacts == {"aa/b": b"B"}
    assert second.work.context.bundles == given.context.bundles


def test_another_error_of_a_worker_fails_its_work_alone():
    answers = dict(Fake({0: [RuntimeError("bug")]}).run(works(2)))
    assert (answers[0].status, answers[0].reason) == ("failed", "RuntimeError: bug")
    assert answers[1].status == "ok"


def test_a_fault_of_a_worker_ends_the_run():
    with pytest.raises(EnvironmentFault, match="no cibench"):
        list(Fake({0: [EnvironmentFault("no cibench")]}).run(works(2)))


def test_a_cluster_that_loses_all_workers_is_waited_for_and_then_given_up(monkeypatch):
    monkeypatch.setattr(_cluster, "LOOK", 0.0)
    monkeypatch.setattr(_cluster, "PATIENCE", 0.0)
    backend = Fake()
    backend.wait = 0.0
    answers = backend.run(works(50))
    next(answers)
    backend.threads = 0
    with pytest.raises(EnvironmentFault, match=r"no worker .* resume"):
        list(answers)
    assert backend.cancelled != []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"adress": "x"}, r"adress.*expected one of address.*did you mean 'address'"),
        ({"store": "cloud"}, "store: expected one of auto, shared, scheduler"),
        ({"wait": "soon"}, "wait: expected"),
    ],
)
@pytest.mark.parametrize("backend", [DaskBackend, RayBackend])
def test_wrong_options(backend, options, match, tmp_path):
    with pytest.raises(UsageError, match=match):
        backend(1, options, print, tmp_path)


def test_address_and_file_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="got both"):
        DaskBackend(1, {"address": "x", "scheduler_file": "y"}, print, tmp_path)


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [(DaskBackend, "distributed", "dask"), (RayBackend, "ray", "ray")],
)
def test_a_package_that_is_not_installed(
    backend, package, extra, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentFault, match=rf"{package}.*cibench\[{extra}\]"):
        backend(1, {}, print, tmp_path)


def test_a_scheduler_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(dask_backend, "CONNECT", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match=f"{address}.*check the address"):
            DaskBackend(1, {"address": address}, print, tmp_path)


def test_a_scheduler_that_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(dask_backend, "CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(EnvironmentFault, match="expected it to answer within"):
            DaskBackend(1, {"address": address}, print, tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_a_scheduler_file_that_is_none(content, tmp_path):
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_text(content)
    options = {"scheduler_file": str(path), "wait": "0.1s"}
    with pytest.raises(EnvironmentFault, match=r"scheduler\.json: expected"):
        DaskBackend(1, options, print, tmp_path)


def test_a_scheduler_without_workers(tmp_path):
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=60
        ) as empty,
        pytest.raises(EnvironmentFault, match=r"expected workers within .* got none"),
    ):
        dask_on(empty, tmp_path, wait="0.2s")


def test_workers_with_other_sources(cluster, monkeypatch, tmp_path):
    ours = replace(dask_backend.about(), cibench="another")
    monkeypatch.setattr(dask_backend, "about", _about := lambda: ours)
    monkeypatch.setattr(
        distributed.Client, "run", lambda *_, **__: {"tcp://w": _real_about()}
    )
    with pytest.raises(EnvironmentFault, match="expected cibench another as here"):
        dask_on(cluster, tmp_path)


_real_about = dask_backend.about


def test_phases_and_answers_arrive(cluster, pretending, tmp_path):
    events = []
    with dask_on(cluster, tmp_path, events.append) as backend:
        assert backend.shares_cache
        assert backend.bundles()
        assert backend.workers == 2
        given = [
            work(i, f"task {i}", folder=tmp_path, channel=backend.channel)
            for i in range(20)
        ]
        answers = dict(backend.run(given))
        eventually(lambda: len({event.title for event in events}) == 20)
    assert sorted(answers) == list(range(20))
    assert len({answer.reason.split()[0] for answer in answers.values()}) == 2
    assert os.getpid() not in {int(a.reason.split()[0]) for a in answers.values()}
    assert list(tmp_path.glob(".seen*")) == []


def test_a_killed_worker_costs_a_retry_and_a_killer_is_given_up(
    cluster, pretending, tmp_path
):
    with dask_on(cluster, tmp_path) as backend:
        titles = ["ok", "die once", *["ok"] * 6]
        given = [work(i, t, folder=tmp_path) for i, t in enumerate(titles)]
        answers = dict(backend.run(given))
        assert {a.status for a in answers.values()} == {"ok"}
        assert len(answers) == 8
        assert began(tmp_path, 1) == 2


def test_a_local_cluster_gives_up_a_killer_and_no_other(pretending, tmp_path, capfd):
    with DaskBackend(1, {}, print, tmp_path) as backend:
        assert backend.workers == 1
        titles = ["ok", "die", "ok", "raise"]
        given = [work(i, t, folder=tmp_path) for i, t in enumerate(titles)]
        answers = dict(backend.run(given))
        assert {n: a.status for n, a in answers.items()} == {
            0: "ok", 1: "killed", 2: "ok", 3: "failed",
        }  # fmt: skip
        assert "its worker died, 3 times" in answers[1].reason
        assert answers[3].reason == "RuntimeError: a bug of the harness"
        assert began(tmp_path, 1) == 3
    assert capfd.readouterr() == ("", "")


def test_a_worker_without_cibench_is_named(cluster, pretending, tmp_path):
    with (
        dask_on(cluster, tmp_path) as backend,
        pytest.raises(EnvironmentFault, match="same version as here, got ImportError"),
    ):
        list(backend.run([work(0, "lack", folder=tmp_path)]))


def test_leaving_a_run_cancels_what_waits(cluster, pretending, tmp_path):
    def all_began():
        return sum(began(tmp_path, i) for i in range(1, 9))

    with (
        distributed.Client(cluster, set_as_default=False) as client,
        dask_on(cluster, tmp_path) as backend,
    ):
        given = [work(0, "ok", folder=tmp_path)]
        given += [work(i, "wait", folder=tmp_path) for i in range(1, 9)]
        answers = backend.run(given)
        try:
            assert next(answers)[0] == 0
            eventually(lambda: all_began() == 2)
            answers.close()
            # Only what runs is left on the workers.
            eventually(lambda: max(client.run(helpers_backends.kept).values()) == 1)
        finally:
            (tmp_path / "go").touch()
        eventually(lambda: not any(client.run(helpers_backends.kept).values()))
    assert all_began() == 2


@pytest.fixture
def own_scheduler(tmp_path):
    """A scheduler and a worker in processes of their own, and the scheduler's pid."""
    file = tmp_path / "scheduler.json"
    quiet = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"}
    quiet["PYTHONPATH"] = str(Path(helpers_backends.__file__).parent)
    run = [sys.executable, "-m", "distributed.cli"]
    commands = [
        ["dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"],
        ["dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"],
    ]
    started = []
    for name, *options in commands:
        command = [
            *run[:2],
            f"{run[2]}.{name}",
            *options,
            "--scheduler-file",
            str(file),
        ]
        started.append(subprocess.Popen(command, env=quiet, stderr=subprocess.DEVNULL))
        eventually(file.exists)
    yield file, started[0]
    for process in started:
        process.kill()
        process.wait()


def test_a_scheduler_that_is_lost_during_the_run(own_scheduler, pretending, tmp_path):
    file, process = own_scheduler
    backend = DaskBackend(1, {"scheduler_file": str(file)}, print, tmp_path)
    with backend:
        answers = backend.run(
            [work(0, "ok", folder=tmp_path), work(1, "wait", folder=tmp_path)]
        )
        assert next(answers)[0] == 0
        process.send_signal(signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match="finished cells are kept"):
            list(answers)
    (tmp_path / "go").touch()


def real_works(cells, facts, *, kind, context, settings, keys=None):
    for number, cell in enumerate(cells):
        made = getattr(keys.of(cell, facts), kind) if keys and kind != "cell" else ""
        yield Work(
            number=number,
            context=context,
            task=Task(
                kind={"embedding": "embed", "cell": "evaluate"}.get(kind, kind),
                cell=CellRef.of(cell),
                settings=settings,
                title=cell.title,
                fingerprint=facts.fingerprint if facts else "",
                makes=(f"{made[:2]}/{made}.safetensors",) if made else (),
            ),
        )


def test_real_tasks_with_artifacts_through_the_scheduler(cluster, tmp_path):
    cells = grid(defenses=["none", "copur:width=2"])
    settings = Settings(cache=tmp_path / "cache")
    keys = Keys(settings, str(torch.__version__))
    with dask_on(cluster, tmp_path / "cache", store="scheduler") as backend:
        assert not backend.shares_cache
        context = Context(run="carried", carry=True, channel=backend.channel)
        common = {"context": context, "settings": settings}
        described = describe(
            cells, backend=backend, torch_version=str(torch.__version__), **common
        )
        (facts,) = described.facts.values()
        brought = {}
        for kind in ("embedding", "fit"):
            given = real_works(cells, facts, kind=kind, keys=keys, **common)
            given = [replace(each, artifacts=dict(brought)) for each in given]
            for _, answer in backend.run(given):
                assert answer.status == "ok", answer
                brought |= answer.artifacts
        of = [keys.of(cell, facts) for cell in cells]
        wanted = {key for each in of for key in (each.embedding, each.fit)}
        found = {name.partition("/")[2].partition(".")[0] for name in brought}
        assert wanted <= found
        assert len(found - wanted) >= 1  # the manifold of the second defense
        kept = sorted(brought)
        given = [
            replace(each, artifacts=dict(brought))
            for each in real_works(cells, facts, kind="cell", **common)
        ]
        answers = dict(backend.run(given))
        assert [answers[n].status for n in (0, 1)] == ["ok", "ok"]
        assert kept == sorted(brought)
    carried = msgspec.json.decode(answers[1].record)["metrics"]
    assert not list((tmp_path / "cache").glob("artifacts"))

    with dask_on(cluster, tmp_path / "cache") as backend:
        assert backend.shares_cache
        common["context"] = Context(run="shared", channel=backend.channel)
        answers = dict(backend.run(real_works(cells, facts, kind="cell", **common)))
    assert msgspec.json.decode(answers[1].record)["metrics"] == carried
    assert list((tmp_path / "cache").glob("artifacts/*/*.safetensors"))
    eventually(lambda: not _zygotes(cluster))


def test_other_code_on_a_worker_is_a_fault(cluster, tmp_path):
    with dask_on(cluster, tmp_path) as backend:
        (given,) = real_works(
            grid(), None, kind="cell",
            context=Context(run="versions"), settings=Settings(cache=tmp_path),
        )  # fmt: skip
        task = msgspec.structs.replace(given.task, harness="other")
        ((_, answer),) = backend.run([replace(given, task=task)])
        assert answer.fault == "EnvironmentFault"
        assert "another cibench" in answer.reason
        pids = _zygotes(cluster)
        assert pids
        worker = next(p for p in _workers(cluster) if _below(p) & pids)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not any(map(pid_is_alive, pids)))


def _workers(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        return set(client.run(os.getpid).values())


def _below(pid):
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | _below(child)
    return found


def _zygotes(cluster):
    return {pid for worker in _workers(cluster) for pid in _below(worker)}


def test_ray_does_works(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    here = str(Path(helpers_backends.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here, prepend=os.pathsep)
    monkeypatch.setattr(ray_backend, "do", pretend)
    with RayBackend(1, {}, print, tmp_path) as backend:
        assert backend.shares_cache
        titles = ["ok", "die once", "ok", "raise", "ok"]
        given = [work(i, t, folder=tmp_path) for i, t in enumerate(titles)]
        answers = dict(backend.run(given))
    found = [answers[i].status for i in range(5)]
    assert found == ["ok", "ok", "ok", "failed", "ok"], answers
