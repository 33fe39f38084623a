"""Events of other processes reach a listener; nothing ever waits for one."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from cibench.execute import channel
from cibench.execute.channel import (
    DaskListener,
    Event,
    Listener,
    Throttle,
    decode_event,
    encode_event,
    sender,
)

ELSEWHERE = """
import os, signal, sys
from cibench.execute.channel import Event, sender
send = sender(sys.argv[1])
for phase in sys.argv[2:]:
    send(Event("a", "evaluate", phase))
os.kill(os.getpid(), signal.SIGKILL)
"""


def eventually(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def event(phase="attack", title="a", **fields):
    return Event(title, "evaluate", phase, **fields)


def elsewhere(address, *phases):
    """Send from a process that is killed at once."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, address, *phases])
    assert done.returncode == -9


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


# The listener.


def test_events_of_a_killed_process_arrive_and_the_listener_goes_on():
    got = []
    with Listener(got.append) as listener:
        elsewhere(listener.address, "attack", "predict")
        elsewhere(listener.address, "fit")
        eventually(lambda: len(got) == 3)
    assert got == [event("attack"), event("predict"), event("fit")]


def test_what_arrived_is_handed_on_before_the_end():
    got, held = [], threading.Event()

    def slow(received):
        held.wait(60)
        got.append(received)

    with Listener(slow) as listener:
        elsewhere(listener.address, "one", "two", "three")
        held.set()
    assert [received.phase for received in got] == ["one", "two", "three"]


def test_a_sender_in_the_listeners_own_process_loses_nothing():
    got = []
    with Listener(got.append) as listener:
        send = sender(listener.address)
        for number in range(1000):
            send(event(str(number)))
        assert [int(received.phase) for received in got] == list(range(1000))


def test_garbage_is_passed_over():
    got = []
    with Listener(got.append) as listener:
        path = listener.address.removeprefix("unix:")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for content in (b"", b"\xff\xff", b"\x81\xa1a\x01", encode_event(event())):
                stranger.sendto(content, path)
        eventually(lambda: got)
    assert got == [event()]


