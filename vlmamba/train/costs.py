"""What training costs in arithmetic: floating-point operations of a batch, and what a GPU can do in a second.

Counted is what the model asks for, not what an implementation adds: nothing that is computed twice to save memory, no
padding. A multiplication and an addition are two operations; the backward pass costs as much as the forward pass for
the gradient of a layer's input, and once more for that of its weights.
"""

from dataclasses import dataclass

import torch
from torch import nn

from vlmamba.config import ModelConfig
from vlmamba.data.batches import Batch
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.scan2d import NUM_DIRECTIONS
from vlmamba.train.stages import TRAINED, StageConfig

# Dense bf16 operations a second, by a part of the device's name (the makers' data sheets; SXM where there are several).
PEAK_FLOPS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L4": 121e12, "4090": 165e12, "3090": 71e12,
}  # fmt: skip
SCAN_FLOPS = 9  # of a channel and a dimension of its state: decay, input, sum, output (arXiv 2312.00752's count)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations a second of a GPU that the table knows; None for any other device."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


@dataclass(frozen=True)
class Costs:
    """Operations of a forward and backward pass: of a token, a supervised token, and a picture."""

    token: float
    supervised: float
    picture: float

    def of(self, batch: Batch) -> float:
        """Operations of a batch on the host."""
        supervised = int((batch.labels[:, 1:] != IGNORE_INDEX).sum())
        return self.total(batch.token_count, supervised, batch.picture_count)

    def total(self, tokens: int, supervised: int, pictures: int) -> float:
        return tokens * self.token + supervised * self.supervised + pictures * self.picture


def costs(config: ModelConfig, stage: StageConfig) -> Costs:
    """What a stage's passes cost with a model of that shape; adapters themselves cost nothing to speak of."""
    with torch.device("meta"):
        model = VLMamba(config).model
    trains = {
        part: any(f"model.{part}.".startswith(prefix) for prefix in TRAINED[stage.name])
        for part in ("vision_tower", "connector", "language_model")
    }
    adapted = stage.lora.rank > 0
    trains["language_model"] &= not adapted
    # How often a part's forward cost is paid: once, once more if a gradient passes through it, once if it learns.
    through = {
        "vision_tower": False,
        "connector": trains["vision_tower"],
        "language_model": adapted or trains["connector"] or trains["vision_tower"],
    }
    passes = {part: 1 + (trains[part] or through[part]) + trains[part] for part in trains}
    vision, text = config.vision, config.text
    patches = vision.num_patches
    attention = 4 * patches * vision.hidden_size * vision.num_layers_used  # of a patch
    tower = patches * (2 * matrices(model.vision_tower) + attention)
    directions = NUM_DIRECTIONS[config.connector.scan] if "vss" in config.connector.kind else 0
    width = text.d_model if config.connector.kind == "vss-l2" else vision.hidden_size
    inner = config.connector.expand * width
    scans = (
        directions * inner * (SCAN_FLOPS * config.connector.d_state + 2 * config.connector.d_conv)
    )
    connector = patches * (2 * matrices(model.connector) + scans)
    block = text.d_inner * (SCAN_FLOPS * text.d_state + 2 * text.d_conv)
    language = 2 * matrices(model.language_model.layers) + text.n_layer * block
    return Costs(
        token=passes["language_model"] * language,
        supervised=passes["language_model"] * 2 * text.d_model * text.vocab_size,
        picture=passes["vision_tower"] * tower + passes["connector"] * connector,
    )


def matrices(part: nn.Module) -> int:
    """Weights that every position is multiplied with."""
    return sum(
        module.weight.numel()
        for module in part.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    )
