"""A model of a few thousand parameters, its data, and a stage short enough to run many times."""

import torch

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.batches import Batch
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.train.stages import StageConfig

IMAGE = 2
STAGE = StageConfig(
    "finetune", lr=1e-2, batch_size=2, steps=9, precision="float32", workers=0,
    log_interval=1, checkpoint_interval=4, weight_decay=0.1,
)  # fmt: skip


def make_model(seed: int = 0, tied: bool = True) -> VLMamba:
    """A model with 4 patches a picture and a vocabulary of 40."""
    torch.manual_seed(seed)
    vision = VisionConfig("siglip", 12, 20, 3, 2, 8, 4, 1e-6, "gelu_pytorch_tanh")
    text = MambaConfig(d_model=16, n_layer=2, vocab_size=40, d_state=5, tie_embeddings=tied)
    return VLMamba(ModelConfig(vision, ConnectorConfig(d_state=3), text, image_token_id=IMAGE))


class RandomBatches:
    """Two rows with a picture each, of which a varying number of tokens is learnt."""

    def __len__(self) -> int:
        return 5

    def batch(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, 40, (2, 15), generator=generator)
        ids[:, 1:5] = IMAGE
        learnt = torch.arange(15) >= 7 + index % 4
        return Batch(
            ids, torch.where(learnt, ids, IGNORE_INDEX),
            torch.randn(2, 3, 8, 8, generator=generator),
            sample_ids=(f"sample-{index}a", f"sample-{index}b"),
        )  # fmt: skip


def weights(model: VLMamba) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
