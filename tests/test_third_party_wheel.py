"""A stranger's distribution, built and installed as strangers do; no network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.slow

PYPROJECT = """
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "acme-clip"
    version = "4.5.6"
    dependencies = ["cibench"]

    [project.entry-points.cibench]
    "defenses.acme-clip" = "acme_clip"
    "attacks.acme-broken" = "acme_broken"

    [tool.setuptools]
    py-modules = ["acme_clip", "acme_broken"]
"""
MODULE = '''
    """Clip every feature to the range seen in training."""

    from __future__ import annotations

    from dataclasses import dataclass
    from typing import Annotated, ClassVar, final

    import torch
    from cibench import AbstractDefense, FusionCenter, Training, hookimpl
    from msgspec import Meta


    @final
    @dataclass(frozen=True, kw_only=True)
    class AcmeClip(AbstractDefense):
        """Clip."""

        name: ClassVar[str] = "acme-clip"

        slack: Annotated[float, Meta(ge=0)] = 0.5

        def fit(
            self, training: Training, *, generator: torch.Generator
        ) -> FusionCenter:
            """Fit."""
            return training.undefended


    @hookimpl
    def cibench_defenses() -> list[type[AbstractDefense]]:
        """Provide `acme-clip`."""
        return [AcmeClip]
'''


def call(*arguments, cwd, path=None, status=0):
    # No variable of the surroundings may add a path or colours.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"NO_COLOR": "1", "COLUMNS": "200"}
    if path:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the distribution was installed from its wheel."""
    tmp = tmp_path_factory.mktemp("acme")
    source, wheels, target = tmp / "source", tmp / "wheels", tmp / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(dedent(PYPROJECT))
    (source / "acme_clip.py").write_text(dedent(MODULE))
    (source / "acme_broken.py").write_text("raise SystemExit('acme is closed')\n")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    offline = ("--quiet", "--no-index", "--no-deps")
    call(
        *pip, "wheel", *offline, "--no-build-isolation", "-w", str(wheels), ".",
        cwd=source,
    )  # fmt: skip
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name == "acme_clip-4.5.6-py3-none-any.whl"
    call(*pip, "install", *offline, "--target", str(target), str(wheel), cwd=tmp)
    return target


def python(site, script, **options):
    return call(
        sys.executable, "-c", dedent(script), cwd=site.parent, path=site, **options
    )


def cibench(site, *arguments, **options):
    program = str(Path(sys.executable).with_name("cibench"))
    return call(program, *arguments, cwd=site.parent, path=site, **options)


def test_it_is_listed_with_its_distribution_and_not_imported(site):
    script = """
        import sys
        from cibench.registry import Registry
        entry = Registry().entry("defense", "acme-clip")
        print(entry.distribution, entry.version, entry.summary, sep="|")
        assert not {"torch", "acme_clip"} & set(sys.modules)
    """
    title = "Clip every feature to the range seen in training."
    assert python(site, script).stdout.strip() == f"acme-clip|4.5.6|{title}"


def test_it_loads_and_is_configured_by_a_spec(site):
    script = """
        from cibench.registry import Registry
        from cibench.spec import Spec, canonical
        plugin = Registry().configure("defense", Spec.parse("acme-clip[slack=2]"))
        print(type(plugin).__module__, canonical(plugin))
    """
    assert python(site, script).stdout.split() == ["acme_clip", "acme-clip:slack=2.0"]


def test_its_broken_part_breaks_nothing_else(site):
    script = """
        from cibench._errors import PluginError
        from cibench.registry import Registry
        registry = Registry()
        try:
            registry.load("attack", "acme-broken")
        except PluginError as error:
            print(error)
        assert registry.load("defense", "acme-clip").name == "acme-clip"
        assert registry.load("attack", "pgd").name == "pgd"
    """
    printed = python(site, script).stdout
    assert "(acme_broken, from acme-clip 4.5.6) cannot be loaded" in printed
    assert "SystemExit: acme is closed" in printed


def test_the_command_line_lists_it(site):
    lines = cibench(site, "ls", "defenses").stdout.splitlines()
    (line,) = (line for line in lines if "acme-clip" in line)
    assert "4.5.6" in line
    assert any("copur" in line and "cibench" in line for line in lines)


def test_the_command_line_lists_it_as_json(site):
    listed = cibench(site, "ls", "defenses", "--json").stdout
    (entry,) = (e for e in json.loads(listed) if e["name"] == "acme-clip")
    assert entry["kind"] == "defense"
    assert "4.5.6" in json.dumps(entry)


def test_listing_survives_its_broken_part(site):
    assert "acme-broken" in cibench(site, "ls", "attacks").stdout


def test_asking_for_its_broken_part_is_an_environment_error(site):
    failed = cibench(site, "run", "--attack", "acme-broken", status=3)
    assert "acme-clip 4.5.6" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_wrong_option_is_a_usage_error(site):
    arguments = ("run", "--defense", "acme-clip:slac=1", "--attack", "pgd")
    failed = cibench(site, *arguments, status=2)
    assert "did you mean 'slack'" in failed.stderr
