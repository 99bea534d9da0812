"""Align and finetune over a mixture: next tokens behind a frozen tower, without one wait for the device.

The same loss as `train/loop.py` takes of any batch. A mixture, and a pool of what a tower made of one, put every
picture in the same place of its row, so nothing has to be looked up on the device, and the tower, which only looks, can
be compiled code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmamba.config import IGNORE_INDEX
from vlmamba.data.batches import Batch, Batches
from vlmamba.data.mixture import Mixture
from vlmamba.model import VLMamba
from vlmamba.train.loop import Objective
from vlmamba.train.pool import PoolBatches
from vlmamba.train.stages import StageConfig
from vlmamba.train.tower import compile_layers


def answering(model: VLMamba, batches: Batches, config: StageConfig) -> tuple[VLMamba, Objective]:
    """The model itself, and the objective of its answers about a mixture's pictures."""
    if isinstance(batches, Mixture):
        ids = batches.sources[0].input_ids[0]
    elif isinstance(batches, PoolBatches):
        ids = batches.pool.input_ids[0]
    else:
        raise ValueError(
            "this objective needs a mixture, in which every picture stands in the same place"
        )
    first = ids.tolist().index(model.config.image_token_id)
    tower = model.model.vision_tower
    if config.compile:
        compile_layers(tower.encoder.layers)
    core, patches = model.model, model.config.vision.num_patches

    def objective(_: VLMamba, batch: Batch) -> tuple[Tensor, Tensor]:
        features = batch.features
        if features is None:
            with torch.no_grad():
                features = tower(batch.pixel_values)
        pictures = core.connector(features, core.config.vision.grid)
        words = core.language_model.embeddings(batch.input_ids)
        behind = first + patches
        embeds = torch.cat([words[:, :first], pictures.to(words.dtype), words[:, behind:]], 1)
        hidden = core.language_model(embeds)
        targets = batch.labels[:, behind + 1 :]
        logits = model.lm_head(hidden[:, behind:-1]).float()
        total = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, (targets != IGNORE_INDEX).sum()

    return model, objective
