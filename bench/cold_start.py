"""Times `vlmamba ask` and `vlmamba --help`, from a cold start to the last character, against `import torch`.

    python bench/cold_start.py [--model DIR] [--repeats N] [--json FILE]

Without --model the embedded model is asked; `--model random` asks one of its size with random weights, whose
answer is cut at eight tokens. The three processes take turns, after one round that fills the disk cache and
does not count. A ratio is the median over the rounds, so that a busy machine hurts both sides of it alike.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from record import circumstances

SEED = 0
QUESTION = "What animal is this?"
TARGETS = {"vlmamba ask": 1.8, "vlmamba --help": 1 / 3}


def write_random_model(directory: Path) -> None:
    """A model of the embedded one's size: 128 x 128 pixels, 64 patches, 4096 tokens."""
    import torch

    from vlmamba.checkpoints import save_model
    from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
    from vlmamba.model import VLMamba
    from vlmamba.processing import ImageSettings, Processor
    from vlmamba.train.tokenizer import train_tokenizer

    torch.manual_seed(SEED)
    vision = VisionConfig(
        layout="siglip", hidden_size=256, intermediate_size=1024, num_hidden_layers=9, num_attention_heads=4,
        image_size=128, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh", feature_layer=-1,
    )  # fmt: skip
    text = MambaConfig(d_model=256, n_layer=8, vocab_size=4096)
    model = VLMamba(ModelConfig(vision, ConnectorConfig(), text, image_token_id=2))
    numbers = (f"{n:x} " * 3 for n in range(100_000, 140_000))
    tokenizer = train_tokenizer(numbers, text.vocab_size)
    processor = Processor(
        tokenizer, ImageSettings.for_tower(vision), vision.num_patches, image_token_id=2
    )
    save_model(directory, model, processor, storage_dtype=torch.float16)


def photograph() -> Path:
    """The cat that comes with scikit-image."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("the photograph comes with scikit-image: pip install scikit-image")
    return Path(found.origin).parent / "data" / "chelsea.png"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(model: str | None, repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, by what was run."""
    with tempfile.TemporaryDirectory() as directory:
        options: list[str] = []
        if model == "random":
            write_random_model(Path(directory) / "model")
            options = ["--model", f"{directory}/model", "--max-new-tokens", "8"]
        elif model is not None:
            options = ["--model", model]
        vlmamba = str(Path(sys.executable).parent / "vlmamba")
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "vlmamba ask": [vlmamba, "ask", str(photograph()), QUESTION, *options],
            "vlmamba --help": [vlmamba, "--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(repeats + 1):
            for name, command in commands.items():
                taken = seconds(command)
                if turn:
                    times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help='a directory, or "random"')
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where the record goes")
    arguments = parser.parse_args()
    times = measure(arguments.model, arguments.repeats)
    found = {
        name: statistics.median(
            taken / base for taken, base in zip(times[name], times["import torch"], strict=True)
        )
        for name in TARGETS
    }
    print(f"{'against import torch':24}{'ratio':>8}{'at most':>10}")
    for name, ratio in found.items():
        print(f"{name:24}{ratio:8.2f}{TARGETS[name]:10.2f}")
    if arguments.json:
        rounded = {name: [round(t, 3) for t in taken] for name, taken in times.items()}
        ratios = {name: round(ratio, 3) for name, ratio in found.items()}
        head = circumstances("python bench/cold_start.py", SEED)
        record = head | {
            "model": arguments.model or "embedded",
            "ratios": ratios,
            "seconds": rounded,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
