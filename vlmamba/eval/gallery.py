"""The report as one HTML file that needs nothing else: tables, a plot, and a gallery of every sample.

Answers are shown as text and never as markup. The page's own policy forbids every connection.
"""

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from vlmamba.eval.paper_table import COLUMNS
from vlmamba.eval.plot import bar_plot
from vlmamba.eval.report import (
    Report,
    all_notes,
    category_tables,
    diff_table,
    label,
    paper_table,
    score_table,
    tasks_of,
)
from vlmamba.eval.runs import Run
from vlmamba.eval.tables import to_html
from vlmamba.pictures import PictureError, open_picture

MAX_PICTURE_BYTES = 32_000_000  # of all thumbnails together, as they stand in the page


def as_html(report: Report) -> str:
    """The page. Thumbnails are embedded for the pictures that are at hand, up to MAX_PICTURE_BYTES."""
    items, paths = _items(report.runs)
    thumbnails = _thumbnails(paths)
    content = {
        "runs": [label(run) for run in report.runs],
        "tasks": [COLUMNS[task] for task in tasks_of(report.runs)],
        "items": items,
    }
    lacking = len(paths) - sum(map(bool, thumbnails))
    page = files("vlmamba.eval") / "page"
    parts = {
        "title": html.escape(f"Benchmarks: {', '.join(map(label, report.runs))}"),
        "css": (page / "gallery.css").read_text("utf-8"),
        "js": (page / "gallery.js").read_text("utf-8"),
        "summary": _summary(report, lacking, len(paths)),
        "data": script_json(content),
        "pictures": script_json(thumbnails),
    }
    template = (page / "gallery.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def script_json(content: Any) -> str:
    """JSON that may stand inside a script element, whatever markup its strings hold."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _items(runs: Sequence[Run]) -> tuple[list[list[Any]], list[Path]]:
    """An entry for every question, and the pictures that entries name by number, those of mistakes first.

    An entry is [task, id, category, prompt, gold, picture or -1, answers]; an answer is [raw, parsed, score, rule],
    or null where the run has none.
    """
    items, shown = [], []
    for number, task in enumerate(tasks_of(runs)):
        sides = [
            {sample.id: sample for sample in run.scores[task].samples} if task in run.scores else {}
            for run in runs
        ]
        pictures = [run.pictures.get(task, {}) for run in runs]
        for name in dict.fromkeys(name for side in sides for name in side):
            said = [side.get(name) for side in sides]
            first = next(sample for sample in said if sample is not None)
            answers = [s and [s.raw, s.parsed, round(s.score, 4), s.rule] for s in said]
            items.append([number, name, first.category, first.prompt, first.gold, -1, answers])
            shown.append(next((p[name] for p in pictures if name in p), None))
    mistaken = [any(a and a[2] < 1 for a in item[6]) for item in items]
    order = sorted(range(len(items)), key=lambda n: not mistaken[n])
    places = {path: n for n, path in enumerate(dict.fromkeys(shown[n] for n in order if shown[n]))}
    for item, path in zip(items, shown, strict=True):
        item[5] = places.get(path, -1)
    return items, list(places)


def _thumbnails(paths: Sequence[Path]) -> list[str]:
    """A data URI for each picture; empty for one that is not to be had, and for all after the page is full."""
    edge = 320 if len(paths) <= 1000 else 160
    thumbnails: list[str] = []
    with ThreadPoolExecutor() as pool:
        for batch in _batches(paths, 64):
            thumbnails += pool.map(lambda path: _thumbnail(path, edge), batch)
            if sum(map(len, thumbnails)) > MAX_PICTURE_BYTES:
                break
    room = MAX_PICTURE_BYTES
    for number, thumbnail in enumerate(thumbnails):
        room -= len(thumbnail)
        if room < 0:
            thumbnails[number] = ""
    return thumbnails + [""] * (len(paths) - len(thumbnails))


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    left = iter(paths)
    while batch := list(islice(left, size)):
        yield batch


def _thumbnail(path: Path, edge: int) -> str:
    try:
        picture = open_picture(path)
    except PictureError:
        return ""
    picture.thumbnail((edge, edge))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _summary(report: Report, lacking: int, num_pictures: int) -> str:
    runs = report.runs
    remarks = [f"<li>{html.escape(remark)}</li>" for remark in report.remarks]
    if lacking:
        remarks.append(
            f"<li>{lacking:,} of {num_pictures:,} pictures are not shown: not found, or no room</li>"
        )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in all_notes(report))
    legend = "".join(
        f'<li><span class="key run-{number % 8}"></span>{html.escape(label(run))}</li>'
        for number, run in enumerate(runs)
    )
    parts = [
        f'<ul class="remarks" aria-label="Remarks">{"".join(remarks)}</ul>' if remarks else "",
        f'<figure>{bar_plot(runs)}<figcaption><ul class="legend">{legend}'
        '<li><span class="key paper"></span>VL-Mamba in the paper</li></ul>'
        "Share of the full scale (MME: of 2,000) with 95 % intervals.</figcaption></figure>",
        to_html(score_table(runs)),
        to_html(diff_table(report)) if report.comparisons else "",
        f"<details><summary>Table 1 of the paper</summary>{to_html(paper_table(runs))}</details>",
    ]
    categories = "".join(map(to_html, category_tables(runs)))
    if categories:
        parts.append(f"<details><summary>By category</summary>{categories}</details>")
    parts.append(f"<details><summary>Notes</summary><ul>{notes}</ul></details>")
    return "\n".join(parts)
