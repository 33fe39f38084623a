"""What every plugin keeps: options that are data, a description, a way through pickle."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from typing import Any

from ..citation import keys
from ..spec import Spec, build, canonical, option_types, resolved
from .check import Broken, check, expect


def check_options(trial: Any) -> None:
    """Options are the fields of a frozen, keyword-only dataclass with defaults."""
    plugin = trial.plugin
    cls = type(plugin)
    expect(
        dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen,  # type: ignore[attr-defined]
        "a frozen dataclass",
        cls.__name__,
    )
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        has_default = field.default is not dataclasses.MISSING
        expect(has_default, f"a plain default of option {field.name}", "none")
        expect(bool(field.kw_only), f"option {field.name} by keyword only", "by place")
    option_types(cls)  # raises where a type cannot be resolved
    cls()
    spec = canonical(plugin)
    kind = trial.__class__.__name__.removesuffix("Trial").lower()
    text = Spec.parse(spec)
    hidden = [f.name for f in dataclasses.fields(cls) if f.metadata]
    if not any(getattr(plugin, name) for name in hidden):
        again = build(kind, cls, text)
        expect(
            resolved(again) == resolved(plugin),
            f"the options again from its spec {spec!r}",
            f"{resolved(again)} for {resolved(plugin)}",
        )


def check_described(trial: Any) -> None:
    """The class has a name and says in a sentence what it does."""
    cls = type(trial.plugin)
    name = getattr(cls, "name", None)
    expect(isinstance(name, str) and bool(name), "a class variable name", f"{name!r}")
    expect(Spec.parse(str(name)).name == name, "a name that is a spec", f"{name!r}")
    text = inspect.getdoc(cls) if "__doc__" in vars(cls) else None
    generated = (text or "").startswith(f"{cls.__name__}(")  # as dataclasses write it
    expect(
        bool(text) and not generated and len((text or "").split()) >= 3,
        "a docstring of the class that says what it does",
        "none" if generated or not text else repr(text),
    )
    citation = getattr(cls, "citation", "")
    expect(isinstance(citation, str), "a citation as text", type(citation).__name__)
    bibtex = getattr(cls, "bibtex", "")
    expect(isinstance(bibtex, str), "bibtex as text", type(bibtex).__name__)
    try:
        keys(bibtex)
    except ValueError as error:
        raise Broken("bibtex that holds BibTeX entries alone", str(error)) from error


def check_plugin_pickles(trial: Any) -> None:
    """A configured plugin travels to workers and comes out the same."""
    plugin = trial.plugin
    try:
        again = pickle.loads(pickle.dumps(plugin))
    except Exception as error:  # whatever its state raises
        raise Broken(
            "a plugin that pickles", f"{type(error).__name__}: {error}"
        ) from error
    expect(type(again) is type(plugin), "its class again", type(again).__name__)
    expect(
        resolved(again) == resolved(plugin),
        f"the options {resolved(plugin)} again",
        f"{resolved(again)}",
    )


for _kind in ("defense", "attack", "dataset"):
    check(
        _kind,
        why="options decide what the command line accepts, the record and the cache key;"
        " one that is hidden, changes later or has no default gives wrong cached numbers.",
        mend="write @dataclass(frozen=True, kw_only=True) above the class, give each"
        " option a type and a plain default, and check values in __post_init__ without"
        " changing them.",
    )(check_options)
    check(
        _kind,
        why="`cibench ls` and `cibench info` are all that users see of it.",
        mend="set the class variable `name`, and say in the class' docstring what the"
        " method does, what its options mean and where it is from.",
    )(check_described)
    check(
        _kind,
        why="cells run in processes of their own, on other machines too.",
        mend="define the class at the top of a module and keep open files, locks and"
        " lambdas out of its options.",
    )(check_plugin_pickles)
