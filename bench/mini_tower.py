"""What the tower's own class heads name right, before any language model: the ceiling of the mini's answers.

    python bench/mini_tower.py --data DIR --run DIR

The heads are thrown away after the stage "pretrain"; its checkpoint in the run's `training/` still holds them.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from vlmamba import load
from vlmamba.data.packs import find_packs, open_pack, square_pixels
from vlmamba.train.checkpoint import load_newest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the packs")
    parser.add_argument("--run", type=Path, required=True, help="what `vlmamba train mini` wrote")
    arguments = parser.parse_args()
    vlm = load(arguments.run)
    tower, device = vlm.model.model.vision_tower, vlm.model.device
    found = load_newest(arguments.run / "training" / "pretrain" / "checkpoints")
    assert found is not None, "the run holds no checkpoint of the stage pretrain"
    norm = [
        found.weights[f"norm.{name}"].to(device, vlm.model.dtype) for name in ("weight", "bias")
    ]
    head = [
        found.weights[f"head.{name}"].to(device, vlm.model.dtype) for name in ("weight", "bias")
    ]
    names = sorted(("caltech101", "cifar10", "clothing", "fashion", "tiny64"))
    packs = {path.stem.split("_")[0]: path for name, path in find_packs(arguments.data).items()
             if "_dev" in name or "_validation" in name}  # fmt: skip
    sizes = {name: len(open_pack(packs[name]).classes) for name in names if name in packs}
    sizes["fashion"] = 10 if sum(sizes.values()) + 10 == len(head[0]) else 0
    start = 0
    for name in names:
        columns = slice(start, start + sizes.get(name, 0))
        start = columns.stop
        if name in packs:
            pack = open_pack(packs[name])
            right = 0
            pixels = torch.from_numpy(square_pixels(pack, 128))
            wanted = torch.from_numpy(pack.arrays["y"])
            for part, classes in zip(pixels.split(500), wanted.split(500), strict=True):
                values = part.to(device).permute(0, 3, 1, 2).to(vlm.model.dtype) / 127.5 - 1
                with torch.no_grad():
                    pooled = F.layer_norm(tower(values).mean(1), norm[0].shape, *norm)
                    logits = F.linear(pooled, *head)[:, columns]
                right += int((logits.argmax(1).cpu() == classes).sum())
            print(f"{name:12} {len(pack):6} {100 * right / len(pack):6.1f}%", flush=True)


if __name__ == "__main__":
    main()
