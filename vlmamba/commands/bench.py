"""`vlmamba bench`: how fast this machine runs the model, in short."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, CommandError, failing_with
from vlmamba.commands.options import Device

if TYPE_CHECKING:
    from vlmamba.measure.short import Figure


def bench(
    what: Annotated[
        list[str] | None, typer.Argument(help="scan, decode, prefill, train; all if left out.")
    ] = None,
    device: Device = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time the scan and the language model: on a GPU in milliseconds, on a CPU against the reference backend.

    \b
    vlmamba bench
    vlmamba bench scan train --json
    """
    from vlmamba.measure.short import TIMED, measure
    from vlmamba.ops.backend import choose
    from vlmamba.vlm import choose_device

    whats = what or list(TIMED)
    unknown = [name for name in whats if name not in TIMED]
    if unknown:
        raise CommandError(f"{unknown[0]} is unknown: use {', '.join(TIMED)}", BAD_USAGE)
    with failing_with(BAD_USAGE, (ValueError, RuntimeError)):
        chosen = choose_device(device)
        backend = choose(chosen).backend
    with failing_with(FAILED, (RuntimeError,)):  # out of memory is one
        figures = list(measure(whats, chosen))
    if json_output:
        report = {
            "device": str(chosen),
            "backend": backend,
            "figures": [asdict(f) for f in figures],
        }
        print(json.dumps(report))
        return
    print(f"{chosen}, backend {backend}")
    for figure in figures:
        print(f"{figure.what:8} {_result(figure):>32}   {figure.size}")


def _result(figure: "Figure") -> str:
    if figure.times_as_fast is not None:
        return f"{figure.times_as_fast:.2f} x as fast as reference"
    return f"{figure.milliseconds:.2f} ms, {figure.tokens_per_s:,.0f} tokens/s"
