"""What became of every tensor: a table for people, JSON for programs."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from vlmamba.exchange.layouts import CONNECTOR, HEAD, LANGUAGE, TOWER
from vlmamba.exchange.plan import Placed, Plan

_PARTS = {
    TOWER: "vision tower",
    CONNECTOR: "connector",
    LANGUAGE: "language model",
    HEAD: "language model",
}


@dataclass(frozen=True)
class Report:
    """An import or export: the plan that was carried out, and what was found on the way."""

    title: str
    plan: Plan
    notes: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()  # differences from transformers, one a part

    def as_json(self) -> dict[str, Any]:
        """Every tensor by name."""
        return {
            "title": self.title,
            "parts": _parts(self.plan.placed.values()),
            "tensors": [
                _as_json(placed) for placed in [*self.plan.placed.values(), *self.plan.tied]
            ],
            "missing": [],  # a part with a missing tensor is refused
            "unused": [
                {"checkpoint": u.checkpoint.label, "tensor": u.published, "reason": u.reason}
                for u in self.plan.unused
            ],
            "checks": [dict(check) for check in self.checks],
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """A row for each part; below it what is more than copying."""
        rows = [("part", "from", "layout", "tensors", "numbers")]
        for part in _parts(self.plan.placed.values()):
            rows.append(
                (
                    part["part"],
                    part["from"],
                    part["layout"],
                    str(part["tensors"]),
                    f"{part['numbers']:,}",
                )
            )
        lines = [self.title, "", *_table(rows), ""]
        for fate in ("reshaped", "padded"):
            lines += _listed(fate, [p for p in self.plan.placed.values() if p.fate == fate])
        lines += _listed("tied to the embeddings", self.plan.tied)
        grouped = defaultdict(list)
        for unused in self.plan.unused:
            grouped[unused.checkpoint.label, unused.reason].append(unused.published)
        for (label, reason), names in grouped.items():
            lines.append(f"not used, {label}: {len(names)} ({reason}), such as {names[0]}")
        if not self.plan.unused:
            lines.append("not used: none")
        lines.append("missing: none")
        for check in self.checks:
            lines.append("check of the {part} against transformers: {verdict}".format(**check))
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _parts(placed: Iterable[Placed]) -> list[dict[str, Any]]:
    tensors: Counter[tuple[str, str, str]] = Counter()
    numbers: Counter[tuple[str, str, str]] = Counter()
    for p in placed:
        part = next(name for prefix, name in _PARTS.items() if p.name.startswith(prefix))
        source, layout = (
            ("drawn", "")
            if p.checkpoint is None
            else (p.checkpoint.label, p.checkpoint.layout.name)
        )
        tensors[part, source, layout] += 1
        numbers[part, source, layout] += prod(p.shape)
    return [
        {"part": part, "from": source, "layout": layout, "tensors": count, "numbers": numbers[part, source, layout]}
        for (part, source, layout), count in tensors.items()
    ]  # fmt: skip


def _as_json(placed: Placed) -> dict[str, Any]:
    source = placed.checkpoint
    return {
        "name": placed.name,
        "shape": list(placed.shape),
        "fate": placed.fate,
        "checkpoint": source and source.label,
        "tensor": placed.published,
        "published_shape": source
        and placed.published
        and list(source.weights[placed.published].shape),
    }


def _listed(what: str, placed: Sequence[Placed]) -> list[str]:
    return [] if not placed else [f"{what}: {len(placed)}, such as {placed[0].published}"]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = {3, 4}
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
