"""Artifacts on disk: named tensors under content-addressed keys, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor

from .shelf import Shelf, metadata


class ArtifactStore:
    """A folder of safetensors files, `<key[:2]>/<key>.safetensors`; None keeps nothing.

    A file that is damaged (its checksum does not match) is set aside as `*.damaged` and
    counts as absent. Writes are atomic; any number of processes may share a folder.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._shelf = None if folder is None else Shelf(folder, "artifact")

    def path(self, key: str) -> Path:
        """Where the artifact under a key is, or would be."""
        assert self._shelf is not None
        return self._shelf.path(_name(key))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Keep two processes from computing the same artifact.

        Nothing is locked where the folder cannot be written: then both compute it.
        """
        with ExitStack() as held:
            if self._shelf is not None:
                path = self.path(key).with_suffix(".lock")
                with suppress(OSError, NotImplementedError):
                    path.parent.mkdir(exist_ok=True)
                    held.enter_context(FileLock(path))
            yield

    def has(self, key: str) -> bool:
        """Whether there is an artifact under a key; it is not read."""
        return self._shelf is not None and self.path(key).is_file()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The artifact under a key, or None."""
        if self._shelf is None:
            return None
        content = self._shelf.read(_name(key))
        if content is None:
            return None
        tensors = _checked(content)
        if tensors is None:
            self._shelf.set_aside(_name(key))
        return tensors

    def put(
        self,
        key: str,
        tensors: Mapping[str, Tensor],
        *,
        kind: str = "",
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """Store an artifact atomically; a disk that is full gives a warning, once.

        Args:
            kind: what it is: embedding, manifold, head, fit, references or other.
            inputs: what the key is the hash of, by name.
        """
        if self._shelf is None:
            return
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        about = {
            "sha256": checksum(plain),
            "kind": kind or "other",
            "inputs": json.dumps(dict(inputs or {})),
        }
        self._shelf.write(_name(key), _sorted_header(save(plain, metadata=about)))


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _name(key: str) -> str:
    return f"{key}.safetensors"


def _checked(content: bytes) -> dict[str, Tensor] | None:
    try:
        tensors = load(content)
        expected = metadata(io.BytesIO(content)).get("sha256")
        return tensors if checksum(tensors) == expected else None
    except Exception:  # a parser may answer damage with anything
        return None


def _sorted_header(content: bytes) -> bytes:
    """The same file with its header in order, so that equal artifacts are equal files."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])
