"""The smallest model, tokenizer and processor that fit together, for transformers' side of them."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from vlmamba.integrations.transformers import VLMambaConfig, VLMambaForConditionalGeneration
from vlmamba.processing import ImageSettings, Processor

EOS, PAD, IMAGE = 0, 1, 2
SPECIAL = ["<|endoftext|>", "<|padding|>", "<image>"]
PATCHES = 4
TOWER = {
    "model_type": "siglip_vision_model", "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
}  # fmt: skip
MAMBA = {
    "model_type": "mamba", "hidden_size": 20, "num_hidden_layers": 2, "vocab_size": 260, "state_size": 4,
    "time_step_rank": 3,
}  # fmt: skip


def small_config(vision: dict | None = None, text: dict | None = None, **changes) -> VLMambaConfig:
    return VLMambaConfig(
        vision_config={**TOWER, **(vision or {})},
        text_config={**MAMBA, **(text or {})},
        connector_config={"d_state": 3},
        image_token_id=IMAGE,
        **changes,
    )


def loud(model: torch.nn.Module) -> torch.nn.Module:
    """Noise on every matrix, so that what was read first still changes the next token."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def small_model(config: VLMambaConfig | None = None) -> VLMambaForConditionalGeneration:
    torch.manual_seed(0)
    return loud(VLMambaForConditionalGeneration(config or small_config())).eval()


def small_processor() -> Processor:
    """A tokenizer of single bytes after the special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return Processor(tokenizer, ImageSettings(8), PATCHES, image_token_id=IMAGE)


def row(*parts: int | str) -> Tensor:
    """Token ids (1, l): numbers as they are, "image" as one picture's tokens."""
    ids = [i for part in parts for i in ([IMAGE] * PATCHES if part == "image" else [part])]
    return torch.tensor([ids])


def pixels(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def padded(*rows: Tensor) -> dict[str, Tensor]:
    """Rows padded on the left, and their mask."""
    longest = max(r.shape[1] for r in rows)
    pad = torch.nn.functional.pad
    return {
        "input_ids": torch.cat([pad(r, (longest - r.shape[1], 0), value=PAD) for r in rows]),
        "attention_mask": torch.cat(
            [pad(torch.ones_like(r), (longest - r.shape[1], 0)) for r in rows]
        ),
    }
