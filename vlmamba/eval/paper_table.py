"""Table 1 of the paper (VL-Mamba, arXiv:2403.13600): ten benchmarks, as printed there."""

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
