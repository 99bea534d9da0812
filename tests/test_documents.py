"""The documents: what they name exists, and their figures are those of the records."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "vlmamba" / "mini" / "README.md"]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_files_exist(document):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document):
    pattern = r"`((?:vlmamba|docs|bench|results|tests)/[a-z0-9_./-]+\.(?:py|md|json|txt))`"
    named = re.findall(pattern, document.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_model_card_states_the_record():
    card = (ROOT / "vlmamba" / "mini" / "README.md").read_text(encoding="utf-8")
    sets = json.loads((ROOT / "results" / "mini_quality.json").read_text())["sets"]
    for name, figures in sets.items():
        low, high = figures["interval_95"]
        row = next(line for line in card.splitlines() if f"(`{name}`)" in line)
        assert (
            f"| {figures['asked']:,} | {figures['accuracy']:.1f} % | {low:.1f} to {high:.1f} |"
            in row
        )


def test_the_readme_table_states_the_records():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ratios = json.loads((ROOT / "results" / "cpu.json").read_text())["ratios"]
    start = json.loads((ROOT / "results" / "cold_start.json").read_text())["ratios"]
    sets = json.loads((ROOT / "results" / "mini_quality.json").read_text())["sets"]
    shares = (
        sets[name]["accuracy"] for name in ("easy_vqa_test", "caltech101_dev_128", "cifar10_dev")
    )
    for figure in (
        f"{ratios['prefill']:.2f} x as fast",
        f"{ratios['decode, float32']:.2f} / {ratios['decode, bfloat16 weights']:.2f} x",
        f"{ratios['training step']:.2f} x as fast; 1/{ratios['peak memory of a training step']:.2f}",
        f"{start['vlmamba ask']:.2f} x the time of `import torch`",
        " / ".join(f"{share:.1f}" for share in shares) + " %",
    ):
        assert figure in readme


def test_readme_and_kernels_page_state_the_record_of_decoding():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "results" / "gpu_decode.json").read_text())
    rows = record["decode"]
    taken, floors = (
        " / ".join(f"{row[name]:.2f}" for row in rows) for name in ("engine_ms", "floor_ms")
    )
    assert f"| {taken}; {floors} | [gpu_decode]" in readme
    for row in rows:
        figures = f"{row['floor_ms']:.2f} | {row['engine_ms']:.2f} | {row['replay_ms']:.2f}"
        assert f"| batch {row['batch']} | {figures} |" in page
    first = record["first_token"]
    for name in (
        "reading_the_picture_ms",
        "reading_the_question_ms",
        "answer_ms",
        "in_one_pass_ms",
    ):
        assert f"| {first[name]:.1f} |" in page


def test_the_readme_shows_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make ask" in readme
    assert "make test" in readme


def test_the_kernels_page_states_the_record_of_training():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "results" / "gpu_model.json").read_text())["runs"]
    shapes = ((10, 800), (4, 2048), (2, 4096), (1, 8192))
    taken: dict[str, list[float]] = {}
    for b, l in shapes:
        for row in (row for run in runs for row in run["rows"]):
            if (row["what"], row["b"], row["l"]) == ("train", b, l):
                taken.setdefault(row.get("recompute", row["side"]), []).append(row["ms"])
    assert list(taken) == ["nothing", "scan", "mixer", "eager", "compiled"]
    for times in taken.values():
        assert len(times) == len(shapes)
        assert f"| {' | '.join(f'{ms:.1f}' for ms in times)} |" in page
    ours = [
        min(times) for times in zip(*(taken[k] for k in ("nothing", "scan", "mixer")), strict=True)
    ]
    for side in ("eager", "compiled"):
        ratios = (ms / least for ms, least in zip(taken[side], ours, strict=True))
        assert (
            f"| {' / '.join(f'{ratio:.2f}' for ratio in ratios)} x as fast | [gpu_model]" in readme
        )


def test_the_training_page_states_the_record_of_full_size():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "results" / "train_scale.json").read_text())["runs"]
    newest = {}
    for row in (row for run in runs if "gpu shared" not in run for row in run["variants"]):
        stage, form, length = row["stage"], row["form"], row["rows"][1]
        newest[stage, form, row["layout"], row["recompute"], length] = row
    for row in newest.values():
        memory = f"{row['gigabytes']:.1f} ({row['gigabytes expected']:.1f})"
        assert f"| {row['tokens a second']:,.0f} | {100 * row['mfu']:.1f} % | {memory} |" in page, (
            row["form"]
        )
    recipe = ("align", "packed", "scan", 3018), ("finetune", "packed", "mixer", 3840)
    hours = (
        sum(newest[(s, form, *rest)]["hours of the whole set"] for s, *rest in recipe)
        for form in ("one", "ddp")
    )
    assert f"| {' / '.join(f'{h:.1f}' for h in hours)} | [train_scale]" in readme


def test_the_kernels_page_states_the_record_of_reading():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "results" / "gpu_model.json").read_text())["runs"]
    names = {"ours": "vlmamba", "eager": "Transformer"}
    taken: dict[str, list[str]] = {}
    for row in sorted((row for run in runs for row in run["rows"]), key=lambda row: row["l"]):
        if row["what"] == "prefill" and row["ms"]:
            line = f"| batch {row['b']}, {names[row['side']]} |"
            taken.setdefault(line, []).append(f"{row['ms']:.{int(row['ms'] < 100)}f}")
    assert len(taken) == 4
    for line, figures in taken.items():
        assert f"{line} {' | '.join(figures)} |" in page


def test_the_kernels_page_states_the_record_of_the_ops():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "results" / "gpu_ops.json").read_text())
    both_ways = [row for row in record["rows"] if (row["b"], row["l"]) == (4, 2048)][:2]
    for row in both_ways:
        keys = ("forward_ms", "forward_floor_ms", "backward_ms", "backward_floor_ms")
        assert f"| {' | '.join(f'{row[key]:.3f}' for key in keys)} |" in page


def test_the_kernels_page_states_the_record_of_the_scan():
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "results" / "gpu_scan.json").read_text())
    assert all(row["right"] for row in record["correctness"])
    rows = {(row["b"], row["e"], row["l"]): row["cuda"] for row in record["timings"]}
    stated = re.findall(r"^\| (\d+), (\d+), (\d+) \|(.*)", page, re.MULTILINE)
    assert len(stated) == 9
    for b, e, l, cells in stated:
        row = rows[int(b), int(e), int(l)]
        assert f"| {row['inference_ms']:.3f} |" in cells
        assert f"| {row['backward_ms']:.2f} |" in cells
    forward, backward = (rows[8, 5120, 2048][way] for way in ("inference_ms", "backward_ms"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {forward:.2f} / {backward:.2f} ms;" in readme


def test_the_ablations_state_the_record():
    tables = json.loads((ROOT / "results" / "ablations.json").read_text())["tables"]
    stated = {
        ("4", "vss-l2-bsm", "mlp-wide"): "{} points more than an MLP of its size",
        ("4", "vss-l2-bsm", "mlp"): "{} more than the small MLP",
        ("5", "vss-l2-csm", "vss-l2-bsm"): "Four add {} points",
    }
    page = " ".join((ROOT / "docs" / "ablations.md").read_text(encoding="utf-8").split())
    for (number, variant, base), words in stated.items():
        (found,) = (
            figure
            for figure in tables[number]["figures"]
            if (figure["variant"], figure["base"], figure["group"]) == (variant, base, "all sets")
        )
        assert words.format(f"{found['value']:.1f} ± {found['half']:.1f}") in page
