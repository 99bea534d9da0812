"""Parts alone, in transformers' layouts: a language model, and the vision tower."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmamba.config import MambaConfig, VisionConfig, text_to_dict, vision_to_dict
from vlmamba.exchange.layouts import LANGUAGE, TOWER
from vlmamba.exchange.writing import write_json
from vlmamba.processing import ImageSettings, resample_number


def language_name(name: str) -> str:
    """A tensor's name in transformers' MambaForCausalLM."""
    return name.replace(LANGUAGE, "backbone.")


def write_language_settings(directory: Path, text: MambaConfig, dtype: torch.dtype) -> None:
    """config.json of a MambaForCausalLM; end and padding as in the GPT-NeoX tokenizer."""
    settings = {
        "architectures": ["MambaForCausalLM"],
        **text_to_dict(text),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "dtype": str(dtype).removeprefix("torch."),
    }
    write_json(directory / "config.json", settings)


def tower_name(name: str) -> str:
    """A tensor's name in transformers' CLIPVisionModel and SiglipVisionModel."""
    return name.replace(TOWER, "vision_model.")


def last_norm(vision: VisionConfig) -> dict[str, Tensor]:
    """A final norm that changes nothing but scale: the tower has none, transformers' modules need one."""
    name = f"{TOWER}post_layernorm."
    return {
        f"{name}weight": torch.ones(vision.hidden_size),
        f"{name}bias": torch.zeros(vision.hidden_size),
    }


def write_tower_settings(
    directory: Path, vision: VisionConfig, image: ImageSettings, dtype: torch.dtype
) -> None:
    """config.json of a tower that ends at its feature layer, and how its pictures are normalised."""
    name = "CLIP" if vision.layout == "clip" else "Siglip"
    settings: dict[str, Any] = {
        "architectures": [f"{name}VisionModel"],
        **vision_to_dict(vision),
        "num_hidden_layers": vision.num_layers_used,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if vision.layout == "siglip":
        settings["vision_use_head"] = False
    write_json(directory / "config.json", settings)
    pictures = {
        "image_processor_type": f"{name}ImageProcessor",
        "do_center_crop": False,
        "size": {"height": image.image_size, "width": image.image_size},
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": resample_number(image.resample),
    }
    write_json(directory / "preprocessor_config.json", pictures)
