"""The vision tower: a ViT in CLIP's or SigLIP's layout, pixels -> patch features on a grid (paper Eq. 4).

Weights are named as in transformers' CLIPVisionModel and SiglipVisionModel. The tower ends at its feature
layer: layers above it, the final norm and the pooling head never touch the patch features and do not exist.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import VisionConfig


def _activation(x: Tensor, kind: str) -> Tensor:
    match kind:
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case "gelu_pytorch_tanh":
            return F.gelu(x, approximate="tanh")
        case _:
            return F.gelu(x)


class VisionEmbeddings(nn.Module):
    """Patches and their positions; CLIP's layout puts a class token first, SigLIP's has none."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        d = config.hidden_size
        clip = config.layout == "clip"
        self.patch_embedding = nn.Conv2d(
            config.num_channels, d, config.patch_size, config.patch_size, bias=not clip
        )
        if clip:
            self.class_embedding = nn.Parameter(torch.randn(d))
        self.position_embedding = nn.Embedding(config.num_patches + int(clip), d)
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self._projected(pixel_values)  # (b, p, d)
        if self.clip:
            token = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
            patches = torch.cat([token, patches], 1)  # (b, 1+p, d)
        return patches + self.position_embedding.weight.to(patches.dtype)

    def _projected(self, pixel_values: Tensor) -> Tensor:
        """The convolution as one product, since its patches do not overlap: faster both ways, and row-major."""
        convolution = self.patch_embedding
        (side, _), (b, c, h, w) = convolution.kernel_size, pixel_values.shape
        rows, columns = h // side, w // side
        pixels = pixel_values[:, :, : rows * side, : columns * side]
        pixels = pixels.reshape(b, c, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        pixels = pixels.reshape(b, rows * columns, c * side * side)
        return F.linear(pixels, convolution.weight.flatten(1), convolution.bias)


class VisionAttention(nn.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.v_proj, self.out_proj = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        b, p, d = x.shape
        q, k, v = (
            projection(x).view(b, p, self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (b, heads, p, d / heads)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).reshape(b, p, d))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.hidden_act = config.hidden_act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(_activation(self.fc1(x), self.hidden_act))


class VisionLayer(nn.Module):
    """Pre-norm Transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers_used))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTower(nn.Module):
    """pixel_values (b, c, h, w) -> patch features (b, p, d_vision) of the feature layer, row-major."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = VisionEmbeddings(config)
        if config.layout == "clip":
            # transformers spells it so, and the checkpoints with it.
            self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = VisionEncoder(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Raises ValueError when the pictures are not of the size the tower was trained for."""
        size = self.config.image_size
        if tuple(pixel_values.shape[1:]) != (self.config.num_channels, size, size):
            raise ValueError(
                f"pixel_values are {tuple(pixel_values.shape)}, the tower takes (b, {self.config.num_channels}, "
                f"{size}, {size}): prepare pictures with the model's own processor"
            )
        x = self.embeddings(pixel_values.to(self.embeddings.patch_embedding.weight.dtype))
        if self.config.layout == "clip":
            return self.encoder(self.pre_layrnorm(x))[:, 1:]  # without the class token
        return self.encoder(x)
