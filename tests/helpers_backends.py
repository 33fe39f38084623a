"""Works that need neither torch nor a plugin, and what stands in for doing them."""

import os
import signal
import time
from pathlib import Path

from cibench.execute.channel import Event, sender
from cibench.execute.perform import Context, Work
from cibench.execute.settings import Settings
from cibench.execute.task import Answer, CellRef, PluginRef, Task
from cibench.registry import PluginEntry


def work(number, title, *, folder, **context):
    """A work whose title says what `pretend` is to do."""
    entry = PluginEntry("dataset", "none", "none", "none", "0")
    plugin = PluginRef(entry=entry, spec="none", source="")
    cell = CellRef(dataset=plugin, attack=(), defense=plugin, seed=0, embedding=None)
    settings = Settings(cache=folder)
    task = Task(kind="evaluate", cell=cell, settings=settings, title=title)
    return Work(number=number, task=task, context=Context(run="pretended", **context))


def pretend(received):
    """Do what the title of a work says."""
    work = received.work
    title, folder = work.task.title, work.task.settings.cache
    sender(work.context.channel)(Event(title=title, stage="evaluate", phase="busy"))
    _leave(folder / f"began-{work.number}-{os.getpid()}-{time.monotonic_ns()}")
    if title == "die" or (title == "die once" and _first(folder / "died")):
        os.kill(os.getpid(), signal.SIGKILL)
    if title == "raise":
        raise RuntimeError("a bug of the harness")
    if title == "lack":
        raise ImportError("No module named 'cibench'")
    while title == "wait" and not (folder / "go").exists():
        time.sleep(0.02)
    return work.number, Answer(reason=f"{os.getpid()} did {title}")


def _leave(path):
    Path(path).touch()


def _first(path):
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def began(folder, number):
    """How often a work was begun."""
    return len(list(folder.glob(f"began-{number}-*")))


def kept(dask_worker):
    """How many works a Dask worker knows of."""
    return len(dask_worker.state.tasks)
