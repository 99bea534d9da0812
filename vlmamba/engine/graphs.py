"""What is replayed from CUDA graphs for a model, and the reasons where nothing is."""

import logging
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from vlmamba.capture import capture_graph
from vlmamba.engine.lanes import Lane, Lanes, Step
from vlmamba.engine.recordings import Recordings
from vlmamba.mamba import DtProjection, MambaBlock, MambaMixer, MambaModel, RMSNorm
from vlmamba.model import VLMamba
from vlmamba.ops import backend
from vlmamba.state import State

log = logging.getLogger("vlmamba")

# What idle lanes may keep of the device's memory, as a share.
IDLE_SHARE = 0.15
# Longer passes keep the device busy for longer than their launches take, and their buffers would be large.
MOST_POSITIONS = 4096
# Texts are padded to a multiple of this, so that few lengths come up.
BUCKET = 16
# Lengths from here on are pictures', which come up again and again as they are.
LONG = 256
# What the fused kernels know how to compute.
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MODULES = (
    MambaModel, MambaBlock, MambaMixer, RMSNorm, DtProjection,
    nn.Linear, nn.Conv1d, nn.Embedding, nn.ModuleList,
)  # fmt: skip

# A language model, embeds (b, l, d), lengths (b,) or None, and a state -> the last hidden states (b, d).
Reader: TypeAlias = Callable[[MambaModel, Tensor, Tensor | None, State], Tensor]


