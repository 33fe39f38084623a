"""`AgentLayout`: which columns belong to which agent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ._errors import ThreatModelError, UsageError

_NAME = re.compile(r"[A-Za-z_][\w.\-]*")


@dataclass(frozen=True)
class AgentLayout:
    """Names and widths of the agents' blocks: contiguous, covering every column once.

    Args:
        names: one name per agent; unique; a letter first, then letters, digits, `_.-`.
        widths: number of columns of each agent's block, at least 1.

    Raises:
        UsageError: names and widths disagree, or a name or width is not allowed.

    Example:
        >>> layout = AgentLayout(names=("camera", "radar"), widths=(2, 1))
        >>> layout.block_norms(torch.tensor([[3.0, 4.0, 2.0]]))
        tensor([[5., 2.]])
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.widths):
            raise UsageError(
                f"AgentLayout: expected one width per agent name and at least one agent,"
                f" got {len(self.names)} names and {len(self.widths)} widths"
            )
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"AgentLayout: expected unique names, got {self.names}")
        for name, width in zip(self.names, self.widths, strict=True):
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"AgentLayout: expected an agent name of letters, digits and _.-"
                    f" that starts with a letter, got {name!r}"
                )
            if width < 1:
                raise UsageError(
                    f"AgentLayout: expected a width >= 1 for agent {name}, got {width}"
                )

    @property
    def agents(self) -> int:
        """Number of agents."""
        return len(self.names)

    @cached_property
    def width(self) -> int:
        """Total number of columns."""
        return sum(self.widths)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Columns of each agent, in order."""
        stops = [sum(self.widths[: i + 1]) for i in range(self.agents)]
        return tuple(
            slice(stop - width, stop)
            for stop, width in zip(stops, self.widths, strict=True)
        )

    @cached_property
    def owner(self) -> Tensor:
        """`(width,)` index of the agent that owns each column."""
        return torch.repeat_interleave(
            torch.arange(self.agents), torch.tensor(self.widths)
        )

    def index(self, agent: str) -> int:
        """0-based position of an agent given by name or by 1-based number.

        Raises:
            ThreatModelError: there is no such agent.
        """
        if agent.isdecimal():
            number = int(agent)
            if 1 <= number <= self.agents:
                return number - 1
            raise ThreatModelError(
                f"agent number: expected 1 to {self.agents}, got {agent}"
                f" (agents: {', '.join(self.names)})"
            )
        if agent in self.names:
            return self.names.index(agent)
        raise ThreatModelError(
            f"agent: expected one of {', '.join(self.names)} or a number from 1 to"
            f" {self.agents}, got {agent!r}"
        )

    def expand(self, mask: Tensor) -> Tensor:
        """Repeat a value per agent over its columns: `(n, agents)` to `(n, width)`."""
        if len(set(self.widths)) == 1:
            wide = mask[..., None].expand(*mask.shape, self.widths[0])
            return wide.reshape(*mask.shape[:-1], self.width)
        return mask.index_select(-1, self.owner.to(mask.device))

    def block_norms(self, values: Tensor) -> Tensor:
        """Euclidean norm of each block: `(n, width)` to `(n, agents)`."""
        norm = torch.linalg.vector_norm
        if len(set(self.widths)) == 1:
            blocks = values.reshape(*values.shape[:-1], self.agents, self.widths[0])
            return norm(blocks, dim=-1)  # type: ignore[no-any-return]
        return torch.stack([norm(values[..., s], dim=-1) for s in self.slices], -1)
