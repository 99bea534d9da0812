"""Tables of text and their Markdown, LaTeX and HTML."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A title, column names and rows of cells; the first `num_labels` columns are words, the others numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    num_labels: int = 1


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown under a heading."""
    rule = ["---"] * table.num_labels + ["---:"] * (len(table.header) - table.num_labels)
    lines = [table.header, rule, *table.rows]
    cells = [[_one_line(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join([f"## {table.title}", "", *(f"| {' | '.join(line)} |" for line in cells)])


def to_latex(table: Table) -> str:
    """A table environment for the booktabs package."""
    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    header, *rows = (
        "    " + " & ".join(map(latex_text, row)) + r" \\" for row in [table.header, *table.rows]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(table.title)}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            header,
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def to_html(table: Table) -> str:
    """A table element whose first column heads its rows."""
    header = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "".join(f"<tr>{_html_cells(row)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.title)}">'
        f'<table class="labels-{table.num_labels}"><caption>{html.escape(table.title)}</caption>'
        f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _html_cells(row: Sequence[str]) -> str:
    first, *others = map(html.escape, row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"$^{\dagger}$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
_LATEX_SIGNS = re.compile("|".join(map(re.escape, _LATEX)))


def latex_text(text: str) -> str:
    """Text with LaTeX's own signs escaped."""
    return _LATEX_SIGNS.sub(lambda match: _LATEX[match[0]], _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