class Graphs:
    """The lanes and recordings of one model."""

    def __init__(
        self, model: VLMamba, lanes: Lanes, recordings: Recordings, reader: Reader
    ) -> None:
        self._model = weakref.ref(model)
        self._reader = reader
        self.lanes = lanes
        self.recordings = recordings
        self._failed: set[str] = set()

    def lane(self, rows: int) -> Lane | None:
        """A lane for as many rows, to be given back to `lanes`; None when there is none."""
        try:
            return self.lanes.take(rows)
        except RuntimeError as error:  # out of memory is one, too
            self._say("decoding", error)
            return None

    def read(self, embeds: Tensor, lengths: Tensor | None, state: State) -> Tensor:
        """embeds (b, l, d) read into `state` -> hidden states (b, d) after each row's last position.

        `lengths` (b,): padding begins there; None: nowhere. Replayed where that is worth it.
        """
        b, l, _ = embeds.shape
        if state.batch_size != b:
            raise ValueError(f"the state holds {state.batch_size} sequences, the input {b}")
        run = partial(_read, self._reader, self._alive.model.language_model)
        with _current(embeds.device):
            if b * l > MOST_POSITIONS or "reading" in self._failed:
                return run(embeds, state.conv_state, state.ssm_state, state.length, lengths)
            if lengths is not None or l < LONG:
                bucket = -(-l // BUCKET) * BUCKET
                embeds = torch.nn.functional.pad(embeds, (0, 0, 0, bucket - l))
                lengths = torch.full_like(state.length, l) if lengths is None else lengths
            inputs = [embeds, state.conv_state, state.ssm_state, state.length]
            inputs += [] if lengths is None else [lengths]
            try:
                return self.recordings.call("read", run, inputs, changed=(1, 2, 3))
            except RuntimeError as error:
                self._say("reading", error)
                return run(*inputs)

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """`VLMambaModel.image_embeds`, replayed where that is worth it."""
        model = self._alive.model
        positions = len(pixel_values) * model.config.vision.num_patches
        if positions > MOST_POSITIONS or "looking" in self._failed:
            return model.image_embeds(pixel_values)
        try:
            with _current(pixel_values.device):
                return self.recordings.call("look", model.image_embeds, [pixel_values])
        except RuntimeError as error:
            self._say("looking", error)
            return model.image_embeds(pixel_values)

    @property
    def _alive(self) -> VLMamba:
        model = self._model()
        assert model is not None
        return model

    def _say(self, what: str, error: RuntimeError) -> None:
        if what not in self._failed:
            self._failed.add(what)
            log.warning("%s without CUDA graphs: %s", what, str(error).split("\n")[0])


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one that graphs are recorded and kernels launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _read(
    reader: Reader,
    language_model: MambaModel,
    embeds: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    length: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    return reader(language_model, embeds, lengths, State(conv_state, ssm_state, length))


def why_no_graphs_on(device: torch.device) -> str | None:
    """What keeps every model on a device from CUDA graphs, in a few words; None when nothing does."""
    if device.type != "cuda":
        return "no CUDA device"
    choice = backend.choose(device)
    return None if choice.backend == "gpu" else f"backend {choice.backend}"


def why_not_fused(model: VLMamba) -> str | None:
    """What keeps this model from the fused kernels, in a few words; None when nothing does."""
    if model.dtype not in DTYPES:
        return f"{model.dtype} has no fused kernels"
    language_model = model.model.language_model
    for name, module in (("lm_head", model.lm_head), *language_model.named_modules()):
        if type(module) not in MODULES:
            return f"{name} is a {type(module).__name__}"
        if type(module) is nn.Linear and module.bias is not None:
            return f"{name} has a bias"
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} carries a hook"
    weights = [model.lm_head.weight, *language_model.parameters()]
    if any(w.dtype != model.dtype or w.device != model.device for w in weights):
        return "its weights are of several dtypes or on several devices"
    if not all(w.is_contiguous() for w in weights):
        return "its weights are not contiguous"
    return None


class _Known(NamedTuple):
    fingerprint: list[int]
    graphs: Graphs | None


_known: "weakref.WeakKeyDictionary[VLMamba, _Known]" = weakref.WeakKeyDictionary()


def graphs_of(model: VLMamba) -> Graphs | None:
    """The model's graphs; None where it runs module by module. A model that was changed begins anew."""
    if model.device.type != "cuda":
        _say("answers come module by module: no CUDA device")
        return None
    fingerprint = _fingerprint(model, [])
    known = _known.get(model)
    if known is None or known.fingerprint != fingerprint:
        reason = why_no_graphs_on(model.device) or why_not_fused(model)
        _say(
            f"answers come module by module: {reason}"
            if reason
            else "answers are replayed from CUDA graphs"
        )
        graphs = _graphs_on_gpu(model) if reason is None else None
        known = _known[model] = _Known(fingerprint, graphs)
    return known.graphs


@cache
def _say(text: str) -> None:
    """Into the log, once a process."""
    log.info(text)


def _fingerprint(module: nn.Module, found: list[int]) -> list[int]:
    """Which modules a model is made of, its hooks, where its weights are and how often they were written."""
    found.append(id(module))
    found.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
    for weight in module._parameters.values():
        if weight is not None:
            found.append(weight.data_ptr())
            found.append(0 if weight.is_inference() else weight._version)
    for child in module._modules.values():
        if child is not None:
            _fingerprint(child, found)
    return found


def _graphs_on_gpu(model: VLMamba) -> Graphs:
    # Triton is imported where its kernels run.
    from vlmamba.engine.fused import FusedStep
    from vlmamba.engine.fused_read import fused_read
    from vlmamba.engine.many import ManyStep, why_not_many
    from vlmamba.engine.streamed import StreamedStep, why_not_streamed
    from vlmamba.ops.many import MOST_ROWS as MANY
    from vlmamba.ops.stream import MOST_ROWS as FEW

    alive = weakref.ref(model)
    device = model.device

    def step_for(model: VLMamba, size: int) -> Step:
        if size > MANY:
            return FusedStep(model, size)
        few = size <= FEW
        if why := why_not_streamed(model) if few else why_not_many(model):
            _say(f"steps of {'few' if few else 'many'} rows take the kernels in Triton: {why}")
            return FusedStep(model, size)
        return StreamedStep(model, size) if few else ManyStep(model, size)

    def make(size: int) -> Lane:
        model = alive()
        assert model is not None
        with torch.cuda.device(device):
            return Lane(model, size, step_for(model, size), capture_graph)

    with torch.cuda.device(device):
        pool = torch.cuda.graph_pool_handle()
    total = torch.cuda.get_device_properties(device).total_memory
    lanes = Lanes(make, IDLE_SHARE * total)
    return Graphs(model, lanes, Recordings(partial(capture_graph, pool=pool)), fused_read)
