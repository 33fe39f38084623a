"""Witness: corrupted embeddings from a file, replayed under the harness' own rules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, final

import torch
from msgspec import Meta
from torch import Tensor

from cibench import (
    LOCATION,
    AbstractAttack,
    ContractError,
    Criterion,
    Observation,
    ThreatModelError,
    Victim,
    hookimpl,
)
from cibench.witness import unpacked

#: Of a file; empty where none is known.
Digest = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


@final
@dataclass(frozen=True, kw_only=True)
class Witness(AbstractAttack):
    """Send what a file says the compromised agents send, whoever found it and how.

    A stronger attack needs no code here: its vectors enter the ordinary path, where honest
    blocks come from embeddings computed anew and the threat model is enforced. One file
    holds one seed, so it is run with `--seeds 3,` for seed 3. Records name the file by its
    digest, never by its path; a record made with it is repeated with `file=...` only.

    Args:
        agents: compromised agents: the file's must be those that the harness draws for
            this rule and seed. `worst:q` has no one set, nor has a search one that is
            known before: both are refused.
        file: the `.safetensors` file, in the format of `cibench.witness`.
        digest: SHA-256 of the file, found from it; given as well, both must agree.
        knowledge: what the author of the file knew, taken at the author's word.
        target: `any`, `other` (of two classes), or a class by name or index.
        budget: largest norm of a block's change as a multiple of the agent's median clean
            block norm, none for no bound; blocks farther away are shrunk to it.

    Raises:
        ValueError: neither file nor digest is given, the file cannot be read, or is
            another than the digest's.
    """

    name: ClassVar[str] = "witness"
    may_drop: ClassVar[bool] = True

    file: str | None = field(default=None, metadata=LOCATION)
    digest: Digest = ""
    knowledge: Literal["oblivious", "query", "fusion", "adaptive"] = "adaptive"
    target: str = "any"
    budget: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat.agents.is_worst or self.threat.agents.is_searched:
            raise ThreatModelError(
                "witness: expected one set of agents for each sample (random:q, last or"
                f" agents by name), got agents={self.agents}"
            )
        if self.file is None:
            if not self.digest:
                raise ValueError("expected file=FILE.safetensors, got no file")
            return
        found = hashlib.sha256(self._content(self.file)).hexdigest()
        if self.digest not in ("", found):
            raise ValueError(
                f"file: expected the file with digest {self.digest}, got one with {found}"
            )
        object.__setattr__(self, "digest", found)

    def run(
        self,
        victim: Victim,
        observation: Observation,
        criterion: Criterion,
        *,
        compromised: Tensor,
        radius: Tensor | None,
        generator: torch.Generator,
    ) -> Observation:
        """Put the file's blocks in place of those of the compromised agents.

        Raises:
            ContractError: the file is not there, has changed, is no witness of this data
                set, or was made for other agents.
        """
        if self.file is None:
            raise ContractError(
                "attack witness: expected file=FILE, which records leave out, got only"
                f" its digest {self.digest}; run it with -a"
                f" witness:file=FILE,agents={self.agents}"
            )
        try:
            content = self._content(self.file)
        except ValueError as error:
            raise ContractError(
                "attack witness: expected the file that the run began with, got none"
            ) from error
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ContractError(
                "attack witness: expected the file that the run began with, got another:"
                " it was changed meanwhile; run again"
            )
        found = unpacked(content, observation.layout, len(observation))
        device = observation.features.device
        kept = {name: tensor.to(device) for name, tensor in found.items()}
        # An agent that recorded nothing is nobody's to corrupt.
        claimed = kept["compromised"] & observation.observed
        off = int((claimed != compromised).any(dim=1).sum())
        if off:
            raise ContractError(
                "attack witness: expected the agents that the harness compromises under"
                f" agents={self.agents}, got others in {off} of {len(observation)} samples:"
                " the file was made for another seed or rule; give the same --seeds and"
                " agents"
            )
        own = observation.layout.expand(compromised)
        sent = kept["features"].to(observation.features)
        features = torch.where(own, sent, observation.features)
        silent = compromised & ~kept["observed"]
        return observation.with_features(features).without(silent)

    @staticmethod
    def _content(file: str) -> bytes:
        path = Path(file).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"file: expected a .safetensors file, got {path}: {error.strerror}"
            ) from error


@hookimpl
def cibench_attacks() -> list[type[AbstractAttack]]:
    """Provide `witness`."""
    return [Witness]
