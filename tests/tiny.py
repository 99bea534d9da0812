"""The smallest of everything: a tokenizer, a model and a processor that fit together."""

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.processing import ImageSettings, Processor
from vlmamba.template import Template

EOS, PAD, IMAGE = 0, 1, 2
_TEXT = ["User: What is this? Is it a red cat?\nAssistant: a red cat on the mat, yes.\n"]


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE trained on a few lines; every text is some ids and comes back whole."""
    return Tokenizer.from_str(_trained())


@lru_cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|padding|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    return tokenizer.to_str()


def tiny_config(**text) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig("siglip", 16, 32, 2, 2, 16, 8, 1e-6, "gelu_pytorch_tanh"),
        connector=ConnectorConfig(d_state=4),
        text=MambaConfig(**({"d_model": 16, "n_layer": 2, "vocab_size": 320, "d_state": 4} | text)),
        image_token_id=IMAGE,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def tiny_processor(template: Template | None = None) -> Processor:
    vision = tiny_config().vision
    image = ImageSettings.for_tower(vision)
    return Processor(tiny_tokenizer(), image, vision.num_patches, template, image_token_id=IMAGE)
