"""`vlmamba import`: published parts into a model directory."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands import options
from vlmamba.commands.failure import FAILED, failing_with

_SOURCE = "A directory, a file, a hub id (OWNER/NAME) or a file there (OWNER/NAME/FILE)."


class Kind(str, Enum):
    """The connectors."""

    mlp = "mlp"
    mlp_wide = "mlp-wide"
    vss_mlp = "vss-mlp"
    vss_l2 = "vss-l2"


class Scan(str, Enum):
    """The 2-D scans."""

    bsm = "bsm"
    csm = "csm"


def import_parts(
    source: Annotated[
        str, typer.Argument(help=f"A Mamba language model, or a whole model. {_SOURCE}")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The model directory to write.")
    ],
    vision: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="A CLIP or SigLIP checkpoint, whole or the tower."),
    ] = None,
    connector: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="A connector: LLaVA's mm_projector.bin, or a vlmamba model's."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The one beside the language model, else GPT-NeoX's, if left out.",
        ),
    ] = None,
    kind: Annotated[
        Kind, typer.Option("--kind", help="The connector to draw where none is given.")
    ] = Kind.vss_l2,
    scan: Annotated[Scan, typer.Option("--scan", help="Its 2-D scan.")] = Scan.bsm,
    seed: Annotated[int, typer.Option(help="What it is drawn from.")] = 0,
    dtype: Annotated[
        options.StoredType | None,
        typer.Option(help="Stored type of the weights; their own if left out."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the outputs with transformers' on the same files."),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print what became of every tensor as JSON.")
    ] = False,
) -> None:
    """Put a model together from published parts.

    \b
    vlmamba import state-spaces/mamba-2.8b-slimpj --vision google/siglip-so400m-patch14-384 -o my-model
    vlmamba import state-spaces/mamba-130m -o mamba-130m          a language model alone
    vlmamba import my-model --connector mm_projector.bin -o other
    """  # fmt: skip
    from vlmamba.config import ConnectorConfig
    from vlmamba.exchange.importing import import_model

    fresh = ConnectorConfig(kind=kind.value, scan=scan.value)
    options.check_new(output)
    with failing_with(FAILED):
        report = import_model(
            source, output, vision=vision, connector=connector, tokenizer=tokenizer,
            fresh=fresh, seed=seed, dtype=options.stored_type(dtype), check=check,
        )  # fmt: skip
    print(json.dumps(report.as_json()) if json_output else report.as_text())
