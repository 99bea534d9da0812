"""Pre-training of a vision tower that has no public weights, before the paper's two stages begin.

Two objectives share the tower. Where pictures have a class, linear heads on the mean patch name it, half of
the pictures blended in pairs (mixup, arXiv 1710.09412). And a small reader, an MLP connector and a short
Mamba decoder, answers questions about every unblended picture from its patches, which teaches places, counts,
colours and letters (captioning as pre-training: arXiv 2306.07915). Heads and reader are thrown away afterwards.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import IGNORE_INDEX, ConnectorConfig, ModelConfig
from vlmamba.data.batches import Batches
from vlmamba.data.mixture import Mixture, MixtureBatch
from vlmamba.model import VLMamba
from vlmamba.train.loop import Objective
from vlmamba.vision import VisionTower

LABEL_SMOOTHING = 0.1
MIXUP = 0.3  # both parameters of the Beta distribution of the blending weight


class TowerPretraining(nn.Module):
    """The tower with its heads and its reader; the forward pass returns the loss of a batch."""

    def __init__(
        self,
        tower: VisionTower,
        config: ModelConfig,
        num_classes: dict[str, int],
        reader_layers: int = 3,
    ) -> None:
        super().__init__()
        width = config.vision.hidden_size
        reader = replace(
            config,
            connector=ConnectorConfig(kind="mlp"),
            text=replace(config.text, n_layer=reader_layers),
        )
        self.reader = VLMamba(reader)
        self.reader.model.vision_tower = tower
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in num_classes.items()})

    @property
    def tower(self) -> VisionTower:
        return self.reader.model.vision_tower

    def forward(self, batch: MixtureBatch) -> Tensor:
        """The reader's mean loss over supervised tokens plus the mean loss of the class heads."""
        pixels, labels, blended = blend(batch, self.heads)
        patches = self.tower(pixels)
        pooled = self.norm(patches.mean(1))
        embeds = self.reader.model.connector(patches, self.reader.config.vision.grid)
        hidden = self.reader.model(batch.input_ids, image_embeds=embeds)
        total, count = self.reader.supervised_loss(hidden, labels)
        return total / count.clamp(min=1) + self.class_loss(pooled, batch, blended)

    def class_loss(
        self, pooled: Tensor, batch: MixtureBatch, blended: dict[str, tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Cross-entropy of every source with classes, weighted by its number of pictures."""
        losses, pictures, start = [], 0, 0
        for name, count in batch.counts.items():
            if name in self.heads:
                part = slice(start, start + count)
                logits = self.heads[name](pooled[part]).float()
                partner, weight = blended[name]
                classes = batch.classes[part]
                own = F.cross_entropy(
                    logits, classes, reduction="none", label_smoothing=LABEL_SMOOTHING
                )
                other = F.cross_entropy(
                    logits, classes[partner], reduction="none", label_smoothing=LABEL_SMOOTHING
                )
                losses.append((weight * own + (1 - weight) * other).sum())
                pictures += count
            start += count
        return torch.stack(losses).sum() / pictures

    @torch.no_grad()
    def accuracy(self, name: str, pixel_values: Tensor, classes: Tensor) -> Tensor:
        """The share of pictures that a class head names right."""
        logits = self.heads[name](self.norm(self.tower(pixel_values).mean(1)))
        return (logits.argmax(1) == classes).float().mean()


def blend(
    batch: MixtureBatch, heads: nn.ModuleDict
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Blends the first half of every source that has classes in pairs; a blended picture is not read.

    Returns pixels, labels, and by source the partner and the weight of every picture.
    """
    sharp = batch.pixel_values
    assert sharp is not None, "every sample of a mixture has a picture"
    pixels, labels = sharp.clone(), batch.labels.clone()
    blended, start = {}, 0
    for name, count in batch.counts.items():
        if name in heads:
            half = count // 2
            device = pixels.device
            partner = torch.arange(count, device=device)
            partner[:half] = partner[:half].flip(0)
            weight = torch.ones(count, device=device)
            draw = torch.distributions.Beta(MIXUP, MIXUP).sample((half,)).to(device)
            weight[:half] = draw
            own = sharp[start : start + half]
            w = draw.view(-1, 1, 1, 1)
            pixels[start : start + half] = w * own + (1 - w) * own.flip(0)
            labels[start : start + half] = IGNORE_INDEX
            blended[name] = (partner, weight)
        start += count
    return pixels, labels, blended


def tower_pretraining(model: VLMamba, batches: Batches) -> tuple[TowerPretraining, Objective]:
    """The tower of `model` with heads for every source of a mixture that has classes, and the objective."""
    if not isinstance(batches, Mixture):
        raise ValueError("a tower is pre-trained on a mixture of pictures with classes")
    classes = {source.name: source.num_classes for source in batches.sources if source.num_classes}
    tower = model.model.vision_tower
    return TowerPretraining(tower, model.config, classes).to(model.device), _mean_as_one_token


def _mean_as_one_token(model: TowerPretraining, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
    """The loss in the form that the loop sums."""
    loss = model(batch)
    return loss, torch.ones((), dtype=torch.long, device=loss.device)
