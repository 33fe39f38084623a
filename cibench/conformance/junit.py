"""Results as JUnit XML, which continuous integration servers read."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from .check import Result


def junit(results: Sequence[Result]) -> str:
    """One test suite for each plugin, one test case for each check."""
    root = ElementTree.Element("testsuites", name="cibench check")
    plugins = dict.fromkeys((each.kind, each.plugin) for each in results)
    for kind, name in plugins:
        own = [r for r in results if (r.kind, r.plugin) == (kind, name)]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{kind} {name}",
            tests=str(len(own)),
            failures=str(sum(r.status == "failed" for r in own)),
            skipped=str(sum(r.status in ("skipped", "known failure") for r in own)),
            errors="0",
            time=f"{sum(r.seconds for r in own):.3f}",
        )
        for result in own:
            _add(suite, result)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"cibench.{result.kind}.{result.plugin}",
        name=result.check,
        time=f"{result.seconds:.3f}",
    )
    detail = "".join(
        c if c.isprintable() or c in "\n\t" else "?" for c in result.detail
    )
    if result.status == "failed":
        first = detail.partition("\n")[0]
        ElementTree.SubElement(case, "failure", message=first).text = detail
    elif result.status != "passed":
        ElementTree.SubElement(case, "skipped", message=f"{result.status}: {detail}")
