"""One call: asking a worker, watching it, and finding out how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from . import _system, _wire
from ._host import END, Event, Host
from ._reasons import CUT_OFF, ORPHANED, SPOILT, ending
from ._wire import Answer
from .limits import Limits, readable_size

Outcome = Literal[
    "returned", "raised", "timeout", "killed", "exited", "out-of-memory", "cancelled"
]

#: Seconds between two looks at memory, log and `cancelled`: at first, and later on.
_SOON, _LATER = 0.005, 0.05

#: Seconds for which a worker that closed its connection may still end by itself.
_FAREWELL: Final = 1.0

#: Seconds in which a worker that is deaf to SIGTERM may leave a traceback.
_LAST_WORDS: Final = 0.1

_NEVER: Final = float("inf")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a call ended.

    Args:
        outcome: `returned`; `raised` an exception; `exited` by itself; `killed` by a signal
            that the harness did not send, or for meddling with the harness's connection;
            `timeout`, `out-of-memory` or `cancelled`.
        reason: the same in words; empty if it returned.
        answer: what the function returned.
        exception: type of the exception, if one was raised.
        traceback: of the exception; it is in the log too.
        seconds: from the request to the end.
        peak_memory: bytes resident at most: of the worker, and of the sum with its
            descendants as often as that was looked at.
        log: the end of what was written to descriptors 1 and 2.
        stray: whether processes that the call started were still alive after it.
    """

    outcome: Outcome
    reason: str = ""
    answer: bytes | None = None
    exception: str = ""
    traceback: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None
    log: bytes = b""
    stray: bool = False


class Call:
    """One attempt at a call, on a worker that is ready.

    Args:
        host: with a worker.
        limits: on time and memory.
        report: gets phases.
        cancelled: whether the caller gave up.
    """

    def __init__(
        self,
        host: Host,
        limits: Limits,
        report: Callable[[bytes], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.host, self.limits = host, limits
        self.report, self.cancelled = report, cancelled
        self.began = False
        self.verdict: tuple[Outcome, str] | None = None
        self.peak = 0
        self.last_words = False
        self.farewell = self.kill_at = self.dead_by = _NEVER

    def run(self, payload: bytes) -> Ended | None:
        """Ask and wait for the end; None if the worker died before it took the request."""
        host = self.host
        host.log.clear()
        self.asked = time.monotonic()
        if not host.ask(payload):
            if not host.clear():
                host.interrupt()
            return None
        self.memory_kills = _system.oom_kills()
        pause = _SOON
        look = self.asked + pause
        while True:
            times = (look, self._deadline(), self.farewell, self.kill_at, self.dead_by)
            for event in host.poll(min(times) - time.monotonic()):
                over, ended = self._take(event)
                if over:
                    return ended
            now = time.monotonic()
            if now >= look:
                self._look()
                pause = min(2 * pause, _LATER)
                look = now + pause
            self._act(now)

    def _deadline(self) -> float:
        if self.verdict is not None or self.limits.timeout is None:
            return _NEVER
        return self.asked + self.limits.timeout

    def _take(self, event: Event) -> tuple[bool, Ended | None]:
        """Whether an event is the end of the call, and if so, which."""
        match event.source, event.kind:
            case "worker", _wire.STARTED:
                self.began = True
            case "worker", _wire.PHASE:
                if self.verdict is None:
                    self.report(event.body)
            case "worker", _wire.ANSWER:
                return self._answered(event.body)
            case "worker", _wire.CLOSED:
                self.farewell = time.monotonic() + _FAREWELL
            case "worker", _:
                self._condemn("killed", SPOILT)
            case "zygote", _wire.GONE:
                status, peak = map(int, event.body.split())
                self.peak = max(self.peak, peak)
                return True, self._gone(status)
            case "zygote", _:
                return True, self._orphaned()
        return False, None

    def _answered(self, body: bytes) -> tuple[bool, Ended | None]:
        if self.verdict is not None:  # too late
            self.kill_at, self.last_words = 0, False
            return False, None
        try:
            answer = msgspec.msgpack.decode(body, type=Answer)
        except msgspec.MsgspecError:
            self._condemn("killed", SPOILT)
            return False, None
        self.peak = max(self.peak, answer.peak or 0)
        seconds = time.monotonic() - self.asked
        clean = answer.outcome == "returned" and not answer.stray and not answer.stale
        if not clean and not self.host.clear():
            self.host.interrupt()
        reason = ""
        if answer.outcome != "returned":
            reason = f"{answer.exception}: {answer.text}".removesuffix(": ")
        return True, Ended(
            outcome=answer.outcome,
            reason=reason,
            answer=answer.value,
            exception=answer.exception,
            traceback=answer.traceback,
            seconds=seconds,
            peak_memory=self.peak or None,
            log=self.host.log.tail(),
            stray=answer.stray,
        )

    def _gone(self, status: int) -> Ended | None:
        if self.verdict is None and not self.began:
            return None
        memory_ended = _system.oom_kills() > self.memory_kills
        return self._ended(self.verdict or ending(status, memory_ended=memory_ended))

    def _orphaned(self) -> Ended | None:
        if self.verdict is None and not self.began:
            return None
        return self._ended(self.verdict or ("killed", ORPHANED))

    def _ended(self, verdict: tuple[Outcome, str]) -> Ended:
        outcome, reason = verdict
        return Ended(
            outcome=outcome,
            reason=reason,
            seconds=time.monotonic() - self.asked,
            peak_memory=self.peak or None,
            log=self.host.log.tail(),
        )

    def _condemn(self, outcome: Outcome, reason: str, *, grace: float = 0.0) -> None:
        """Decide how the call ended; the worker dies after `grace` seconds."""
        if self.verdict is None:
            self.verdict = outcome, reason
        self.kill_at = min(self.kill_at, time.monotonic() + grace)

    def _look(self) -> None:
        """See to the log, the memory and the caller's wish."""
        host, limit = self.host, self.limits.memory
        host.log.trim()
        resident = _system.resident(host.pid) if host.pid is not None else 0
        self.peak = max(self.peak, resident)
        if self.cancelled():
            self._condemn("cancelled", "cancelled")
        elif limit is not None and resident > limit:
            reason = f"more than {readable_size(limit)} resident (limit)"
            self._condemn("out-of-memory", reason)

    def _act(self, now: float) -> None:
        """Do what the clock asks for."""
        host, limits = self.host, self.limits
        if self.verdict is None and now >= self.farewell:
            self._condemn("killed", CUT_OFF)
        elif now >= self._deadline():
            reason = f"no answer within {limits.timeout:g} s"
            self._condemn("timeout", reason, grace=limits.grace)
            host.command(_wire.TERMINATE)
            self.last_words = True
        if self.verdict is not None:
            self.farewell = _NEVER
        if now >= self.dead_by:  # the zygote does not manage
            host.interrupt()
            self.dead_by = _NEVER
        if now >= self.kill_at and self.last_words:
            self.last_words = False
            host.command(_wire.ABORT)
            self.kill_at = now + _LAST_WORDS
        elif now >= self.kill_at:
            host.command(_wire.KILL)
            self.kill_at, self.dead_by = _NEVER, now + END
