"""The exceptions of cibench.

```
CibenchError                 exit 70 (a bug in the harness unless a subclass says more)
├── UsageError               exit 2   the command or a spec is wrong
│   ├── SpecError            a spec cannot be parsed
│   ├── OptionError          an option is unknown, of the wrong type or out of range
│   ├── UnknownPluginError   no distribution provides this name
│   └── ThreatModelError     the threat model does not fit the data set
├── EnvironmentFault         exit 3   the surroundings are wrong
│   ├── PluginError          a requested plugin cannot be loaded
│   ├── DataError            a data file is absent, damaged or not as documented
│   └── OutputError          results cannot be written or read
├── SubmissionError          exit 4   a submission is refused
├── EmptySelectionError      exit 5   the selection matches no cell
└── ContractError            exit 1   a plugin broke its contract: the cell fails
    └── KnowledgeError       an attack asked for more than its threat model grants
```
"""

from __future__ import annotations

from collections.abc import Sequence


class CibenchError(Exception):
    """Base of all errors raised by cibench; `exit_code` is what the shell sees."""

    exit_code = 70


class UsageError(CibenchError):
    """The command, a spec or an option is wrong."""

    exit_code = 2


class SpecError(UsageError):
    """A spec such as `copur:tau=2` cannot be parsed."""


class OptionError(UsageError):
    """A plugin option is unknown, has the wrong type or is out of range."""


class UnknownPluginError(UsageError):
    """No installed distribution provides a plugin of this name."""


class ThreatModelError(UsageError):
    """The threat model does not fit the data set or contradicts itself."""


class EnvironmentFault(CibenchError):
    """Something outside the command is wrong: a plugin, a file, a disk."""

    exit_code = 3


class PluginError(EnvironmentFault):
    """A requested plugin cannot be loaded, or two distributions claim its name."""


class DataError(EnvironmentFault):
    """A data file is absent, damaged or not in the documented format."""


class OutputError(EnvironmentFault):
    """Results cannot be written to, or read from, the given place."""


class SubmissionError(CibenchError):
    """A submission is refused: its structure, or what it claims, is not as it must be.

    Args:
        findings: everything that is wrong, a sentence each, where several things are.
    """

    exit_code = 4

    def __init__(self, message: str, findings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings) or (message,)


class EmptySelectionError(CibenchError):
    """The selection matches no cell."""

    exit_code = 5


class ContractError(CibenchError):
    """A plugin broke its contract; its cell fails, its siblings go on."""

    exit_code = 1


class KnowledgeError(ContractError):
    """An attack asked its victim for more than its threat model grants."""
