"""Passes of a fixed shape, recorded at their second use and replayed from then on."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from vlmamba.capture import Capture
from vlmamba.engine.turns import turns_on

# How many shapes are kept, the longest unused forgotten first.
MOST_RECORDED = 24
MOST_SEEN = 256


class _Recorded:
    """A function of tensors over buffers of its own."""

    def __init__(
        self, run: Callable[..., Tensor], inputs: Sequence[Tensor], capture: Capture
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [tensor.clone() for tensor in inputs]
            self._replay, self._out = capture(lambda: run(*self.inputs))

    def __call__(self, inputs: Sequence[Tensor], changed: Sequence[int]) -> Tensor:
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self._replay()
        for i in changed:
            inputs[i].copy_(self.inputs[i])
        return self._out.clone()


class Recordings:
    """Calls functions, from their recordings where their shapes have come up before."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    @torch.no_grad()
    def call(
        self,
        name: Hashable,
        run: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        changed: Sequence[int] = (),
    ) -> Tensor:
        """`run(*inputs)`; `changed` says which inputs it changes in place. One at a time: buffers are shared.

        `name` and the inputs' shapes and dtypes must say all that `run` does with them.
        """
        key = (name, *((tensor.shape, tensor.dtype) for tensor in inputs))
        with self._lock:
            if key not in self._recorded:
                if key not in self._seen:
                    self._seen[key] = None
                    if len(self._seen) > MOST_SEEN:
                        self._seen.popitem(last=False)
                    return run(*inputs)
                while len(self._recorded) >= MOST_RECORDED:
                    self._recorded.popitem(last=False)
                self._recorded[key] = _Recorded(run, inputs, self._capture)
            self._recorded.move_to_end(key)
            recorded, out = self._recorded[key], []
            # Another thread may have asked for the same buffers in a stream of its own.
            turns_on(inputs[0].device).take(lambda: out.append(recorded(inputs, changed)))
            return out[0]
