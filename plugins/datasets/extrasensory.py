"""ExtraSensory: ten phone and watch sensors of one user (needs the user's file)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cibench import (
    LOCATION,
    AbstractDataset,
    AgentDataset,
    AgentLayout,
    DataError,
    Split,
    Standardizer,
    hookimpl,
)
from cibench.download import Download
from cibench.spec import canonical, did_you_mean

from .. import papers
from ._extrasensory_csv import AGENTS, NOT_IN_PAPER, UserTable, read_user_file

PAPER_USER = "0BFC35E2-4817-4865-BFA7-764742302A2D"
ARCHIVE = (
    "http://extrasensory.ucsd.edu/data/primary_data_files/"
    "ExtraSensory.per_uuid_features_labels.zip"
)
_SUFFIX = ".features_labels.csv"
_USER = re.compile(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")
#: The paper's slices of the user's rows; its last row is left out.
_PAPER_CUT = 2500
_TEST_SHARE = _VALIDATION_SHARE = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class ExtraSensory(AbstractDataset):
    """One user of ExtraSensory, one agent per sensor, one binary label.

    Samples are minutes in the order of time, and so are the splits: training, then
    validation (the last fifth of the labelled rows before the test rows), then test. A
    sensor that recorded nothing in a minute is a missing agent, not zeros.

    Args:
        user: UUID of the user, as in the file name; the paper's user by default.
        label: the activity to recognize, such as `SITTING` or `FIX_walking`.
        columns: `paper` leaves out the four environment columns the paper leaves out;
            `all` keeps all 225 (users of an iPhone record other ones).
        standardize: `train` uses the training rows alone; `paper` scales the rows
            before the test rows, and the test rows, each with their own statistics,
            unlabelled rows included, as the paper's code does.
        split: `paper` takes the rows 0:2500 and 2500:-1 of the file; `chronological`
            takes the last fifth of the labelled rows as test, for any user.
        path: the file, or the folder it lies in.

    Raises:
        ValueError: `user` is not a UUID in capitals.

    Source: Vaizman, Ellis, Lanckriet (2017); slices and scaling: the code of CoPur.
    """

    name: ClassVar[str] = "extrasensory"
    citation: ClassVar[str] = (
        "Y. Vaizman, K. Ellis, G. Lanckriet. Recognizing Detailed Human Context in the"
        " Wild from Smartphones and Smartwatches. IEEE Pervasive Computing 16(4), 2017."
        " doi:10.1109/MPRV.2017.3971131"
    )
    bibtex: ClassVar[str] = papers.EXTRASENSORY
    files_needed: ClassVar[str] = (
        f"<user>{_SUFFIX}.gz in the data folder or in its subfolder extrasensory, from"
        f" {ARCHIVE} (unpack it there)"
    )
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            url=ARCHIVE,
            file=ARCHIVE.rpartition("/")[2],
            size=215_000_000,
            unpack="zip",
            licence=(
                "CC BY-NC-SA 4.0; data about persons: cite the paper, no commercial use"
            ),
            elsewhere="see http://extrasensory.ucsd.edu for where the data are now",
        ),
    )

    user: str = PAPER_USER
    label: str = "SITTING"
    columns: Literal["paper", "all"] = "paper"
    standardize: Literal["train", "paper"] = "train"
    split: Literal["paper", "chronological"] = "paper"
    path: str | None = field(default=None, metadata=LOCATION)

    def __post_init__(self) -> None:
        if not _USER.fullmatch(self.user):
            raise ValueError(
                f"user: expected a UUID in capitals such as {PAPER_USER},"
                f" got {self.user!r}"
            )

    def load(self, *, data_dir: Path | None = None) -> AgentDataset:
        """Read the user's file.

        Raises:
            DataError: the file is absent, damaged or not in the documented format; the
                label is unknown or does not suffice for the split.
        """
        file = self._find(data_dir)
        table = read_user_file(file)
        label = self._label(table, file.name)
        if self.split == "chronological":
            order = np.argsort(table.take(["timestamp"])[:, 0], kind="stable")
            label = label[order]
        else:
            order = np.arange(len(label))
        before, after = self._slices(label, file.name)
        blocks = self._blocks()
        wide = table.take([name for block in blocks.values() for name in block])
        features = torch.from_numpy(wide[order])

        labelled = np.flatnonzero(~np.isnan(label[before]))
        kept = len(labelled) - round(len(labelled) * _VALIDATION_SHARE)
        rows = {
            "train": labelled[:kept],
            "validation": labelled[kept:],
            "test": after.start + np.flatnonzero(~np.isnan(label[after])),
        }
        self._check_classes(rows, label, file.name)
        if self.standardize == "paper":
            scale, test_scale = (Standardizer.fit(features[s]) for s in (before, after))
        else:
            scale = test_scale = Standardizer.fit(features[rows["train"]])
        splits = {
            part: Split(
                (test_scale if part == "test" else scale)(features[chosen]),
                torch.from_numpy(label[chosen].astype(np.int64)),
            )
            for part, chosen in rows.items()
        }
        layout = AgentLayout(
            names=tuple(blocks), widths=tuple(len(block) for block in blocks.values())
        )
        return AgentDataset(
            name=canonical(self),
            layout=layout,
            **splits,
            class_names=(f"not {self.label}", self.label),
            recipe="linear-32",
            citation=self.citation,
            licence="CC BY-NC-SA 4.0 (data about persons; not shipped)",
            time_series=True,
            personal=True,
            test_statistics=self.standardize == "paper",
            notes=self._notes(splits, layout),
        )

    def present(self, *, data_dir: Path | None = None) -> bool:
        """Whether the user's file is there."""
        try:
            return bool(self._find(data_dir))
        except DataError:
            return False

    def _find(self, data_dir: Path | None) -> Path:
        """The user's file, packed or unpacked."""
        names = (f"{self.user}{_SUFFIX}.gz", f"{self.user}{_SUFFIX}")
        if self.path is not None:
            place = Path(os.path.expanduser(self.path))
            if os.path.isfile(place):
                return self._checked(place)
            if not os.path.isdir(place):
                raise DataError(
                    f"extrasensory: expected path to be a file or folder, got {place},"
                    f" which is neither; {self._remedy}"
                )
            folders = [place]
        elif data_dir is not None:
            folders = [data_dir, data_dir / "extrasensory"]
        else:
            raise DataError(
                f"extrasensory: expected a data folder with {names[0]}, got none;"
                f" {self._remedy}"
            )
        for folder in folders:
            for name in names:
                if os.path.isfile(folder / name):
                    return folder / name
        where = " or ".join(str(folder) for folder in folders)
        raise DataError(
            f"extrasensory: expected {names[0]} in {where}, got no such file;"
            f" {self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        return (
            "give its folder by --data-dir, CIBENCH_DATA or extrasensory:path=...;"
            f" the file is in {ARCHIVE}"
        )

    def _checked(self, file: Path) -> Path:
        """A file whose name says it is another user's would make the record lie."""
        owner, suffix, _ = file.name.partition(_SUFFIX)
        if suffix and owner != self.user:
            raise DataError(
                f"extrasensory: expected the file of user {self.user}, got {file.name};"
                f" add the option user={owner}"
            )
        return file

    def _label(self, table: UserTable, file: str) -> NDArray[np.float64]:
        """`(rows,)` 0, 1 or NaN."""
        if self.label not in table.labels:
            known = list(table.labels)
            hint = did_you_mean(self.label, known)
            raise DataError(
                f"{file}: unknown label {self.label!r}{hint};"
                f" expected one of {', '.join(known)}"
            )
        return table.take([f"label:{self.label}"])[:, 0]

    def _blocks(self) -> dict[str, tuple[str, ...]]:
        if self.columns == "all":
            return AGENTS
        return {
            agent: tuple(name for name in block if name not in NOT_IN_PAPER)
            for agent, block in AGENTS.items()
        }

    def _slices(self, label: NDArray[np.float64], file: str) -> tuple[slice, slice]:
        """Rows before the test rows, and the rows of the test split."""
        if self.split == "paper":
            if len(label) < _PAPER_CUT + 2:
                raise DataError(
                    f"{file}: expected at least {_PAPER_CUT + 2} rows for split=paper,"
                    f" got {len(label)}; use split=chronological"
                )
            return slice(0, _PAPER_CUT), slice(_PAPER_CUT, len(label) - 1)
        labelled = np.flatnonzero(~np.isnan(label))
        kept = len(labelled) - round(len(labelled) * _TEST_SHARE)
        cut = int(labelled[kept]) if kept < len(labelled) else len(label)
        return slice(0, cut), slice(cut, len(label))

    def _check_classes(
        self,
        rows: dict[str, NDArray[np.intp]],
        label: NDArray[np.float64],
        file: str,
    ) -> None:
        counts = {
            part: np.bincount(label[chosen].astype(np.int64), minlength=2)
            for part, chosen in rows.items()
        }
        if (counts["train"] == 0).any() or any(c.sum() == 0 for c in counts.values()):
            found = ", ".join(
                f"{part} {n[0]} negative and {n[1]} positive"
                for part, n in counts.items()
            )
            raise DataError(
                f"{file}: expected rows labelled {self.label} in every split, and of"
                f" both classes in train, got {found}; choose another label or split"
            )

    def _notes(self, splits: dict[str, Split], layout: AgentLayout) -> tuple[str, ...]:
        notes = [
            f"{part}: {len(split)} rows, {int(split.labels.sum())} {self.label},"
            f" missing: {_missing(split, layout)}"
            for part, split in splits.items()
        ]
        if self.standardize == "paper":
            notes.append("the test split is scaled with its own statistics (paper)")
        return tuple(notes)


def _missing(split: Split, layout: AgentLayout) -> str:
    """Share of samples without the agent, for agents that are ever missing."""
    share: Tensor = (~split.observation(layout).observed).double().mean(dim=0)
    named = zip(layout.names, share.tolist(), strict=True)
    return ", ".join(f"{name} {value:.1%}" for name, value in named if value) or "none"


@hookimpl
def cibench_datasets() -> list[type[AbstractDataset]]:
    """Provide the data set."""
    return [ExtraSensory]
