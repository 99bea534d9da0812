"""`vlmamba ask`: one question about pictures, answered on standard output."""

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmamba.commands import options
from vlmamba.commands.dropped import existing_file
from vlmamba.commands.failure import BAD_USAGE, CommandError, failing_with
from vlmamba.commands.notes import noted

if TYPE_CHECKING:
    from PIL import Image

    from vlmamba.engine import Answer
    from vlmamba.vlm import VLM


def ask(
    pictures: Annotated[
        list[str],
        typer.Argument(
            default_factory=list,
            show_default=False,
            metavar="PICTURE",
            help="Files, or - for a picture on standard input.",
        ),
    ],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What you want to know, in quotes.")
    ],
    model: options.Model = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    device: options.Device = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print answer, tokens, timings and notes as JSON.")
    ] = False,
) -> None:
    """Ask a question about one picture or several.

    \b
    vlmamba ask cat.jpg "What animal is this?"
    vlmamba ask before.png after.png "What has changed?"
    curl -s https://example.org/cat.jpg | vlmamba ask - "What is this?" --json
    """
    with noted(show=not json_output) as notes:
        opened = _open(pictures, question)
        start = time.perf_counter()
        sampling = options.sampling(max_new_tokens, temperature, top_p, seed)
        vlm = options.load(model, device)
        load_s = time.perf_counter() - start
        with failing_with(BAD_USAGE):
            reply = vlm.stream(opened, question, sampling)
        for piece in reply:
            if not json_output:
                print(piece, end="", flush=sys.stdout.isatty())
        print(json.dumps(_report(vlm, reply.answer, load_s, notes)) if json_output else "")


def _open(pictures: list[str], question: str) -> "list[Image.Image]":
    """The pictures, opened before torch is imported: a misspelt path is told at once."""
    from vlmamba.pictures import open_picture

    if existing_file(question) is not None:
        raise CommandError(
            f'the question comes last: vlmamba ask {question} "What is this?"', BAD_USAGE
        )
    if pictures.count("-") > 1:
        raise CommandError("- stands for standard input, which holds one picture only", BAD_USAGE)
    if "-" in pictures and sys.stdin.isatty():
        raise CommandError("- reads a picture from standard input: pipe one in", BAD_USAGE)
    with failing_with(BAD_USAGE):
        return [open_picture(sys.stdin.buffer.read() if p == "-" else p) for p in pictures]


def _report(vlm: "VLM", answer: "Answer", load_s: float, notes: list[str]) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": {"prompt": answer.num_prompt_tokens, "answer": len(answer.token_ids)},
        "timings": {"load_s": load_s, **asdict(answer.timings)},
        "device": str(vlm.model.device),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "notes": notes,
    }
