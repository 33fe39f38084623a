"""Whatever a call does, it gets a status, and the next call meets a clean process."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import psutil
import pytest

from cibench._errors import EnvironmentFault, UsageError
from cibench.execute import _call, _log, _system, child
from cibench.execute._reasons import ending
from cibench.execute._system import lives
from cibench.execute.child import Child
from cibench.execute.limits import Limits
from helpers_child import asked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX system")
linux = pytest.mark.skipif(not _system.LINUX, reason="as Linux does it")

ENTRY = "helpers_child:run"
SOON = Limits(timeout=60)


@pytest.fixture(scope="module")
def warm():
    with Child(ENTRY) as started:
        yield started


def answered(warm, *arguments, limits=SOON):
    """What a call that must return returned."""
    ended = warm.call(asked(*arguments), limits=limits)
    assert (ended.outcome, ended.reason) == ("returned", "")
    return json.loads(ended.answer)


def until(condition, seconds=30):
    """Wait for a condition; fail where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def noted(file, count):
    """The pids that processes noted in a file, once there are so many."""
    until(lambda: file.exists() and file.read_text().count("\n") >= count)
    return [int(line) for line in file.read_text().split()]


def test_one_process_serves_many_calls(warm):
    pids = {answered(warm, "pid") for _ in range(20)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert answered(warm, "echo", 1, "zwei", None) == [1, "zwei", None]


def test_replace_gives_another_process(warm):
    first = answered(warm, "pid")
    warm.replace()
    assert not lives(first)
    assert answered(warm, "pid") != first


def test_phases_arrive_in_order(warm):
    phases = []
    ended = warm.call(asked("phases", "a", "b", "c"), report=phases.append)
    assert ended.outcome == "returned"
    assert phases == [b"a", b"b", b"c"]


def test_large_payloads_and_answers(warm):
    text = "x" * (5 * 2**20)
    assert answered(warm, "size", text) == len(text)
    assert answered(warm, "echo", text) == [text]


def test_what_is_printed_is_the_log_of_its_call(warm):
    ended = warm.call(asked("say", "hällo"))
    assert sorted(ended.log.decode().split()) == ["descriptor", "hällo", "hällo"]
    assert warm.call(asked("echo")).log == b""


FAULTS = {
    "raise": (["fail", "bad"], "raised", "ValueError: bad"),
    "rude": (["fail_rudely"], "raised", "_Rude: (RuntimeError while this text was"),
    "odd": (["fail_oddly"], "raised", "ValueError: half a character: \\ud800"),
    "interrupt": (["interrupt"], "raised", "KeyboardInterrupt"),
    "sys.exit": (["leave", 3], "raised", "SystemExit: 3"),
    "os._exit": (["leave_at_once", 3], "exited", "itself with exit code 3"),
    "os._exit 0": (["leave_at_once", 0], "exited", "itself with exit code 0"),
    "segfault": (["segfault"], "killed", "segmentation fault (signal 11)"),
    "abort": (["kill_self", int(signal.SIGABRT)], "killed", "aborted (signal 6)"),
    "killed": (["kill_self", 9], "killed", "(signal 9), not sent by the harness"),
    "MemoryError": (["no_memory"], "out-of-memory", "MemoryError"),
    "wrapped": (["wrapped_memory"], "out-of-memory", "ValueError: could not fit"),
    "torch": (
        ["torch_words", "DefaultCPUAllocator: can't allocate memory: you tried"],
        "out-of-memory",
        "RuntimeError: DefaultCPU",
    ),
    "device": (["torch_words", "CUDA out of memory."], "out-of-memory", "RuntimeError"),
    "other": (["torch_words", "shape mismatch"], "raised", "RuntimeError: shape"),
    "closed": (["close_descriptors", 3, ["echo"]], "killed", "closed its connection"),
    "closed all": (["close_descriptors", 0, ["echo"]], "killed", "closed its connec"),
    "closed, busy": (
        ["close_descriptors", 3, ["sleep", 60]], "killed", "closed its connection",
    ),
    "garbage": (["write_to_descriptors"], "killed", "wrote to its connection"),
    "replaced": (["replace_descriptors"], "killed", "closed its connection"),
    "parent": (["kill_parent"], "killed", "process that starts workers died"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_outcome_and_the_next_process_is_new(warm, fault):
    if fault == "abort" and not _system.LINUX:
        pytest.skip("signals have other names")
    call, outcome, reason = FAULTS[fault]
    before = answered(warm, "pid")
    ended = warm.call(asked(*call), limits=SOON)
    assert ended.outcome == outcome
    assert reason in ended.reason
    assert ended.answer is None
    assert ended.seconds < 60
    until(lambda: not lives(before))
    assert answered(warm, "pid") != before


def test_an_exception_is_told_with_its_traceback(warm):
    ended = warm.call(asked("fail", "bad"))
    assert ended.exception == "ValueError"
    assert "in fail\n" in ended.traceback
    assert ended.traceback.encode() in ended.log
    assert warm.call(asked("leave_at_once", 1)).exception == ""


@pytest.mark.parametrize("call", [["segfault"], ["kill_self", int(signal.SIGABRT)]])
def test_a_crash_leaves_a_traceback_in_the_log(warm, call):
    assert f"in {call[0]}\n" in warm.call(asked(*call)).log.decode()


@pytest.mark.parametrize(
    "call",
    [["loop"], ["c_sleep", 60, False], ["c_sleep", 60, True], ["spoil_and_loop"]],
    ids=["loop", "in C", "deaf in C", "spoilt"],
)
def test_a_timeout_ends_whatever_runs(warm, call, tmp_path):
    before = answered(warm, "pid")
    ended = warm.call(asked(*call), limits=Limits(timeout=0.25, grace=0.1))
    assert (ended.outcome, ended.reason) == ("timeout", "no answer within 0.25 s")
    assert ended.seconds >= 0.25
    assert f"in {call[0]}\n" in ended.log.decode()
    assert not lives(before)
    assert answered(warm, "pid") != before


def test_an_answer_within_the_grace_is_too_late(warm):
    before = answered(warm, "pid")
    ended = warm.call(asked("end_politely"), limits=Limits(timeout=0.2, grace=60))
    assert (ended.outcome, ended.answer) == ("timeout", None)
    assert ended.seconds < 30
    assert answered(warm, "pid") != before


@linux
@pytest.mark.parametrize("call", ["allocate", "allocate_in_children"])
def test_memory_without_bound_is_stopped(warm, call):
    limits = Limits(timeout=60, memory=300 * 2**20)
    ended = warm.call(asked(call), limits=limits)
    assert ended.outcome == "out-of-memory"
    assert ended.reason == "more than 300.0 MiB resident (limit)"
    assert ended.peak_memory > limits.memory
    assert answered(warm, "echo") == []


@linux
def test_the_peak_of_memory_is_of_the_call_alone(warm):
    large = warm.call(asked("hold", 100))
    small = warm.call(asked("echo"))
    assert 100 * 2**20 < large.peak_memory < 200 * 2**20
    assert 2**20 < small.peak_memory < large.peak_memory - 50 * 2**20


def test_running_out_of_the_systems_memory_is_told_apart(warm, monkeypatch):
    count = iter(range(100))
    monkeypatch.setattr(_call._system, "oom_kills", lambda: next(count))
    ended = warm.call(asked("kill_self", 9))
    assert ended.outcome == "out-of-memory"
    assert ended.reason == "the system ran out of memory"
    assert warm.call(asked("kill_self", int(signal.SIGABRT))).outcome == "killed"


def test_endings_in_words():
    assert ending(3 << 8, memory_ended=True)[0] == "exited"
    assert ending(signal.SIGTERM, memory_ended=False) == (
        "killed", "terminated (signal 15), not sent by the harness",
    )  # fmt: skip


STRAYS = {
    "returned": (["echo"], "returned"),
    "raised": (["fail", "x"], "raised"),
    "exited": (["leave_at_once", 1], "exited"),
    "killed": (["segfault"], "killed"),
    "timeout": (["loop"], "timeout"),
    "garbage": (["write_to_descriptors"], "killed"),
    "zygote killed": (["kill_parent"], "killed"),
}


@linux
@pytest.mark.parametrize("session", [False, True], ids=["group", "own session"])
@pytest.mark.parametrize("end", STRAYS)
def test_no_orphan_outlives_its_call(warm, end, session, tmp_path):
    then, outcome = STRAYS[end]
    file = tmp_path / "pids"
    limits = Limits(timeout=0.5 if end == "timeout" else 60, grace=0)
    call = asked("leave_grandchild", str(file), session, then)
    ended = warm.call(call, limits=limits)
    assert ended.outcome == outcome
    assert ended.stray == (end in ("returned", "raised"))
    grandchild, worker = noted(file, 2)
    assert not lives(grandchild)
    assert not lives(worker)
    assert answered(warm, "echo") == []


@linux
def test_children_that_end_in_time_are_no_strays(warm):
    for call in ("short_lived_child", "use_pool"):
        assert not warm.call(asked(call), limits=SOON).stray
    assert answered(warm, "short_lived_child") == answered(warm, "pid")


@pytest.mark.parametrize("call", ["forked_copy_returns", "forked_copy_raises"])
def test_a_forked_copy_of_the_worker_does_not_answer(warm, call):
    for _ in range(3):
        before = answered(warm, "pid")
        assert answered(warm, call) == before
        assert answered(warm, "echo", call) == [call]


def test_a_worker_with_a_thread_left_is_replaced(warm):
    ended = warm.call(asked("leave_thread"))
    assert (ended.outcome, ended.stray) == ("returned", False)
    assert answered(warm, "pid") != json.loads(ended.answer)


def test_the_surroundings_are_put_back(warm, tmp_path):
    before, handlers = answered(warm, "state"), answered(warm, "watched")
    pid = answered(warm, "pid")
    ended = warm.call(asked("spoil_state", str(tmp_path)))
    assert ended.outcome == "returned"
    assert answered(warm, "state") == before
    assert answered(warm, "watched") == handlers
    assert b"hello" in warm.call(asked("say", "hello")).log
    assert answered(warm, "pid") == pid


def test_a_worker_whose_folder_is_gone_is_replaced(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with Child(ENTRY) as started:
        answered(started, "echo")
        monkeypatch.chdir(tmp_path)
        assert answered(started, "leave_folder", str(place))
        assert answered(started, "echo") == []


def test_what_a_worker_starts_with(warm):
    state = answered(warm, "state")
    assert state["session"]
    assert state["variables"]["OMP_NUM_THREADS"] == "1"
    assert [p for p in state["path"] if p.endswith("tests")]
    if _system.LINUX:
        assert state["score"] == "1000"


def test_threads_and_variables_are_as_told():
    given = {"MKL_NUM_THREADS": "7", "PLACE": "here"}
    with Child(ENTRY, threads=3, environment=given) as started:
        variables = answered(started, "state")["variables"]
    found = [variables[n] for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PLACE")]
    assert found == ["3", "7", "here"]


def test_the_end_of_a_long_log_is_kept(warm):
    ended = warm.call(asked("shout", 3), limits=SOON)
    assert len(ended.log) < _log.TAIL + 100
    assert ended.log.startswith(b"[")
    assert b"bytes of output left out]" in ended.log[:80]
    assert ended.log.endswith(b"the end")


def test_output_without_end_fills_no_disk(warm, monkeypatch):
    monkeypatch.setattr(_log, "LARGEST", 2**20)
    sizes = []

    def measure():
        """The log's size just after it was looked at."""
        sizes.append(os.fstat(warm._host.log.descriptor).st_size)
        return False

    limits = Limits(timeout=0.5, grace=0)
    ended = warm.call(asked("shout_for_ever"), limits=limits, cancelled=measure)
    assert ended.outcome == "timeout"
    assert len(ended.log) < _log.TAIL + 100
    assert sizes
    assert b"output left out" in ended.log


def test_a_call_is_cancelled_at_once(warm):
    before = answered(warm, "pid")
    phases = []
    call = asked("report_and_sleep", 60)
    ended = warm.call(call, report=phases.append, cancelled=lambda: bool(phases))
    assert (ended.outcome, ended.reason) == ("cancelled", "cancelled")
    assert ended.seconds < 30
    assert not lives(before)


def test_a_call_is_cancelled_while_the_zygote_imports(tmp_path):
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(300)")
    with Child("slow_module:run", environment={"PYTHONPATH": str(tmp_path)}) as started:
        ended = started.call(b"", cancelled=lambda: True)
        zygote = started._host.process.pid
    assert ended.outcome == "cancelled"
    assert not lives(zygote)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_of_the_caller_leaves_nothing_running(warm, error):
    before = answered(warm, "pid")

    def fail(phase):
        raise error

    with pytest.raises(error):
        warm.call(asked("report_and_sleep", 60), report=fail)
    assert not lives(before)
    assert answered(warm, "echo") == []


def test_a_call_within_a_call_is_refused(warm):
    with pytest.raises(UsageError, match="one call at a time"):
        warm.call(asked("phases", "a"), report=lambda _: warm.call(asked("echo")))
    assert answered(warm, "echo") == []


def test_a_worker_that_dies_between_two_calls_is_replaced(warm):
    before = answered(warm, "pid")
    os.kill(before, signal.SIGKILL)
    assert answered(warm, "pid") != before


def test_a_zygote_that_dies_between_two_calls_is_replaced(warm):
    worker = answered(warm, "pid")
    zygote = psutil.Process(worker).parent()
    zygote.kill()
    until(lambda: not lives(zygote.pid))
    assert answered(warm, "pid") != worker
    assert not lives(worker)
    assert not lives(zygote.pid)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ValueError('spoilt import')", "spoilt import"),
        ("import sys; sys.exit('left')", "left"),
        ("import os; os._exit(9)", "exit code 9"),
        ("", "no attribute 'run'"),
        (None, "No module named 'entry_module'"),
    ],
)
def test_an_entry_that_cannot_be_imported(tmp_path, source, words):
    if source is not None:
        (tmp_path / "entry_module.py").write_text(source)
    environment = {"PYTHONPATH": str(tmp_path)}
    with Child("entry_module:run", environment=environment) as started:
        for _ in range(2):
            with pytest.raises(EnvironmentFault, match="entry_module:run") as caught:
                started.call(b"")
            assert words in str(caught.value)
        (tmp_path / "entry_module.py").write_text("def run(data, report): return data")
        assert started.call(b"x").answer == b"x"


def test_an_entry_that_returns_no_bytes(tmp_path):
    (tmp_path / "wrong_module.py").write_text("def run(data, report): return 3")
    with Child(
        "wrong_module:run", environment={"PYTHONPATH": str(tmp_path)}
    ) as started:
        ended = started.call(b"")
    assert ended.outcome == "raised"
    assert "expected bytes from the entry function, got int" in ended.reason


def test_workers_that_all_die_are_a_fault(tmp_path):
    source = """
        import os
        os.register_at_fork(after_in_child=lambda: os._exit(5))
        def run(data, report): return data
    """
    (tmp_path / "dying_module.py").write_text(
        "\n".join(map(str.strip, source.split("\n")))
    )
    with (
        Child("dying_module:run", environment={"PYTHONPATH": str(tmp_path)}) as started,
        pytest.raises(EnvironmentFault, match="3 in a row died"),
    ):
        started.call(b"")


@pytest.mark.parametrize("entry", ["", "module", ":run", "module:"])
def test_an_entry_of_the_wrong_form(entry):
    with pytest.raises(UsageError, match="expected an entry 'module:function'"):
        Child(entry)


def test_windows_is_refused(monkeypatch):
    monkeypatch.setattr(child, "os", types.SimpleNamespace(name="nt"))
    with pytest.raises(UsageError, match="--isolation none"):
        Child(ENTRY)


def test_close_ends_everything():
    started = Child(ENTRY)
    worker = answered(started, "pid")
    zygote = psutil.Process(worker).ppid()
    started.close()
    started.close()
    assert not lives(worker)
    assert not lives(zygote)
    for use in (started.start, lambda: started.call(b"")):
        with pytest.raises(UsageError, match="one that was closed"):
            use()


def test_an_object_that_is_forgotten_ends_its_processes():
    started = Child(ENTRY)
    worker = answered(started, "pid")
    zygote = psutil.Process(worker).ppid()
    del started
    gc.collect()
    assert not lives(worker)
    assert not lives(zygote)


def test_close_from_another_thread_cancels_the_call():
    started, began, found = Child(ENTRY), threading.Event(), []

    def call():
        report = lambda _: began.set()  # noqa: E731
        found.append(started.call(asked("report_and_sleep", 60), report=report))

    thread = threading.Thread(target=call)
    thread.start()
    assert began.wait(60)
    started.close()
    thread.join(60)
    assert [ended.outcome for ended in found] == ["cancelled"]


def test_children_of_several_threads_do_not_meddle():
    found = {}

    def call(number):
        with Child(ENTRY) as mine:
            outcomes = [mine.call(asked("segfault")).outcome]
            outcomes += [answered(mine, "echo", number)[0] for _ in range(5)]
        found[number] = outcomes

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: ["killed", *[number] * 5] for number in range(3)}


@linux
def test_no_descriptor_is_left_open():
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    with Child(ENTRY) as started:
        answered(started, "echo")
        warm_ones = descriptors()
        for call in ("segfault", "kill_parent", "write_to_descriptors", "loop"):
            started.call(asked(call), limits=Limits(timeout=0.3, grace=0))
            answered(started, "echo")
        assert descriptors() == warm_ones
    assert descriptors() == before


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from helpers_child import asked
from cibench.execute.child import Child
child = Child({entry!r}, environment={variables!r})
child.start()
print(child._host.process.pid, flush=True)
{rest}
"""


@contextlib.contextmanager
def harness(rest, entry=ENTRY, **variables):
    """A harness of its own; gives the process and the pid of its zygote."""
    path = [os.path.dirname(__file__)]
    script = SCRIPT.format(path=path, entry=entry, variables=variables, rest=rest)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@linux
@pytest.mark.parametrize("deaf", [True, False])
def test_nothing_outlives_a_killed_harness(tmp_path, deaf):
    file = tmp_path / "pids"
    then = ["c_sleep", 300, deaf]
    rest = f"child.call(asked('leave_grandchild', {str(file)!r}, True, {then}))"
    with harness(rest) as (process, zygote):
        pids = [zygote, *noted(file, 2)]
        assert all(map(lives, pids))
        process.kill()
        until(lambda: not any(map(lives, pids)))


@linux
def test_a_forked_copy_of_a_killed_harness_keeps_nothing_alive(tmp_path):
    file = tmp_path / "pids"
    rest = (
        "import os, time\n"
        f"child.call(asked('note', {str(file)!r}))\n"
        "if os.fork() == 0:\n"
        f"    open({str(file)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "time.sleep(300)"
    )
    with harness(rest) as (process, zygote):
        worker, copy = noted(file, 2)
        try:
            process.kill()
            until(lambda: not any(map(lives, (zygote, worker))))
            assert lives(copy)
        finally:
            os.kill(copy, signal.SIGKILL)


@linux
def test_an_importing_zygote_dies_with_its_harness(tmp_path):
    (tmp_path / "slow_module.py").write_text(
        "import time, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'began')!r}).touch()\n"
        "time.sleep(300)"
    )
    rest = "child.call(b'')"
    with harness(rest, "slow_module:run", PYTHONPATH=str(tmp_path)) as (
        process,
        zygote,
    ):
        until((tmp_path / "began").exists)
        assert lives(zygote)
        process.kill()
        until(lambda: not lives(zygote))


@linux
def test_a_harness_that_ends_without_closing_leaves_nothing(tmp_path):
    file = tmp_path / "pids"
    rest = (
        f"child.call(asked('note', {str(file)!r}))\n"
        "import __main__; __main__.kept = child; sys.exit(3)"
    )
    with harness(rest) as (process, zygote):
        assert process.wait(60) == 3
        assert not lives(zygote)
        assert not any(map(lives, noted(file, 1)))


@linux
def test_a_forked_copy_of_the_harness_ends_nothing(tmp_path):
    rest = (
        "import os\n"
        "first = child.call(asked('pid')).answer\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait()\n"
        "sys.exit(3 if child.call(asked('pid')).answer == first else 4)"
    )
    with harness(rest) as (process, _):
        assert process.wait(60) == 3


def test_the_modules_are_light():
    script = (
        "import sys, cibench.execute.child, cibench.execute.zygote;"
        "sys.exit(bool({'torch', 'numpy', 'psutil', 'joblib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
