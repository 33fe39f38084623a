"""`cibench completion SHELL`: the script that lets a shell complete commands."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

#: The variable by which the shell asks.
VARIABLE = "_CIBENCH_COMPLETE"

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response line
    response=$(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" \\
        COMP_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    for line in $response; do
        case ${line%%%%,*} in
            dir) compopt -o dirnames 2> /dev/null ;;
            file) compopt -o default 2> /dev/null ;;
            *) COMPREPLY+=("${line#*,}") ;;
        esac
    done
    # An option still wants a value, a plugin of -P an option.
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2> /dev/null
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a replies told open closed
    local type value help
    replies=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2> /dev/null)}")
    for type value help in "${replies[@]}"; do
        case $type in
            plain)
                # An option still wants a value, a plugin of -P an option.
                if [[ $help != _ ]]; then told+=("$value:$help")
                elif [[ $value == *[=.] ]]; then open+=("$value")
                else closed+=("$value"); fi ;;
            dir) _path_files -/ ;;
            file) _path_files ;;
        esac
    done
    (( $#told )) && _describe -V unsorted told -U
    (( $#open )) && compadd -U -S '' -V unsorted -a open
    (( $#closed )) && compadd -U -V unsorted -a closed
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH = """\
function %(complete_func)s
    set -l replies (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \\
        COMP_CWORD=(commandline -ct) %(prog_name)s 2> /dev/null)
    for reply in $replies
        # What follows the first comma may have others.
        set -l parts (string split --max 1 , -- $reply)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

_INSTALL = {
    "bash": 'eval "$(cibench completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(cibench completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "cibench completion fish > ~/.config/fish/completions/cibench.fish",
}


class Bash(BashComplete):
    """Completion for bash, which takes `copur:tau=2` for five words.

    The line is split as the shell splits it into arguments, and what bash has taken for
    earlier words is left out of the answers.
    """

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Arguments before the cursor, and the one it stands in."""
        line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
        self._taken = incomplete[: len(incomplete) - len(_last(incomplete))]
        return words[1:], incomplete

    def format_completion(self, item: click.shell_completion.CompletionItem) -> str:
        """Type and value, without what bash does not replace."""
        return f"{item.type},{item.value.removeprefix(self._taken)}"


def _last(word: str) -> str:
    """What follows the last character that breaks words."""
    breaks = set(os.environ.get("COMP_BREAKS", ":=")) & set(":=")
    return word[1 + max([word.rfind(sign) for sign in breaks], default=-1) :]


class Zsh(ZshComplete):
    """Completion for zsh, which adds no space where a value is still to follow."""

    source_template = _ZSH


class Fish(FishComplete):
    """Completion for fish, of words that have commas."""

    source_template = _FISH


def register() -> None:
    """Have the shells served by the classes above."""
    add_completion_class(Bash, "bash")
    add_completion_class(Zsh, "zsh")
    add_completion_class(Fish, "fish")


@click.command("completion", short_help="Print the script that completes in a shell.")
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def command(shell: str) -> None:
    """Print a script that lets SHELL complete commands, plugins and their options.

    \b
    bash  eval "$(cibench completion bash)"    in ~/.bashrc
    zsh   eval "$(cibench completion zsh)"     in ~/.zshrc, after compinit
    fish  cibench completion fish > ~/.config/fish/completions/cibench.fish
    """  # noqa: D301
    from . import group

    register()
    found = get_completion_class(shell)
    assert found is not None
    click.echo(f"# {_INSTALL[shell]}\n")
    click.echo(found(group, {}, "cibench", VARIABLE).source())
