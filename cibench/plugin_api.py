"""The version of what plugins and cibench promise one another, and how it is checked.

A module says what it was written for with `CIBENCH_PLUGIN_API = "1.0"` at its top level,
which is read without importing it. `MAJOR.MINOR`: plugins of another major version do not
work; a higher minor version has more than this cibench offers. A module that says nothing
counts as written for the major version that is here.
"""

from __future__ import annotations

import ast
import re

from ._version import PLUGIN_API

#: The name of the declaration in a plugin's module.
DECLARATION = "CIBENCH_PLUGIN_API"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)


def declared_in(tree: ast.Module) -> object:
    """What a module declares; None where it declares nothing that can be read.

    Only a plain constant at the top level counts.
    """
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if DECLARATION in names:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            return value.value if isinstance(value, ast.Constant) else None
    return None


def misfit(declared: object, distribution: str) -> tuple[str, str] | None:
    """Why a plugin of a declared version does not work here, and what to do; or None.

    Args:
        declared: what its module declares, of any type; None for nothing.
        distribution: what it belongs to.
    """
    if declared is None:
        return None
    found = _VERSION.fullmatch(declared) if isinstance(declared, str) else None
    if found is None:
        return (
            f"expected {DECLARATION} as MAJOR.MINOR such as {PLUGIN_API!r}, got"
            f" {str(declared)[:40]!r}",
            f"correct the declaration in {distribution}",
        )
    major, minor = (int(part) for part in found.groups())
    here = tuple(int(part) for part in PLUGIN_API.split("."))
    told = (
        f"it is written for plugin API {major}.{minor}, this cibench has {PLUGIN_API}"
    )
    if major < here[0]:
        return told, f"upgrade {distribution}, or install an older cibench"
    if (major, minor) > here:
        return told, f"upgrade cibench, or install an older {distribution}"
    return None
