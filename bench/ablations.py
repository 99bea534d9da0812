"""Puts a folder of finished ablations on record, and their tables and plot into docs/ablations.md.

    vlmamba ablate all --set packs=DIR -o FOLDER
    python bench/ablations.py FOLDER [--commit C]

The record holds every run with its outcomes, question by question (`vlmamba/ablation/outcomes.py` reads them), and
every figure of the tables. `--commit`: the code that trained, where that was another machine's copy.
"""

import argparse
import json
from pathlib import Path

from record import circumstances

from vlmamba.ablation.outcomes import read_outcomes
from vlmamba.ablation.plot import forest_plot
from vlmamba.ablation.report import AblationReport, as_json, main_table, set_table
from vlmamba.ablation.rows import TABLES
from vlmamba.eval.tables import to_markdown

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- what bench/ablations.py wrote begins -->", "<!-- and ends -->"


def generated(report: AblationReport) -> str:
    """The part of the page that the script writes."""
    parts = [f"{remark[:1].upper()}{remark[1:]}\n" for remark in report.remarks]
    parts.append("![Differences in points, with 95 % intervals](ablations.svg)\n")
    for table in report.tables:
        parts.append(f"{to_markdown(main_table(report, table))}\n")
        sets = [set_table(report, table), *(set_table(report, table, b) for b in table.bases)]
        inner = "\n\n".join(
            to_markdown(one).replace("## ", "**", 1).replace("\n", "**\n", 1) for one in sets
        )
        parts.append(f"<details><summary>Set by set</summary>\n\n{inner}\n\n</details>\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `vlmamba ablate` wrote")
    parser.add_argument("--commit", help="the commit that trained (default: this checkout's)")
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "ablations.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "ablations.md")
    arguments = parser.parse_args()
    report = AblationReport(read_outcomes(arguments.folder), list(TABLES.values()))
    runs = [json.loads(p.read_text()) for p in sorted((arguments.folder / "runs").glob("*.json"))]
    head = circumstances("vlmamba ablate all; python bench/ablations.py FOLDER")
    head["commit"] = arguments.commit or head["commit"]
    head["hardware"] = {"trained on": sorted({run["device"] for run in runs})}
    head["versions"] = {"torch": sorted({run["torch"] for run in runs})}
    record = {**head, **as_json(report), "runs": runs}
    arguments.record.write_text(
        json.dumps(record, indent=None, separators=(",", ":")).replace("},{", "},\n{") + "\n"
    )
    page = arguments.page.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    arguments.page.write_text(f"{before}{BEGIN}\n\n{generated(report)}\n{END}{after}", "utf-8")
    arguments.page.with_suffix(".svg").write_text(forest_plot(report), "utf-8")


if __name__ == "__main__":
    main()
