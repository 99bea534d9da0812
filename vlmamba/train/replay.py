"""Loss and gradients of a step as the replay of one CUDA graph: for small models, whose launches outlast their work."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from vlmamba.capture import capture_graph
from vlmamba.data.batches import Batch

# Makes of a function over fixed tensors a faster one that does the same to the same tensors.
Record = Callable[[Callable[[], None]], Callable[[], None]]
WARM_UP = 3  # runs before the recording: compiled code and libraries settle in the first ones


def record_graph(run: Callable[[], None]) -> Callable[[], None]:
    """`run` as a CUDA graph on the current device, after it ran WARM_UP times; raises RuntimeError where it cannot be
    recorded, for example because it waits for the device."""
    return capture_graph(run, warm_up=WARM_UP)[0]


class ReplayedPasses:
    """Both passes over batches of one shape, recorded with the first batch; the others are copied into its place.

    passes: differentiates the loss of a batch with respect to `parameters`, whose gradients are None before, and
    returns its figures. What else it changes (running statistics, random states) is put back after the recording.
    """

    def __init__(
        self,
        passes: Callable[[Batch], Tensor],
        parameters: list[Parameter],
        buffers: list[Tensor],
        batch: Batch,
        record: Record = record_graph,
    ) -> None:
        self._batch = batch = replace(batch, **{n: t.clone() for n, t in batch.tensors().items()})
        figures = torch.empty(0)

        def run() -> None:
            nonlocal figures
            for parameter in parameters:
                parameter.grad = None
            figures = passes(batch)

        kept = [buffer.clone() for buffer in buffers]
        devices = [batch.input_ids.device] if batch.input_ids.is_cuda else []
        with torch.random.fork_rng(devices):
            self._replay = record(run)
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)
        self._figures = figures
        self._gradients = [(p, p.grad) for p in parameters if p.grad is not None]

    def __call__(self, batch: Batch) -> Tensor:
        """The figures of a batch; its gradients are left in the parameters.

        Raises ValueError for a batch of another shape than the first.
        """
        new = batch.tensors()
        for name, place in self._batch.tensors().items():
            if new[name].shape != place.shape:
                raise ValueError(
                    f"a recorded stage takes batches of one shape, {name} {tuple(place.shape)} became "
                    f"{tuple(new[name].shape)}: set replay=false"
                )
            place.copy_(new[name])
        self._replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._figures.clone()
