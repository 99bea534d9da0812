"""Vision models of transformers as towers: the shape of their features, and patches on a grid."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig


@dataclass(frozen=True)
class Features:
    """What a tower gives for one picture: patch features of `width` on a `grid` (h_p, w_p)."""

    width: int
    grid: tuple[int, int]

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def patches(self, hidden: Tensor) -> Tensor:
        """A hidden state (b, l, d) or feature map (b, d, h_p, w_p) -> (b, p, d), without leading extra tokens."""
        if hidden.ndim == 4:
            return hidden.flatten(2).transpose(1, 2)  # (b, p, d)
        return hidden[:, -self.num_patches :]


def features_of(config: PreTrainedConfig, feature_layer: int) -> Features:
    """The features of a transformers vision model, found by sending it a picture without data.

    Raises ValueError when the model has no such layer or its features lie on no grid.
    """
    size = _pair(config.image_size)
    with torch.device("meta"):
        tower = AutoModel.from_config(config)
        picture = torch.empty(1, getattr(config, "num_channels", 3), *size)
        states = tower(pixel_values=picture, output_hidden_states=True).hidden_states
    if not -len(states) <= feature_layer < len(states):
        raise ValueError(
            f"vision_feature_layer {feature_layer} does not exist: {config.model_type} has {len(states)} hidden states"
        )
    shape = states[feature_layer].shape
    if len(shape) == 4:
        return Features(shape[1], (shape[2], shape[3]))
    return Features(shape[2], _grid(config, size, shape[1]))


def _grid(config: PreTrainedConfig, size: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    """Patches down and across: as the patch size says, or a square where layers have merged patches."""
    if (patch_size := getattr(config, "patch_size", None)) is not None:
        patch = _pair(patch_size)
        grid = size[0] // patch[0], size[1] // patch[1]
        if num_tokens >= grid[0] * grid[1]:
            return grid
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f"the {num_tokens} tokens of a {config.model_type} tower lie on no grid: use another vision_feature_layer"
        )
    return side, side


def _pair(value: Any) -> tuple[int, int]:
    """(rows, columns) of a size given as one number or two."""
    return (value, value) if isinstance(value, int) else tuple(value)
