"""Tables of text and their Markdown, LaTeX and HTML."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A title, column names and rows of cells; `align` has an l (words) or r (numbers) for every column."""

    title: str
    header: list[str]
    rows: list[list[str]]
    align: str


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown under a heading."""
    rule = ["---" if side == "l" else "---:" for side in table.align]
    lines = [table.header, rule, *table.rows]
    cells = [[_one_line(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join([f"## {table.title}", "", *(f"| {' | '.join(line)} |" for line in cells)])


def to_latex(table: Table) -> str:
    """A table environment for the booktabs package."""
    header, *rows = (
        "    " + " & ".join(map(latex_text, row)) + r" \\" for row in [table.header, *table.rows]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_text(table.title)}}}",
            rf"  \begin{{tabular}}{{{table.align}}}",
            r"    \toprule",
            header,
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def latex_page(remarks: Sequence[str], tables: Sequence[Table]) -> str:
    """Remarks and the tables below them."""
    noted = [rf"\par\noindent {latex_text(remark)}" for remark in remarks]
    drawn = [to_latex(table) for table in tables]
    return "\n\n".join([r"% needs \usepackage{booktabs}", *noted, *drawn]) + "\n"


def to_html(table: Table) -> str:
    """A table element whose first column heads its rows, under its title."""
    header = "".join(
        f'<th scope="col" class="{side}">{html.escape(cell)}</th>'
        for cell, side in zip(table.header, table.align, strict=True)
    )
    rows = "".join(f"<tr>{_html_cells(row, table.align)}</tr>" for row in table.rows)
    title = html.escape(table.title)
    return (
        f'<h3>{title}</h3><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table aria-label="{title}">'
        f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _html_cells(row: Sequence[str], align: str) -> str:
    first, *others = map(html.escape, row)
    cells = (f'<td class="{side}">{x}</td>' for x, side in zip(others, align[1:], strict=True))
    return f'<th scope="row" class="{align[0]}">{first}</th>{"".join(cells)}'


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"$^{\dagger}$",
    "±": r"$\pm$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
_LATEX_SIGNS = re.compile("|".join(map(re.escape, _LATEX)))


def latex_text(text: str) -> str:
    """Text with LaTeX's own signs escaped."""
    return _LATEX_SIGNS.sub(lambda match: _LATEX[match[0]], _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
