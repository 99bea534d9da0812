"""Where a training run begins: parts that were trained before, or parts with nothing learnt yet."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from vlmamba.checkpoints import find_directory
from vlmamba.config import ModelConfig
from vlmamba.model import VLMamba
from vlmamba.processing import ImageSettings, Processor, gpt_neox_tokens, read_tokenizer
from vlmamba.template import Template
from vlmamba.train.tokenizer import train_tokenizer
from vlmamba.weight_files import open_weights

log = logging.getLogger("vlmamba")


class Parts(Protocol):
    """What a recipe starts from."""

    def processor(
        self, config: ModelConfig, image: ImageSettings, template: Template
    ) -> Processor: ...

    def model(self, config: ModelConfig, seed: int) -> VLMamba: ...


@dataclass(frozen=True)
class FreshParts:
    """Random weights, and a tokenizer trained on `texts`."""

    texts: Iterable[str] = field(repr=False)

    def processor(self, config: ModelConfig, image: ImageSettings, template: Template) -> Processor:
        tokenizer = train_tokenizer(self.texts, config.text.vocab_size)
        return Processor(
            tokenizer, image, config.vision.num_patches, template,
            image_token_id=config.image_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )  # fmt: skip

    def model(self, config: ModelConfig, seed: int) -> VLMamba:
        torch.manual_seed(seed)
        model = VLMamba(config)
        # PyTorch's N(0, 1) would drown the patches; SigLIP starts its positions like this.
        positions = model.model.vision_tower.embeddings.position_embedding.weight
        nn.init.normal_(positions, std=config.vision.hidden_size**-0.5)
        return model


@dataclass(frozen=True)
class PublicParts:
    """Published weights: a directory each, or a hub id. The connector starts fresh (paper Sec. 4.1).

    vision: a CLIP or SigLIP checkpoint, whole or the tower alone; language: a Mamba checkpoint of state-spaces or
    of transformers. Raises FileNotFoundError for what is missing and ValueError, naming the tensor, for a
    checkpoint that does not hold the part that the configuration asks for.
    """

    vision: str
    language: str
    tokenizer: str = "EleutherAI/gpt-neox-20b"

    def processor(self, config: ModelConfig, image: ImageSettings, template: Template) -> Processor:
        tokenizer = read_tokenizer(find_directory(self.tokenizer) / "tokenizer.json")
        tokens = gpt_neox_tokens(tokenizer)
        return Processor(tokenizer, image, config.vision.num_patches, template, **tokens)

    def model(self, config: ModelConfig, seed: int) -> VLMamba:
        torch.manual_seed(seed)
        model = VLMamba(config)
        for part, source, prefixes in (
            (model.model.vision_tower, self.vision, ("vision_model.", "vision_tower.", "")),
            (model.model.language_model, self.language, ("backbone.",)),
        ):
            weights = open_weights(find_directory(source))
            load_part(part, weights, prefixes, source)
        return model


def load_part(
    part: nn.Module, weights: Mapping[str, Tensor], prefixes: tuple[str, ...], source: str
) -> None:
    """Copies a part's weights out of a checkpoint that may hold more; every tensor of the part must be there."""
    unused = set(weights)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            # state-spaces writes the table `embedding`, transformers `embeddings`.
            spellings = (name, name.replace("embeddings.weight", "embedding.weight"))
            found = [p + s for p in prefixes for s in spellings if p + s in weights]
            if not found:
                raise ValueError(
                    f"{source} has no tensor {prefixes[0]}{name}: is it the right checkpoint?"
                )
            tensor = weights[found[0]]
            if name == "embeddings.weight" and len(tensor) < len(parameter):
                padding = tensor.new_zeros(len(parameter) - len(tensor), tensor.shape[1])
                tensor = torch.cat([tensor, padding])  # the vocabulary padded to whole tiles
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"{source}: {found[0]} is {tuple(tensor.shape)}, the configuration asks for "
                    f"{tuple(parameter.shape)}"
                )
            if not tensor.isfinite().all():
                raise ValueError(f"{source}: {found[0]} is not finite: download it again")
            parameter.copy_(tensor)
            unused.discard(found[0])
    log.info("%s: %d tensors not used, such as %s", source, len(unused), sorted(unused)[:3])
