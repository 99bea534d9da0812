"""`vlmamba export`: a part of a model in another project's layout."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands import options
from vlmamba.commands.failure import FAILED, failing_with


class Format(str, Enum):
    """Whose layout."""

    transformers = "transformers"
    state_spaces = "state-spaces"
    gguf = "gguf"


class Part(str, Enum):
    """Which part."""

    language = "language"
    vision = "vision"


def export_part(
    source: Annotated[
        str, typer.Argument(help="A model directory, or anything that `import` reads.")
    ],
    format: Annotated[
        Format,
        typer.Option("--format", help="gguf is one file for llama.cpp, the others directories."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="What to write.")],
    part: Annotated[
        Part, typer.Option("--part", help="vision is for transformers only.")
    ] = Part.language,
    dtype: Annotated[
        options.StoredType | None,
        typer.Option(help="Stored type of the weights; their own if left out."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="The one in SOURCE, else GPT-NeoX's, if left out."),
    ] = None,
    safetensors: Annotated[
        bool,
        typer.Option("--safetensors", help="For state-spaces, which itself reads pickles only."),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print what became of every tensor as JSON.")
    ] = False,
) -> None:
    """Write a part of a model in another project's layout.

    \b
    vlmamba export my-model --format gguf --dtype float16 -o my-mamba.gguf
    vlmamba export my-model --format state-spaces -o for-mamba-ssm
    vlmamba export my-model --format transformers --part vision -o tower
    """  # fmt: skip
    from vlmamba.exchange.exporting import export_model

    options.check_new(output)
    with failing_with(FAILED):
        report = export_model(
            source, output, format.value, part.value, dtype=options.stored_type(dtype),
            tokenizer=tokenizer, pickled=not safetensors,
        )  # fmt: skip
    print(json.dumps(report.as_json()) if json_output else report.as_text())
