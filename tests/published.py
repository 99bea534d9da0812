"""Small checkpoints in the very layouts that others publish: names, files and config.json keys."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tiny_tokenizer
from torch import Tensor

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM

TEXT = MambaConfig(d_model=16, n_layer=2, vocab_size=304, d_state=4)


def language_tensors(config: MambaConfig = TEXT, seed: int = 3) -> dict[str, Tensor]:
    """Names as in transformers' MambaForCausalLM, the tied head included."""
    torch.manual_seed(seed)
    model = MambaLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # no norm is all ones
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def state_spaces(
    directory: Path, config: MambaConfig = TEXT, pickled: bool = True
) -> dict[str, Tensor]:
    """config.json with its eight keys and pytorch_model.bin; no tokenizer."""
    directory.mkdir()
    tensors = {
        name.replace("backbone.embeddings.", "backbone.embedding."): tensor
        for name, tensor in language_tensors(config).items()
    }
    settings = {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size - 3,
        "ssm_cfg": {"d_state": config.d_state},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (directory / "config.json").write_text(json.dumps(settings))
    if pickled:
        torch.save(tensors, directory / "pytorch_model.bin")
    else:
        save_file(tensors, directory / "model.safetensors")
    return tensors


def transformers_mamba(directory: Path, max_shard: str = "5GB") -> dict[str, Tensor]:
    """What MambaForCausalLM.save_pretrained writes, and the tokenizer."""
    import transformers

    config = transformers.MambaConfig(
        vocab_size=TEXT.vocab_size, hidden_size=16, num_hidden_layers=2, state_size=4,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = transformers.MambaForCausalLM(config)
    tensors = language_tensors()
    model.load_state_dict(tensors)
    model.save_pretrained(directory, max_shard_size=max_shard)
    save_tokenizer(directory)
    return tensors


def tower(
    directory: Path, kind: str, whole: bool = True, pickled: bool = False
) -> dict[str, Tensor]:
    """A dual CLIP or SigLIP checkpoint, or the tower alone, saved by transformers."""
    import transformers as t

    torch.manual_seed(7)
    sizes = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    }  # fmt: skip
    pictures = sizes | {"image_size": 16, "patch_size": 8}
    texts = sizes | {"vocab_size": 20, "max_position_embeddings": 8}
    if kind == "clip":
        config = t.CLIPConfig(vision_config=pictures, text_config=texts, projection_dim=16)
        model = t.CLIPModel(config) if whole else t.CLIPVisionModel(config.vision_config)
    else:
        config = t.SiglipConfig(vision_config=pictures, text_config=texts)
        model = t.SiglipModel(config) if whole else t.SiglipVisionModel(config.vision_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + 0.2)
    model.save_pretrained(directory)
    tensors = open_saved(directory)
    if pickled:
        tensors |= {
            "vision_model.embeddings.position_ids": torch.arange(5)[None]
        }  # as OpenAI's file
        torch.save(tensors, directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
    return tensors


def open_saved(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def save_tokenizer(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    tiny_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def projector(d_vision: int = 16, d_model: int = 16, layers: int = 2) -> dict[str, Tensor]:
    """LLaVA's mm_projector.bin: an MLP with GELUs between, so that names go 0, 2, 4."""
    torch.manual_seed(9)
    tensors = {}
    for layer in range(layers):
        name = f"model.mm_projector.{2 * layer}"
        tensors[f"{name}.weight"] = torch.randn(d_model, d_model if layer else d_vision)
        tensors[f"{name}.bias"] = torch.randn(d_model)
    return tensors


def cobra(directory: Path, layers: int = 3) -> dict[str, dict[str, Tensor]]:
    """A run's directory of Cobra: config.json and checkpoints/latest-checkpoint.pt, mappings inside mappings."""
    language = {
        "llm." + name.replace("backbone.embeddings.", "backbone.embedding."): tensor
        for name, tensor in language_tensors().items()
    }
    bridge = {
        name.replace("model.mm_projector.", "projector."): tensor
        for name, tensor in projector(layers=layers).items()
    }
    model = {"projector": bridge, "llm_backbone": language}
    (directory / "checkpoints").mkdir(parents=True)
    torch.save({"model": model}, directory / "checkpoints" / "latest-checkpoint.pt")
    settings = {"model": {"model_id": "cobra+3b", "arch_specifier": "no-align+fused-gelu-mlp"}}
    (directory / "config.json").write_text(json.dumps(settings))
    return model
