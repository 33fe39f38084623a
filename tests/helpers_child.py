"""What the tests of `Child` run inside its workers; must be importable by name."""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings


def run(payload, report):
    """Call `NAME(*arguments)` of this module; the answer is JSON."""
    name, *arguments = json.loads(payload)
    if name == "phases":
        for phase in arguments:
            report(phase.encode())
        return b"null"
    if name == "report_and_sleep":
        report(b"began")
        time.sleep(*arguments)
    return json.dumps(globals()[name](*arguments)).encode()


def asked(name, *arguments):
    """The payload of a call."""
    return json.dumps([name, *arguments]).encode()


def echo(*arguments):
    return list(arguments)


def pid():
    return os.getpid()


def say(text):
    print(text)
    print(text, file=sys.stderr)
    os.write(1, b"descriptor\n")


def size(text):
    return len(text)


def state():
    """What a careless call may leave changed."""
    path = "/proc/self/oom_score_adj"
    with contextlib.suppress(FileNotFoundError):
        return {
            "directory": os.getcwd(),
            "variables": dict(os.environ),
            "mask": os.umask(0o022),
            "score": open(path).read().strip(),
            "session": os.getsid(0) == os.getpid(),
            "path": sys.path,
        }
    return None


def spoil_state(folder):
    os.chdir(folder)
    os.environ["SPOILT"] = "yes"
    os.environ.pop("HOME", None)
    os.umask(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    sys.stdout.close()
    sys.stdout = sys.stderr = None


def leave_folder(folder):
    os.chdir(folder)
    os.rmdir(folder)
    return pid()


def fail(text):
    raise ValueError(text)


class _Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


def fail_rudely():
    raise _Rude


def fail_oddly():
    raise ValueError("half a character: \ud800")


def interrupt():
    raise KeyboardInterrupt


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def no_memory():
    raise MemoryError


def torch_words(text):
    raise RuntimeError(text)


def wrapped_memory():
    try:
        raise MemoryError
    except MemoryError as error:
        raise ValueError("could not fit") from error


def segfault():
    ctypes.string_at(0)


def kill_self(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def spoil_and_loop():
    """Deaf to SIGTERM in two ways."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    while True:
        pass


def loop():
    while True:
        pass


def c_sleep(seconds, deaf):
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    library = ctypes.PyDLL(None) if deaf else ctypes.CDLL(None)
    library.sleep(seconds)  # with the interpreter's lock held, no Python code runs


def sleep(seconds):
    time.sleep(seconds)


def allocate():
    held = []
    while True:
        held.append(bytearray(b"x") * 2**23)
        time.sleep(0.001)


def allocate_in_children():
    for _ in range(4):
        if os.fork() == 0:
            held = bytearray(b"x") * (100 * 2**20)
            time.sleep(60)
            os._exit(len(held) % 2)
    time.sleep(60)


def hold(megabytes):
    return len(bytearray(b"x") * (megabytes * 2**20))


def shout(megabytes):
    for _ in range(megabytes):
        os.write(1, b"\xff" * 2**20)
    os.write(2, b"the end")


def shout_for_ever():
    while True:
        os.write(2, b"\xff" * 2**20)


def close_descriptors(first, then):
    os.closerange(first, 4096)
    return globals()[then[0]](*then[1:])


def write_to_descriptors():
    for number in range(3, 300):
        with contextlib.suppress(OSError):
            os.write(number, b"xyz")
    time.sleep(60)


def replace_descriptors():
    """Put a harmless file where any descriptor was."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3, 300):
        if number != nothing:
            with contextlib.suppress(OSError):
                os.fstat(number)
                os.dup2(nothing, number)


def note(file):
    with open(file, "a") as stream:
        stream.write(f"{os.getpid()}\n")


def _grandchild(file, session):
    """Fork twice, so that the grandchild is an orphan; wait until it has noted itself."""
    child = os.fork()
    if child == 0:
        if session:
            os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            note(file)
            time.sleep(300)
        os._exit(0)
    os.waitpid(child, 0)
    while not os.path.exists(file) or not os.path.getsize(file):
        time.sleep(0.001)


def leave_grandchild(file, session, then):
    _grandchild(file, session)
    note(file)
    return globals()[then[0]](*then[1:])


def short_lived_child():
    if os.fork() == 0:
        time.sleep(0.01)
        os._exit(0)
    return pid()


def forked_copy_returns():
    """Both the worker and its copy return from the call."""
    os.fork()
    return pid()


def forked_copy_raises():
    if os.fork() == 0:
        raise ValueError("in the copy")
    return pid()


def leave_thread():
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
    return pid()


def use_pool():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2])


def kill_parent():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def end_politely():
    """Answer when told to end."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    while not told:
        time.sleep(0.01)


def watched():
    """Signals that a fresh worker handles in its own way."""
    names = ("SIGCHLD", "SIGINT", "SIGALRM")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [str(signal.getsignal(getattr(signal, n))) for n in names], len(blocked)