def test_the_socket_is_private_and_goes_with_the_context():
    before = threading.active_count()
    with Listener(lambda received: None) as listener:
        folder = Path(listener.address.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    assert threading.active_count() == before


@pytest.fixture
def short_path():
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        yield Path(folder)


def test_what_a_killed_listener_left_behind_is_removed(short_path, monkeypatch):
    script = """
import os, signal
from cibench.execute.channel import Listener
Listener(print).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "TMPDIR": str(short_path)}
    subprocess.run([sys.executable, "-c", script], env=environment)
    assert len(list(short_path.iterdir())) == 1
    (short_path / "cibench-events-new").mkdir()  # one that is being made
    monkeypatch.setattr(channel.tempfile, "tempdir", str(short_path))
    with Listener(print) as one, Listener(print) as two:
        folders = {Path(x.address.removeprefix("unix:")).parent for x in (one, two)}
        assert folders < set(short_path.iterdir())
        assert len(list(short_path.iterdir())) == 3
    assert [path.name for path in short_path.iterdir()] == ["cibench-events-new"]


def test_a_temporary_folder_with_a_long_path_is_avoided(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(channel.tempfile, "tempdir", str(deep))
    got = []
    with Listener(got.append) as listener:
        assert not listener.address.removeprefix("unix:").startswith(str(tmp_path))
        elsewhere(listener.address, "fit")
        eventually(lambda: got)
    assert list(deep.iterdir()) == []


def test_without_a_place_for_the_socket_there_is_no_address(monkeypatch):
    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(channel.tempfile, "mkdtemp", full)
    with Listener(lambda received: None) as listener:
        assert listener.address == ""


# The sender.


def test_nowhere_and_an_unknown_scheme_do_nothing():
    sender("")(event())
    sender("tcp://somewhere:1")(event())


def test_an_absent_listener_is_not_missed(tmp_path):
    send = sender(f"unix:{tmp_path / 'gone'}")
    for number in range(100):
        send(event(str(number)))


def test_a_listener_that_fails_does_not_reach_the_cell():
    def fails(received):
        raise ZeroDivisionError

    with Listener(fails) as listener:
        sender(listener.address)(event())


def test_a_full_socket_never_blocks(tmp_path):
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(path)
        send = sender(f"unix:{path}")

        def flood():
            for number in range(10_000):
                send(event(str(number)))

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert decode_event(unread.recv(65536)) == event("0")


def test_a_phase_that_could_not_be_sent_is_tried_again(tmp_path):
    path = str(tmp_path / "late")
    send = sender(f"unix:{path}")
    send(event("attack"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
        late.bind(path)
        send(event("attack", done=1, total=2))
        late.settimeout(60)
        assert decode_event(late.recv(65536)) == event("attack", done=1, total=2)


def test_one_sender_an_address():
    assert sender("unix:one") is sender("unix:one")
    assert sender("unix:one") is not sender("unix:two")


def test_closed_files_of_the_process_do_not_matter():
    script = """
import os, sys
from cibench.execute.channel import Event, sender
send = sender(sys.argv[1])
send(Event("a", "evaluate", "one"))
os.closerange(3, 100)
send(Event("a", "evaluate", "two"))
"""
    got = []
    with Listener(got.append) as listener:
        subprocess.run([sys.executable, "-c", script, listener.address], check=True)
        eventually(lambda: len(got) == 2)
    assert [received.phase for received in got] == ["one", "two"]


# The throttle.


def passed(throttle, received):
    if throttle.passes(received):
        throttle.sent(received)
        return True
    return False


def test_ten_events_a_second_pass_within_a_phase():
    clock = Clock()
    throttle = Throttle(clock)
    count = 0
    for step in range(1001):
        clock.now = step / 64  # exact in binary
        count += passed(throttle, event(done=step, total=1001))
    assert 130 <= count <= 1 + clock.now / channel.INTERVAL


def test_a_change_of_phase_always_passes():
    throttle = Throttle(Clock())
    assert passed(throttle, event("", started=True))
    assert passed(throttle, event("attack"))
    assert not passed(throttle, event("attack", done=1))
    assert passed(throttle, event("predict"))
    assert passed(throttle, event("attack", title="b"))
    assert not passed(throttle, event("predict", done=1))
    assert passed(throttle, event("predict", started=True))


def test_a_throttle_does_not_grow_with_the_grid():
    throttle = Throttle(Clock())
    for number in range(1000):
        assert passed(throttle, event(title=str(number)))
    assert len(throttle._phases) < 100


# Dask.


def test_events_come_through_a_cluster():
    distributed = pytest.importorskip("distributed")

    work = """
from cibench.execute.channel import Event, sender
send = sender(address)
send(Event("a", "evaluate", "", started=True))
send(Event("a", "evaluate", "attack", 1, 2))
"""
    got = []
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
        DaskListener(client, got.append) as listener,
    ):
        assert listener.address.startswith("dask:cibench-")
        assert client.submit(os.getpid).result(60) != os.getpid()
        client.submit(exec, work, {"address": listener.address}).result(60)
        eventually(lambda: len(got) == 2)
        client.log_event(listener.topic, {"title": 1})
        client.log_event(listener.topic, "garbage")
        listener.__exit__()
        client.submit(exec, work, {"address": listener.address}, pure=False).result(60)
    assert got == [event("", started=True), event("attack", done=1, total=2)]


def test_a_dask_address_outside_of_a_worker_does_nothing():
    pytest.importorskip("distributed")
    sender("dask:topic")(event())


def test_the_channel_is_light():
    script = "import sys, cibench.execute.channel; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()).isdisjoint(
        {"torch", "numpy", "distributed", "dask", "joblib", "rich"}
    )
