"""What a shell offers to complete, asked by a real bash where that matters."""

import contextlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from cibench.cli import VERBS, _completing, group, invoke
from cibench.cli.completion import VARIABLE
from cibench.registry import default_registry

BIN = str(Path(sys.executable).parent)
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
DEFENSES = default_registry().names("defense")

#: Lines, and what replaces what bash takes for the last word: it breaks at : and =.
LINES = {
    "cibench ru": ["run"],
    "cibench c": [verb for verb in VERBS if verb.startswith("c")],
    "cibench run --def": ["--defense"],
    "cibench run -d copur-": ["copur-refit", "copur-smoothed"],
    "cibench run -d ": [*DEFENSES, "all"],
    "cibench run --defense=copur-r": ["copur-refit"],
    "cibench run -d copur:ta": ["tau="],
    "cibench run -d copur:solver=paper,ma": [
        "paper,manifold=",
        "paper,max_iterations=",
    ],
    "cibench run -d copur:solver=p": ["paper"],
    "cibench run -d copur:refine=": ["true", "false"],
    "cibench run -d copur:tau=": ["none"],
    "cibench run -d copur:solver=paper,so": [],
    "cibench run -d copur[ref": ["copur[refine="],
    "cibench run -a missing:agents=1+pgd-": ["1+pgd-paper"],
    "cibench run -a missing:agents=1+pgd:kn": ["knowledge="],
    "cibench run -a flip+": [f"flip+{n}" for n in default_registry().names("attack")],
    "cibench run -a 'flip:am": ["amplification="],
    "cibench run -P copur.ta": ["copur.tau="],
    "cibench run -P copu": ["copur-refit.", "copur-smoothed.", "copur."],
    "cibench run -P copur.solver=paper,r": ["paper,released"],
    "cibench run --suite copur-t": ["copur-table1", "copur-table2"],
    "cibench run -d nobody:": [],
    "cibench run -d copur*": [],
    "cibench info vf": ["vflip"],
    "cibench check none vf": ["vflip"],
    "cibench ls da": ["datasets"],
    "cibench data fetch nus": ["nuswide"],
    "cibench data fe": ["fetch"],
    "cibench new de": ["defense"],
}
ASK = """
eval "$(cibench completion bash)"
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line}
    _cibench_completion cibench
    (IFS=$'\\t'; echo "${COMPREPLY[*]}")
done
"""


@needs_bash
def test_bash_offers_what_may_follow():
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK], input="".join(f"{line}\n" for line in LINES),
        env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line.split("\t") if line else [] for line in done.stdout.split("\n")[:-1]]
    assert done.stderr == ""
    offered = dict(zip(LINES, map(sorted, found), strict=True))
    assert offered == {line: sorted(words) for line, words in LINES.items()}


SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], ""),
    "zsh": (["-f", "-i"], "autoload -Uz compinit; compinit -u; "),
}


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes_a_spec_in_an_interactive_shell(name, tmp_path):
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    options, before = SHELLS[name]
    master, terminal = pty.openpty()
    shell = subprocess.Popen(
        [name, *options],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path,
        start_new_session=True,
        env=os.environ | {"PATH": PATH, "TERM": "dumb", "PS1": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    os.close(terminal)
    seen = b""

    def until(text):
        nonlocal seen
        deadline = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)

    try:
        os.write(master, f'{before}eval "$(cibench completion {name})"\n'.encode())
        os.write(master, b"cibench() { printf '<%s>' \"$@\"; echo; }; echo rea''dy\n")
        until(b"ready")
        os.write(master, b"cibench run -d copur:ta\t5,refi\tfalse -a mis\t --seeds 1\n")
        until(b"<run><-d><copur:tau=5,refine=false><-a><missing><--seeds><1>")
    finally:
        shell.kill()
        shell.wait()
        with contextlib.suppress(OSError):
            os.close(master)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cibench run -d copur:ta", ["copur:tau="]),
        ("cibench run -d copur:tau=5,refi", ["copur:tau=5,refine="]),
        ("cibench run -P copur.tau=5,no", ["copur.tau=5,none"]),
        ("cibench ru", [f"run\t{VERBS['run']}"]),
        ("cibench new defense x --licence M", ["MIT"]),
    ],
)
def test_fish_offers_what_may_follow(line, offered):
    script = "cibench completion fish | source; complete -C $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, line],
        env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == offered


def completions(shell, words, incomplete, monkeypatch):
    monkeypatch.setenv("COMP_WORDS", " ".join(["cibench", *words, incomplete]))
    given = incomplete if shell == "fish" else str(len(words) + 1)
    monkeypatch.setenv("COMP_CWORD", given)
    return get_completion_class(shell)(group, {}, "cibench", VARIABLE).complete()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_a_spec_for_a_word(shell, monkeypatch):
    found = completions(shell, ["run", "-d"], "copur:ta", monkeypatch)
    assert "copur:tau=" in found.replace(r"\:", ":")
    assert "copur-refit" in completions(shell, ["run", "-d"], "copur-", monkeypatch)


@pytest.mark.parametrize(
    ("words", "typed", "offered"),
    [
        (["run", "-d"], "Own.def-1:sl", ["Own.def-1:slack="]),
        (["run", "-d"], "Own.d", ["Own.def-1", "Own.def-1.b"]),
        (["run", "-P"], "Own.def-1.sl", ["Own.def-1.slack="]),
        (["run", "-P"], "Own.def-1.b.sl", ["Own.def-1.b.slack="]),
        (["run", "-P"], "Own.d", ["Own.def-1.", "Own.def-1.b."]),
    ],
)
def test_names_with_dots_are_names(words, typed, offered, monkeypatch):
    names = ["Own.def-1", "Own.def-1.b"]
    monkeypatch.setattr(_completing, "_names", lambda kinds: names)
    monkeypatch.setattr(_completing, "_kinds_of", lambda name: ["defense"])
    monkeypatch.setattr(
        _completing,
        "_types",
        lambda kind, name: {"slack": float} if name in names else {},
    )
    found = completions("fish", words, typed, monkeypatch)
    assert [line.removeprefix("plain,") for line in found.split()] == offered


def test_verbs_come_with_what_they_do_and_without_being_imported(monkeypatch):
    loaded = {name for name in sys.modules if name.startswith("cibench.cli.")}
    found = completions("fish", [], "do", monkeypatch)
    assert found == f"plain,doctor\t{VERBS['doctor']}"
    assert loaded == {name for name in sys.modules if name.startswith("cibench.cli.")}


def test_cells_of_a_run_are_offered(tmp_path, monkeypatch):
    (tmp_path / "cells").mkdir()
    for name in ("mfeat--pgd--copur--0--aa", "mfeat--pgd--none--0--bb"):
        (tmp_path / "cells" / f"{name}.json").touch()
    found = completions("fish", ["show", str(tmp_path)], "mfeat--pgd--c", monkeypatch)
    assert found == "plain,mfeat--pgd--copur--0--aa"
    assert completions("fish", ["show", str(tmp_path / "no")], "m", monkeypatch) == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_how_to_install_it(shell, capsys):
    assert invoke(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#")
    assert f"cibench completion {shell}" in script.partition("\n")[0]
    assert f"{VARIABLE}={shell}_complete" in script


def test_an_unknown_shell_is_refused(capsys):
    assert invoke(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err


def test_names_are_offered_without_torch():
    script = (
        "import sys\nfrom cibench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    line = "cibench run -d copur-r"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ
        | {VARIABLE: "bash_complete", "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,copur-refit", "False"]
