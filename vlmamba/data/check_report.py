"""What `vlmamba data check` found, as text for people and as JSON for programs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmamba.data.check import Fault, Report
from vlmamba.data.faults import FAULTS
from vlmamba.data.rows import fill_rows

_BARS = 16  # of the histogram, up to the longest sample that fits
_BAR_WIDTH = 40
_SHOWN = 3  # examples of each fault in the text


def as_text(report: Report, data: str, max_length: int, limit: float) -> str:
    """The report in words: what is wrong, how long the samples are, and whether that is too much."""
    lines = [
        f"{data}: {report.samples:,} samples, {report.different_pictures:,} different pictures"
    ]
    for reason, fault in _sorted(report):
        lines += ["", f"{FAULTS[reason]} ({reason}): {_counts(fault)}"]
        lines += [_example(reason, example) for example in fault.examples[:_SHOWN]]
        hidden = max(fault.samples, fault.pictures) - _SHOWN
        if hidden > 0:
            lines.append(f"  and {hidden:,} more")
    if report.lengths:
        lines += ["", *_histogram(report.lengths, max_length), *_pictures(report)]
        lines += [_fill(report.lengths, max_length)]
    return "\n".join([*lines, "", _verdict(report, limit)])


def as_json(report: Report, data: str, max_length: int, limit: float) -> dict[str, Any]:
    edges, counts = _bins(report.lengths, max_length)
    return {
        "data": data,
        "complete": report.complete,
        "samples": report.samples,
        "bad": report.bad,
        "bad_share": report.bad_share,
        "limit": limit,
        "ok": passes(report, limit),
        "different_pictures": report.different_pictures,
        "faults": {
            reason: {"samples": f.samples, "pictures": f.pictures, "examples": f.examples}
            for reason, f in _sorted(report)
        },
        "tokens": {
            "max_length": max_length,
            "total": sum(report.lengths),
            "longest": max(report.lengths, default=0),
            "histogram": [
                {"from": low, "below": high, "samples": n}
                for low, high, n in zip(edges, [*edges[1:], None], counts, strict=True)
            ],
        },
        "pictures_per_sample": {str(n): count for n, count in sorted(report.pictures.items())},
    }


def passes(report: Report, limit: float) -> bool:
    return report.complete and report.samples > 0 and report.bad_share <= limit


def _sorted(report: Report) -> list[tuple[str, Fault]]:
    return [(reason, report.faults[reason]) for reason in FAULTS if reason in report.faults]


def _counts(fault: Fault) -> str:
    samples = f"{fault.samples:,} sample{'s' * (fault.samples != 1)}"
    if not fault.pictures:
        return samples
    return f"{fault.pictures:,} picture{'s' * (fault.pictures != 1)} of {samples}"


def _example(reason: str, example: dict[str, str]) -> str:
    if reason == "bad-json":  # its detail begins with the very line
        return f"  {example['detail']}"
    name = f" {example['id']}" if example["id"] else ""
    detail = f": {example['detail']}" if example["detail"] else ""
    return f"  {example['place']} sample{name}{detail}"


def _bins(lengths: Sequence[int], max_length: int) -> tuple[list[int], list[int]]:
    """Lower edges of the bars, the last of what does not fit, and the samples in each."""
    width = -(-max_length // _BARS)
    edges = [*range(0, max_length, width), max_length + 1]
    counts, _ = np.histogram(lengths, [*edges, max(max(lengths, default=0), max_length) + 2])
    return edges, counts.tolist()


def _histogram(lengths: Sequence[int], max_length: int) -> list[str]:
    edges, counts = _bins(lengths, max_length)
    tops = [*(edge - 1 for edge in edges[1:]), None]
    lines = ["tokens a sample"]
    filled = [k for k, count in enumerate(counts) if count]
    bars = list(zip(edges, tops, counts, strict=True))[filled[0] : filled[-1] + 1]
    for low, top, count in bars:
        name = f"{low:,} or more" if top is None else f"{low:,} to {top:,}"
        bar = "#" * round(_BAR_WIDTH * count / max(counts))
        lines.append(f"  {name:>16} {count:>10,} {bar}".rstrip())
    middle, high = np.percentile(lengths, [50, 95])
    lines.append(
        f"  half have at most {middle:,.0f}, 95 % at most {high:,.0f}, the longest {max(lengths):,}; "
        f"{sum(lengths):,} together"
    )
    return lines


def _pictures(report: Report) -> list[str]:
    shown = ", ".join(f"{count:,} with {n}" for n, count in sorted(report.pictures.items()))
    return [f"pictures a sample: {shown}"]


def _fill(lengths: Sequence[int], max_length: int) -> str:
    fitting = [n for n in lengths if n <= max_length]
    rows = fill_rows(range(len(fitting)), fitting, max_length)
    share = sum(fitting) / (max_length * len(rows)) if rows else 0
    return f"packed: {len(rows):,} rows of {max_length:,} tokens, {share:.1%} full"


def _verdict(report: Report, limit: float) -> str:
    if not report.complete:
        return f"stopped before the end: {report.samples:,} samples and {report.different_pictures:,} pictures read"
    if not report.samples:
        return "there is no sample"
    if not report.bad:
        return "no sample is bad"
    relation = "within" if passes(report, limit) else "above"
    return (
        f"{report.bad:,} samples are bad, {100 * report.bad_share:.3g} %: "
        f"{relation} the limit of {100 * limit:.3g} %"
    )
