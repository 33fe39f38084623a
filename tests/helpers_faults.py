"""What plugins of `faults/` do, and what a run has to make of it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """What is expected of the cells of a faulty plugin."""

    plugin: str
    status: str
    reason: str = ""
    log: str = ""


def _fit(deed, *expected):
    return Fault(f"faulty:fit_deed={deed}", *expected)


def _decide(deed, *expected):
    return Fault(f"faulty:deed={deed}", *expected)


def _attack(deed, *expected):
    return Fault(f"rogue:deed={deed}", *expected)


MISTAKE = (
    "failed",
    "ZeroDivisionError: a plugin's own mistake (deeds.py:",
    "Traceback",
)
EXIT = ("failed", "SystemExit: 7 (deeds.py:", "SystemExit: 7")
LEFT = ("failed", "the process ended itself with exit code 3")
INTERRUPT = ("failed", "KeyboardInterrupt", "Traceback")
SEGFAULT = ("killed", "segmentation fault (signal 11)", "Segmentation fault")
KILLED = ("killed", "killed (signal 9), not sent by the harness")
EATEN = ("out-of-memory", "more than 700.0 MiB resident (limit)")
TOO_MUCH = ("out-of-memory", "can't allocate memory", "Traceback")
ASLEEP = ("timeout", "no answer within 8 s", "deeds.py")
CHANGED = ("failed", "training data and the undefended fusion center to be left unch")

#: Every way to fail in a fit, in a decision and in an attack, and ways to disturb others.
ALL = (
    _fit("raises", *MISTAKE),
    _fit("exits", *EXIT),
    _fit("leaves", *LEFT),
    _fit("interrupts", *INTERRUPT),
    _fit("segfaults", *SEGFAULT),
    _fit("is-killed", *KILLED),
    _fit("eats", *EATEN),
    _fit("eats-at-once", *TOO_MUCH),
    _fit("sleeps", *ASLEEP),
    _fit("forks", "ok"),
    _fit("prints", "ok"),
    _fit("spoils", "ok"),
    _fit("writes-training", *CHANGED),
    _fit("writes-weights", *CHANGED),
    _fit("none", "failed", "expected a FusionCenter from fit, got NoneType"),
    _decide("raises", *MISTAKE),
    _decide("exits", *EXIT),
    _decide("leaves", *LEFT),
    _decide("interrupts", *INTERRUPT),
    _decide("segfaults", *SEGFAULT),
    _decide("is-killed", *KILLED),
    _decide("eats", *EATEN),
    _decide("eats-at-once", *TOO_MUCH),
    _decide("sleeps", *ASLEEP),
    _decide("forks", "ok"),
    _decide("prints", "ok", "", "garbage"),
    _decide("spoils", "ok"),
    _decide("writes-weights", *CHANGED),
    _decide("writes-features", "ok"),  # it is given a copy
    _decide("nan", "failed", "expected finite logits, got non-finite ones for 12 of"),
    _decide("shape", "failed", "expected logits of shape (12, classes), got (11, 2)"),
    _decide("classes", "failed", "expected logits of 2 classes, got 4"),
    _decide("complex", "failed", "complex"),
    _decide("none", "failed", "NoneType"),
    _attack("raises", *MISTAKE),
    _attack("exits", *EXIT),
    _attack("leaves", *LEFT),
    _attack("interrupts", *INTERRUPT),
    _attack("segfaults", *SEGFAULT),
    _attack("is-killed", *KILLED),
    _attack("eats", *EATEN),
    _attack("eats-at-once", *TOO_MUCH),
    _attack("sleeps", *ASLEEP),
    _attack("forks", "ok"),
    _attack("prints", "ok"),
    _attack("spoils", "ok"),
    _attack("writes", "ok"),  # it is given copies
    _attack("nan", "ok"),  # a block that is not finite counts as missing
    _attack("shape", "failed", "expected an Observation of 12 samples"),
    _attack("width", "failed", "expected shape (12, 9), got (12, 8)"),
    _attack("dtype", "failed", "expected floating-point features"),
    _attack("none", "failed", "expected an Observation of 12 samples"),
)

#: One of each kind, for further backends.
SOME = tuple(
    fault
    for fault in ALL
    if fault.plugin
    in (
        *("faulty:fit_deed=exits", "faulty:fit_deed=segfaults", "faulty:fit_deed=none"),
        *("faulty:fit_deed=spoils", "faulty:fit_deed=writes-training"),
        *("faulty:deed=raises", "faulty:deed=leaves", "faulty:deed=interrupts"),
        *("faulty:deed=is-killed", "faulty:deed=eats", "faulty:deed=forks"),
        *("faulty:deed=prints", "faulty:deed=nan", "faulty:deed=shape"),
        *("rogue:deed=sleeps", "rogue:deed=spoils", "rogue:deed=dtype"),
    )
)

DEFENSES = ("none", "norm-clip", "genie")
ATTACKS = ("flip", "gaussian")
#: A data set that a glob finds, so that its crash is the result of its cells.
CRASHING = ("--dataset", "crashin?")


def selection(faults=()):
    """Options that select the good plugins and the faulty ones, and keep the grid small.

    A faulty attack meets the good defenses only, a faulty defense one good attack only.
    """
    words = []
    for name in DEFENSES:
        words += ["-d", name]
    for name in ATTACKS:
        words += ["-a", name]
    for fault in faults:
        words += ["-d" if fault.plugin.startswith("faulty") else "-a", fault.plugin]
    exclude = ["faulty/rogue", "faulty/gaussian", "crashing/faulty", "crashing/rogue"]
    for term in exclude if faults else ():
        words += ["--exclude", term]
    # Not much more than a cell needs: slow machines must reach it in time.
    return [*words, "--timeout", "8", "--memory", "700M"]


def is_good(record):
    """Whether no faulty plugin has to do with a cell."""
    names = {record.dataset.name, record.defense.name}
    names |= {part.component.name for part in record.attack}
    return not names & {"faulty", "rogue", "crashing"}


def cells_of(records, plugin):
    """The records of a plugin's cells on the data set that can be loaded."""
    return [
        record
        for record in records.values()
        if record.dataset.name == "synthetic"
        and plugin in {record.defense.spec, *(p.component.spec for p in record.attack)}
    ]
