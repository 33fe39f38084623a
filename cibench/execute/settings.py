"""How cells are computed: what every process that works on a run has to know."""

from __future__ import annotations

from pathlib import Path

import msgspec

#: Test samples that `--quick` keeps.
QUICK_SAMPLES = 100


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How cells are computed.

    Args:
        device: a torch device, such as `cpu` or `cuda:0`.
        data_dir: folder of the user's own data files.
        cache: folder of artifacts and records; None keeps nothing beyond the run.
        threads: of each computation; one by default, so that numbers do not depend on how
            many cores a machine has.
        samples: test samples to use at most, which marks the records partial; None uses
            all of them.
        witnesses: whether to keep what each attack sent; it changes no number.
    """

    device: str = "cpu"
    data_dir: Path | None = None
    cache: Path | None = None
    threads: int = 1
    samples: int | None = None
    witnesses: bool = False

    @property
    def device_class(self) -> str:
        """The kind of device, such as `cuda`, whichever of them it is."""
        return self.device.partition(":")[0]
