"""The command line. What a command needs is imported when it runs, so that `vlmamba --help` is quick."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from vlmamba import __version__
from vlmamba.commands.ablate import ablate
from vlmamba.commands.ask import ask
from vlmamba.commands.bench import bench
from vlmamba.commands.chat import chat
from vlmamba.commands.data import data
from vlmamba.commands.doctor import doctor
from vlmamba.commands.eval import evaluate
from vlmamba.commands.export_part import export_part
from vlmamba.commands.failure import BAD_USAGE, FAILED, CommandError
from vlmamba.commands.import_parts import import_parts
from vlmamba.commands.report import report
from vlmamba.commands.score import score
from vlmamba.commands.train import train

INTERRUPTED = 130  # as a shell reports Ctrl-C

# Where Typer keeps the errors of the command line differs between its versions; their family does not.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # pyright: ignore[reportAssignmentType]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a third of the time that --help may take
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, chat, train, ablate, score, report, bench, doctor):
    app.command()(command)
app.command("eval")(evaluate)
app.command("import")(import_parts)
app.add_typer(data, name="data")
app.command("export")(export_part)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vlmamba {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def vlmamba(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """VL-Mamba: ask questions about pictures, answered by a Mamba language model.

    \b
    vlmamba ask cat.jpg "What animal is this?"
    vlmamba chat cat.jpg
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(BAD_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 failed, 2 bad usage."""
    # Torch's threads wait asleep. Waiting busily, as is their habit, they starve whoever shares the cores,
    # and an answer takes several times as long on a machine that does anything else. Training has a machine
    # to itself and many small steps, which waking up would make half as long again.
    if list(sys.argv[1:] if arguments is None else arguments)[:1] not in (["train"], ["ablate"]):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(arguments, prog_name="vlmamba", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CommandError as failure:
        return _complain(str(failure), failure.code)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "vlmamba"
        message = " ".join(error.format_message().split()).rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
        return _complain(f"{message} ({path} --help shows how)", BAD_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _complain(message: str, code: int) -> int:
    print(f"vlmamba: {message}", file=sys.stderr)
    return code
