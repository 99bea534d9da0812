"""Where a training run begins: parts that were trained before, or parts with nothing learnt yet."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from vlmamba.checkpoints import empty_model
from vlmamba.config import ModelConfig
from vlmamba.exchange.importing import Parts as OpenedParts
from vlmamba.exchange.importing import draw_connector, make_plan
from vlmamba.exchange.sources import locate, open_checkpoint
from vlmamba.model import VLMamba
from vlmamba.processing import ImageSettings, Processor, gpt_neox_tokens, read_tokenizer
from vlmamba.template import Template
from vlmamba.train.tokenizer import train_tokenizer
from vlmamba.weight_files import check_finite

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
    of transformers, or the one in a checkpoint of Cobra; either may be a whole vlmamba model. Raises FileNotFoundError
    for what is missing and ValueError, naming the tensor, for a checkpoint that does not hold the part that the
    configuration asks for.
    """

    vision: str
    language: str
    tokenizer: str = "EleutherAI/gpt-neox-20b"

    def processor(self, config: ModelConfig, image: ImageSettings, template: Template) -> Processor:
        tokenizer = read_tokenizer(locate(self.tokenizer, weights=False) / "tokenizer.json")
        tokens = gpt_neox_tokens(tokenizer)
        return Processor(tokenizer, image, config.vision.num_patches, template, **tokens)

    def model(self, config: ModelConfig, seed: int) -> VLMamba:
        parts = OpenedParts(
            open_checkpoint(self.language), open_checkpoint(self.vision), None,
            config.text, config.vision, config.connector,
        )  # fmt: skip
        plan = make_plan(parts)
        drawn = draw_connector(parts, plan, seed)
        model = empty_model(config)
        with torch.no_grad():
            for name, parameter in model.state_dict().items():
                if name not in plan.placed:
                    continue  # the head, which is the table of embeddings
                tensor = drawn[name] if name in drawn else plan.placed[name].read()
                check_finite(plan.placed[name].published or name, tensor)
                parameter.copy_(tensor)
        for checkpoint in parts.checkpoints:
            unused = [u.published for u in plan.unused if u.checkpoint is checkpoint]
            log.info(
                "%s: %d tensors not used, such as %s", checkpoint.label, len(unused), unused[:3]
            )
        return model
