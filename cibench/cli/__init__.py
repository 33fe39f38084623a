"""The command line: thin, one module per verb, each imported when it is used."""

from __future__ import annotations

import importlib
import os
import sys

import click
from click.shell_completion import CompletionItem

from .._errors import CibenchError
from .._version import VERSION

#: Verbs and the module each lives in, with the line `--help` shows.
VERBS = {
    "run": "Run defenses against attacks and print a table.",
    "plan": "Print what a run would do, and how long it might take.",
    "ls": "List defenses, attacks, data sets and more.",
    "info": "Describe one plugin: options, capabilities, citation.",
    "new": "Write a package for a plugin of your own.",
    "check": "Try plugins against what their kind promises.",
    "certify": "Say how many corrupted agents are provably harmless.",
    "data": "List, fetch and verify the files of data sets.",
    "show": "Show the table of a finished run, or one cell's record.",
    "reproduce": "Run one cell again and compare.",
    "merge": "Put several runs into one folder.",
    "compare": "Compare two runs cell by cell.",
    "report": "Report a finished run: tables, intervals, claims, figures.",
    "submit": "Make a bundle of a run, for a leaderboard.",
    "verify": "Check a submission: counts, witnesses, cells.",
    "leaderboard": "Build, check and extend published boards.",
    "cache": "List, explain and tidy up the cache.",
    "doctor": "Say what is installed and what is wrong.",
    "completion": "Print the script that completes in a shell.",
    "schema": "Print the JSON Schema of a cell's record.",
}


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f".{cmd_name}", __name__).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Verbs that begin so, without importing them; else options."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=line)
            for name, line in VERBS.items()
            if name.startswith(incomplete)
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or suggest the nearest one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from ..spec import did_you_mean

            near = did_you_mean(args[0], list(VERBS))
            raise click.UsageError(
                f"no command {args[0]!r}{near}; expected one of {', '.join(VERBS)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(VERSION, prog_name="cibench")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Benchmark defenses of collaborative inference.

    Many agents each send a block of features; some of them lie or fall silent. cibench
    measures how well a defense holds.

    \b
    cibench run --defense copur --attack pgd
    cibench ls
    """  # noqa: D301
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the `cibench` command: run, and turn errors into exit codes."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run the command line; return the exit code, the reason on standard error.

    0 all well; 1 a cell failed; 2 usage; 3 surroundings; 4 not reproduced, stale or
    refused; 5 nothing selected; 70 a bug in cibench; 130 interrupted.
    """
    if "_CIBENCH_COMPLETE" in os.environ:
        from .completion import register

        register()
    try:
        code = group.main(arguments, prog_name="cibench", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(
            "interrupted; finished cells are kept: the same command goes on from there",
            err=True,
        )
        return 130
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"error: {error.format_message()}", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except CibenchError as error:
        # A plugin's own message may have several lines.
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        return error.exit_code
    except SystemExit:
        # click's answer to a pipe whose reader left, as `| head` does.
        return 0
    except OSError as error:
        click.echo(f"error: standard output or a file: {error.strerror}", err=True)
        return 3
    except Exception as error:
        if os.environ.get("CIBENCH_DEBUG"):
            raise
        click.echo(
            f"internal error: {type(error).__name__}: {error} (a bug in cibench; set"
            " CIBENCH_DEBUG=1 for the traceback)",
            err=True,
        )
        return 70
