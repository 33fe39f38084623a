"""Artifacts on disk: named tensors under content-addressed keys, checked when read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .._errors import OutputError
from ..results.folder import make_writable, write_atomically


class ArtifactStore:
    """A folder of safetensors files; None keeps nothing.

    A file that is damaged (its checksum does not match) is set aside as `*.damaged` and
    counts as absent. Writes are atomic; two processes may share a folder.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            try:
                make_writable(folder)
            except OSError as error:
                raise OutputError(
                    f"cache folder {folder}: expected a writable folder, got"
                    f" {error.strerror}; set CIBENCH_CACHE or use --no-cache"
                ) from error

    def lock(self, key: str) -> FileLock:
        """A lock that keeps two processes from computing the same artifact."""
        assert self.folder is not None
        return FileLock(self.folder / f"{key}.lock")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The artifact under a key, or None."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            # Read at once: another process may replace the file between two openings.
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = load(content)
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            if header.get("__metadata__", {}).get("sha256") == checksum(tensors):
                return tensors
        except (SafetensorError, ValueError):
            pass
        with suppress(FileNotFoundError):  # another process was faster
            path.rename(path.with_suffix(".damaged"))
        warnings.warn(
            f"artifact {path.name} is damaged; it was set aside and is computed again",
            stacklevel=2,
        )
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an artifact atomically.

        Raises:
            OutputError: the folder cannot be written.
        """
        if self.folder is None:
            return
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_atomically(
            self.folder / f"{key}.safetensors",
            save(plain, metadata={"sha256": checksum(plain)}),
        )

    def forget(self) -> None:
        """Drop what is kept in memory only, for it belongs to an embedding that is left."""


class MemoryStore(ArtifactStore):
    """Artifacts in memory, so that the cells of an embedding share fits without a cache."""

    def __init__(self) -> None:
        super().__init__(None)
        self._kept: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str) -> dict[str, Tensor] | None:
        """A copy of the artifact under a key, or None."""
        kept = self._kept.get(key)
        return None if kept is None else {k: v.clone() for k, v in kept.items()}

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a copy."""
        self._kept[key] = {k: v.detach().clone() for k, v in tensors.items()}

    def forget(self) -> None:
        """Drop everything."""
        self._kept.clear()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
