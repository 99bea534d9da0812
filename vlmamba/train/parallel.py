"""How the processes of a run share a stage: whole copies of the model (DDP), or a shard each (FSDP2).

All three forms below answer the same few questions, so that loop and checkpoints know nothing of the others. In each
a stage's model is called through one module, because DDP and FSDP2 act where a module's forward pass begins and ends.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.train.ranks import Ranks
from vlmamba.train.stages import StageConfig
from vlmamba.vision import VisionLayer

T = TypeVar("T")


class Called(nn.Module):
    """A model as a module whose forward pass is any function of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)


class Whole:
    """One process with the whole model; `model` is what computes, its parameters hold the gradients.

    `share`: what a gradient must be multiplied with to be the sum over all processes.
    """

    share = 1.0

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self._called: nn.Module = Called(model)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(model, *arguments), as a forward pass that the other processes make too."""
        return self._called(function, *arguments)

    def look(self, function: Callable[..., T], *arguments: Any) -> T:
        """As `call`, with nothing to learn from it."""
        with torch.no_grad():
            return self.call(function, *arguments)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Around a batch's passes; `last`: the gradients are complete after it."""
        return nullcontext()

    def forget(self) -> None:
        """Lets go of the gradients of the step before."""
        self.model.zero_grad(set_to_none=True)

    def complete(self) -> list[Tensor]:
        """The gradients after the last batch, this process's part of them, as plain tensors to be changed in place."""
        return [_local(p.grad) for p in self.model.parameters() if p.grad is not None]

    def square_sum(self) -> Tensor:
        """This process's part of the gradient's squared norm: the parts of all processes add up to it."""
        if not self.ranks.first:
            return torch.zeros((), device=self.ranks.device)
        return _square_sum(p.grad for p in self.model.parameters() if p.grad is not None)

    def whole(self, tensor: Tensor) -> Tensor:
        """A parameter or a moment, undivided; every process must ask for the same one."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def put_back(self, names: Iterable[str]) -> None:
        """Brings what was trained into the model that was given."""


class Copies(Whole):
    """DDP: every process has the whole model; gradients are averaged while the backward pass runs.

    Gradients lie in the buckets in which they travel, from the first batch of a step to the last: else those that are
    only added up would stand beside them, 11 GB for 2.8 B parameters.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        self.share = float(ranks.world)
        self._called = DistributedDataParallel(
            self._called,
            device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        for _ in range(2):  # after the first backward pass DDP makes its buckets anew
            super().forget()
            self.call(_nothing).backward()

    def forget(self) -> None:
        torch._foreach_zero_([p.grad for p in self.model.parameters() if p.grad is not None])  # pyright: ignore[reportPrivateImportUsage]

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        assert isinstance(self._called, DistributedDataParallel)
        return nullcontext() if last else self._called.no_sync()


class Shards(Whole):
    """FSDP2: every process holds a share of each matrix, and gathers a block's only while it computes with them.

    The blocks of tower and language model are units of their own; embeddings, head and connector form the last one,
    which stays gathered from the forward to the backward pass. With precision bf16 the matrices of blocks travel as
    bf16; the root's, and whatever in a block is not a plain matrix (A_log, D, biases, norms, convolutions; one part in
    three hundred), stay float32, the latter undivided: autocast reads them so, and the scan must.
    Masters, gradients and moments are float32 throughout.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, stage: StageConfig) -> None:
        if not isinstance(model, VLMamba):
            raise ValueError(
                f"stage {stage.name} trains more than the model's own parts, which cannot be sharded: "
                f"--set {stage.name}.parallel=ddp"
            )
        # The first block hands its input on as the residual, which nothing ever changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        copy = _copied(model, ranks.device)
        super().__init__(copy, ranks)
        self.share = float(ranks.world)
        self._original = model
        self._keeps_gathered = stage.parallel == "fsdp-grad-op"
        undivided = list(_undivided(copy, stage))
        self._undivided = [p for p in undivided if p.requires_grad]
        half = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        shared: dict[str, Any] = {
            "mesh": init_device_mesh(ranks.device.type, (ranks.world,)),
            "ignored_params": set(undivided),
        }
        for block in _blocks(copy):
            if not shared["ignored_params"].issuperset(block.parameters()):
                fully_shard(
                    block, **shared, reshard_after_forward=stage.parallel == "fsdp",
                    mp_policy=half if stage.precision == "bf16" else MixedPrecisionPolicy(),
                )  # fmt: skip
        fully_shard(self._called, **shared, reshard_after_forward=False)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """As `Whole.accumulating`. What stays gathered from a forward to a backward pass stays so until the step's last
        one, since no weight changes before: the peak is the same, and a step gathers once instead of once a batch."""
        if self._keeps_gathered:
            assert isinstance(self._called, FSDPModule)
            self._called.set_reshard_after_backward(last)
        return nullcontext()

    def look(self, function: Callable[..., T], *arguments: Any) -> T:
        """As `Whole.look`. No backward pass follows that lets go of the gathered weights, and they would be taken,
        bf16 as they travelled, for the masters."""
        seen = super().look(function, *arguments)
        for module in self._called.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return seen

    def complete(self) -> list[Tensor]:
        """As `Whole.complete`. Gradients of undivided parameters are averaged here; the others were on their way."""
        gradients = [p.grad for p in self._undivided if p.grad is not None]
        if gradients:
            flat = self.ranks.sum(torch.cat([g.flatten() for g in gradients])).div_(self.share)
            sizes = [g.numel() for g in gradients]
            for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
                gradient.copy_(mean.view_as(gradient))
        return super().complete()

    def square_sum(self) -> Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        divided = _square_sum(_local(g) for g in gradients if isinstance(g, DTensor))
        if not self.ranks.first:
            return divided
        return divided + _square_sum(g for g in gradients if not isinstance(g, DTensor))

    @torch.no_grad()
    def put_back(self, names: Iterable[str]) -> None:
        trained, into = (dict(m.named_parameters()) for m in (self.model, self._original))
        for name in names:
            into[name].copy_(self.whole(trained[name]))


def shared_out(model: nn.Module, ranks: Ranks, stage: StageConfig) -> Whole:
    """The form that `stage.parallel` names; a process that is alone has nothing to share.

    Raises ValueError for a model that cannot be sharded.
    """
    if ranks.world == 1:
        return Whole(model, ranks)
    return Copies(model, ranks) if stage.parallel == "ddp" else Shards(model, ranks, stage)


def _blocks(model: VLMamba) -> Iterator[nn.Module]:
    """The parts of equal make that the model is mostly made of, in the order in which they compute."""
    for module in model.modules():
        if isinstance(module, (VisionLayer, MambaBlock)):
            yield module


def _undivided(model: VLMamba, stage: StageConfig) -> Iterator[nn.Parameter]:
    """What every process keeps whole: a frozen tower unless asked otherwise, and the small parameters of blocks."""
    tower = list(model.model.vision_tower.parameters())
    kept = not stage.shard_tower and not any(p.requires_grad for p in tower)
    if kept:
        yield from tower
    seen = {id(p) for p in tower} if kept else set()
    for block in _blocks(model):
        for name, parameter in block.named_parameters():
            matrix = parameter.ndim == 2 and not name.endswith("A_log")
            if not matrix and id(parameter) not in seen:
                yield parameter


def _copied(model: VLMamba, device: torch.device) -> VLMamba:
    """A copy on `device` of a model that stays where it is, tied parameters tied."""
    moved: dict[int, Any] = {}
    for p in model.parameters():
        copy = p.detach().to(device, copy=True)
        moved[id(p)] = nn.Parameter(copy, requires_grad=p.requires_grad)
    return deepcopy(model, moved).to(device)


def _nothing(model: nn.Module) -> Tensor:
    """A loss that every trained parameter is part of and that is zero, as are its gradients."""
    return torch.stack([p.flatten()[:0].sum() for p in model.parameters() if p.requires_grad]).sum()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _square_sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(list(tensors)).square()
