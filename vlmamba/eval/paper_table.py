"""Tables 1 to 5 of the paper (VL-Mamba, arXiv:2403.13600), as printed there: ten benchmarks, eight in the ablations."""

from dataclasses import dataclass

# The columns by benchmark, in the table's order and under its names.
COLUMNS = {
    "vqav2": "VQA-v2",
    "gqa": "GQA",
    "scienceqa": "SQA-I",
    "textvqa": "VQA-T",
    "pope": "POPE",
    "mme": "MME",
    "mmbench": "MMB",
    "mmvet": "MM-Vet",
    "mmmu": "MMMU",
    "seed": "SEED",
}


@dataclass(frozen=True)
class PaperRow:
    """A method, its language model, its pretraining (PT) and instruction tuning (IT) samples, its scores."""

    method: str
    llm: str
    pretraining: str
    tuning: str
    scores: dict[str, float]


def _row(method: str, llm: str, pretraining: str, tuning: str, cells: str) -> PaperRow:
    scores = {
        task: float(cell) for task, cell in zip(COLUMNS, cells.split(), strict=True) if cell != "-"
    }
    return PaperRow(method, llm, pretraining, tuning, scores)


ROWS = (
    _row("MiniGPT-4", "Vicuna-7B", "5M", "5K", "- 32.2 - - - 581.7 23.0 - - -"),
    _row("BLIP-2", "Vicuna-13B", "129M", "-", "41.0 41.0 61.0 42.5 85.3 1293.8 - 22.4 - 46.4"),
    _row("InstructBLIP", "Vicuna-13B", "129M", "1.2M", "- 49.5 63.1 50.7 78.9 1212.8 - 25.6 - -"),
    _row("Shikra", "Vicuna-13B", "600K", "5.5M", "77.4 - - - - - 58.8 - - -"),
    _row("Otter", "LLaMA-7B", "-", "-", "- - - - - 1292.3 48.3 24.6 29.1 -"),
    _row("mPLUG-Owl", "LLaMA-7B", "2.1M", "102K", "- - - - - 967.3 49.4 - - -"),
    _row("IDEFICS-80B", "LLaMA-65B", "353M", "1M", "60.0 45.2 - 30.9 - - 54.5 - - -"),
    _row("Qwen-VL", "Qwen-7B", "1.4B", "50M", "78.8 59.3 67.1 63.8 - - 38.2 - - -"),
    _row("Qwen-VL-Chat", "Qwen-7B", "1.4B", "50M", "78.2 57.5 68.2 61.5 - 1487.5 60.6 - 32.9 58.2"),
    _row("LLaVA-1.5", "Vicuna-7B", "558K", "665K", "78.5 62.0 66.8 58.2 85.9 1510.7 64.3 30.5 - -"),
    _row(
        "LLaVA-1.5",
        "Vicuna-13B",
        "558K",
        "665K",
        "80.0 63.3 71.6 61.3 85.9 1531.3 67.7 35.4 - 68.2",
    ),
    _row(
        "MobileVLM-3B",
        "MobileLLaMA-2.7B",
        "558K",
        "665K",
        "- 59.0 61.2 47.5 84.9 1288.9 59.6 - - -",
    ),
    _row("LLaVA-Phi", "Phi-2-2.7B", "558K", "665K", "71.4 - 68.4 48.6 85.0 1335.1 59.8 28.9 - -"),
    _row("TinyGPT-V", "Phi-2-2.7B", "-", "-", "38.9 - - - - - - - - -"),
    _row(
        "VL-Mamba",
        "Mamba LLM-2.8B",
        "558K",
        "665K",
        "76.6 56.2 65.4 48.9 84.4 1369.6 57.0 32.6 30.6 60.5",
    ),
)
VL_MAMBA = ROWS[-1]

ABLATED = tuple(
    task for task in COLUMNS if task not in ("mmmu", "seed")
)  # columns of Tables 2 to 5


def _ablation(rows: dict[str, str]) -> dict[str, dict[str, float]]:
    return {
        name: dict(zip(ABLATED, map(float, cells.split()), strict=True))
        for name, cells in rows.items()
    }


_CLIP = "74.5 54.4 63.4 44.6 84.9 1381.8 55.8 30.6"
_SIGLIP = "76.7 55.4 66.3 47.5 85.2 1349.4 56.4 30.9"
_FINAL = "76.6 56.2 65.4 48.9 84.4 1369.6 57.0 32.6"
# Tables 2 to 5 by number: each row's scores.
ABLATIONS: dict[int, dict[str, dict[str, float]]] = {
    2: _ablation(
        {
            "Mamba-1.4B": "71.7 49.9 56.1 42.6 84.5 1277.7 46.9 24.0",
            "Mamba-2.8B-Pile": "73.6 53.0 60.8 42.7 84.7 1321.3 52.1 28.5",
            "Mamba-2.8B-Slimpj": _CLIP,
        }
    ),
    3: _ablation({"CLIP-ViT-L": _CLIP, "SigLIP-SO": _SIGLIP}),
    4: _ablation(
        {
            "MLP": _SIGLIP,
            "VSS-MLP": "76.7 54.9 65.4 45.6 85.3 1335.8 56.4 30.6",
            "VSS-L2": _FINAL,
        }
    ),
    5: _ablation({"BSM": _FINAL, "CSM": "76.6 55.8 64.2 48.8 85.0 1364.0 56.3 31.1"}),
}
