"""A run's backend, limits and engine, from the options of the command line."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._errors import UsageError
from ..execute.backends import Backend, LokyBackend, SerialBackend
from ..execute.channel import Event
from ..execute.describing import Described, describe
from ..execute.limits import Limits, default_memory, parse_duration, parse_size
from ..execute.perform import Context, start_early
from ..execute.settings import Settings

if TYPE_CHECKING:
    from ..grid import Cell


@dataclass(frozen=True)
class Execution:
    """Where and within which limits work is done."""

    jobs: int
    backend: str
    backend_options: Mapping[str, str]
    limits: Limits
    isolation: str

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Execution:
        """From the options of `_options.execution`.

        Raises:
            click.BadParameter: one is not as expected.
        """
        jobs = parse_jobs(str(params["jobs"]))
        backend = params["backend"] or ("serial" if jobs == 1 else "loky")
        options = dict(_pair(text) for text in params["backend_options"])
        if backend == "serial" and jobs > 1:
            raise click.UsageError(
                f"--backend serial: expected -j 1 with it, got -j {jobs}; use --backend"
                " loky"
            )
        if backend in ("serial", "loky") and options:
            raise click.UsageError(
                f"--backend-opt: expected --backend dask or ray with it, got {backend}"
            )
        if params["isolation"] == "none" and backend != "serial":
            raise click.UsageError(
                "--isolation none: expected --backend serial with it (-j 1), got"
                f" {backend}"
            )
        memory = str(params["memory"])
        limits = Limits(
            timeout=_checked("--timeout", parse_duration, str(params["timeout"])),
            memory=default_memory()
            if memory == "auto"
            else _checked("--memory", parse_size, memory),
        )
        return cls(jobs, backend, options, limits, params["isolation"])


class Session:
    """An open backend and what every task of the run needs.

    `on_event` may be set at any time; events before that are dropped.
    """

    def __init__(self, execution: Execution, settings: Settings) -> None:
        self.settings = settings
        self.on_event: Callable[[Event], None] = lambda event: None
        self.run = secrets.token_hex(6)
        self.execution = execution
        self.backend = self._open(execution)
        carry = not self.backend.shares_cache
        self.context = Context(
            run=self.run,
            limits=execution.limits,
            isolation=execution.isolation,  # type: ignore[arg-type]
            channel=self.backend.channel,
            carry=carry,
            owner=self.backend.owner,
        )
        if execution.backend == "serial":
            start_early(self.context, settings.threads)

    def ship(self, cells: Sequence[Cell]) -> None:
        """Pack the plugins that remote workers may lack."""
        if self.backend.bundles():
            from dataclasses import replace

            from ..execute.ship import bundles

            used = {id(p): p for cell in cells for p in cell.plugins if not p.error}
            self.context = replace(self.context, bundles=bundles(used.values()))

    def describe(self, cells: Sequence[Cell]) -> Described:
        """Look at the data sets of the cells."""
        return describe(
            cells,
            backend=self.backend,
            context=self.context,
            settings=self.settings,
            torch_version=torch_version(),
        )

    def _open(self, execution: Execution) -> Backend:
        def on_event(event: Event) -> None:
            self.on_event(event)

        if execution.backend == "serial":
            return SerialBackend(on_event)
        if execution.backend == "loky":
            return LokyBackend(execution.jobs, on_event)
        assert self.settings.cache is not None
        if execution.backend == "dask":
            from ..execute.dask_backend import DaskBackend

            return DaskBackend(
                execution.jobs, execution.backend_options, on_event, self.settings.cache
            )
        from ..execute.ray_backend import RayBackend

        return RayBackend(
            execution.jobs, execution.backend_options, on_event, self.settings.cache
        )


@contextmanager
def session(execution: Execution, settings: Settings) -> Iterator[Session]:
    """An open session; without a cache, artifacts are kept for as long as it lasts."""
    temporary = None
    if settings.cache is None:
        import msgspec

        temporary = Path(tempfile.mkdtemp(prefix="cibench-"))
        settings = msgspec.structs.replace(settings, cache=temporary)
    opened = None
    try:
        opened = Session(execution, settings)
        with opened.backend:
            yield opened
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def torch_version() -> str:
    """The version of torch that workers must have too."""
    import torch

    return str(torch.__version__)


def parse_jobs(text: str) -> int:
    """A number of jobs; `auto` for as many as there are cores.

    Raises:
        click.BadParameter: neither.
    """
    if text == "auto":
        from joblib import cpu_count

        return int(cpu_count())
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(
            f"expected a number from 1 on, or auto, got {text!r}", param_hint="--jobs"
        )
    return int(text)


def check_device(text: str) -> str:
    """A torch device that exists here.

    Raises:
        click.BadParameter: it does not.
    """
    import torch

    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # `meta` holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(
            f"expected a device of this machine such as cpu or cuda, got {text!r}"
            f" ({reason})",
            param_hint="--device",
        ) from None
    return text


def _checked(flag: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except UsageError as error:
        raise click.BadParameter(str(error), param_hint=flag) from error


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(
            f"expected KEY=VALUE, got {text!r}", param_hint="--backend-opt"
        )
    return key.strip(), value.strip()
