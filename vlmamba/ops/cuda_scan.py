"""The selective scan as CUDA C++ (scan_forward.cu, scan_backward.cu), compiled on first use for the device at hand.

The forward pass saves the state at the start of every chunk where gradients are asked for; the backward pass
computes a chunk's states anew from it. Sums over channels and over the batch are float32 partial sums, added by
one deterministic second pass: no atomics, the same bits every run.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.cuda_runtime import kernel
from vlmamba.ops.dependent_launch import starts_early
from vlmamba.ops.scan_plans import REACH, WIDE_REACH, Plan, backward_plan, forward_plan

# As the kernels number them (TYPE in scan_common.cu).
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MAX_STATES = 64


def takes(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None) -> bool:
    """Whether the kernels take these arguments; float64, mixed dtypes and very many states are left to Triton."""
    same = all(t.dtype == u.dtype for t in (dt, B, C, z) if t is not None)
    return same and u.dtype in TYPES and A.shape[1] <= MAX_STATES


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    gradients_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """`reference.selective_scan_ref` as CUDA kernels, differentiable once in every tensor argument.

    `gradients_only`: y is of the right shape and differentiable, and holds nothing.
    """
    inputs = [u, dt, A, B, C, D, z, dt_bias, initial_state]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _SelectiveScan.apply(*inputs, reset, dt_softplus, gradients_only)
    y, last, _ = forward(
        prepare(u, dt, A, B, C, D, z, dt_bias, initial_state, reset, dt_softplus), save=0
    )
    return y, last


@torch.no_grad()
def scan_onwards(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor,
) -> Tensor:
    """y of the scan with softplus from `state` on, contiguous float32, which becomes the last state."""
    inputs = prepare(u, dt, A, B, C, D, z, dt_bias, state, None, True)
    return forward(inputs, save=0, last=state, early=starts_early(u))[0]


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments_and_whether_gradients_only):
        *arguments, gradients_only = arguments_and_whether_gradients_only
        ctx.set_materialize_grads(False)
        ctx.dtypes = [t.dtype if isinstance(t, Tensor) else None for t in arguments]
        inputs = prepare(*arguments)
        tile = backward_plan(*sizes(inputs)).tile
        y, last, saved = forward(inputs, save=tile, output=not gradients_only)
        ctx.save_for_backward(*inputs[:-1], saved)
        ctx.dt_softplus = inputs.dt_softplus
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad_y is None and grad_last is None:
            return (None,) * 12
        *tensors, saved = ctx.saved_tensors
        found = backward(grad_y, grad_last, Inputs._make([*tensors, ctx.dt_softplus]), saved)
        grads = (None if g is None else g.to(d) for g, d in zip(found, ctx.dtypes, strict=False))
        return *grads, None, None, None


class Inputs(NamedTuple):
    """The arguments as the kernels take them."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None
    reset: Tensor | None
    dt_softplus: bool


def prepare(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    dt_softplus: bool,
) -> Inputs:
    """Neighbouring channels side by side, parameters in float32; what is so already is not copied.

    So slices of a projection are read where they are.
    """
    return Inputs(
        _dense(u), _dense(dt), A.float().contiguous(), _dense(B), _dense(C),
        None if D is None else D.float().contiguous(),
        None if z is None else _dense(z),
        None if dt_bias is None else dt_bias.float().contiguous(),
        None if initial_state is None else initial_state.float().contiguous(),
        None if reset is None else reset.contiguous(),
        dt_softplus,
    )  # fmt: skip


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def forward(
    inputs: Inputs,
    *,
    save: int,
    output: bool = True,
    last: Tensor | None = None,
    early: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """y, the last state, and the states before every `save`-th position (b, chunks, e, padded n) unless it is 0.

    Without `output`, nothing stands in y. `last`, where given, is written: a thread reads its part of the initial
    state before it writes that of the last, so both may be one tensor. `early`: the kernel starts while the one
    before it still runs, and waits for it.
    """
    u, (b, l, e), n = inputs.u, inputs.u.shape, inputs.A.shape[1]
    plan = forward_plan(*sizes(inputs))
    chunks = -(-l // save) if save else 0
    y = torch.empty((b, l, e) if output else (1, 1, 1), dtype=u.dtype, device=u.device)
    if not output:
        inputs = inputs._replace(z=None)
    if last is None:
        last = torch.empty((b, e, n), dtype=torch.float32, device=u.device)
    shape = (b, chunks, e, _padded(n))
    saved = torch.empty(shape, dtype=torch.float32, device=u.device) if save else None
    blocks = -(-e // plan.channels)
    defines = (
        *_defines(inputs, plan, ()), ("TILE", plan.tile), ("SAVE", save), ("OUTPUT", int(output)),
    )  # fmt: skip
    if b * blocks:
        kernel(_source("forward"), "selective_scan_fwd", defines, u.get_device(), 0).launch(
            b * blocks, plan.threads, 0,
            _arguments(inputs, y=y, last=last, saved=saved, blocks=blocks, chunks=chunks), early,
        )  # fmt: skip
    return y if output else y.expand(b, l, e), last, saved


def backward(
    grad_y: Tensor | None, grad_last: Tensor | None, inputs: Inputs, saved: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of u, dt, A, B, C, D, z, dt_bias, initial_state; those of A, D and the last two in float32."""
    u, (b, l, e), n = inputs.u, inputs.u.shape, inputs.A.shape[1]
    plan = backward_plan(*sizes(inputs))
    blocks = -(-e // plan.channels)
    grad_y = torch.zeros_like(u) if grad_y is None else _dense(grad_y)
    grad_last = None if grad_last is None else grad_last.contiguous()

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=u.device)

    du, ddt = new(b, l, e, dtype=u.dtype), new(b, l, e, dtype=u.dtype)
    dz = None if inputs.z is None else _room_beside(inputs.z)
    rows = plan.segments * b
    dBC, dA = new(blocks, b, l, 2, n), new(rows, e, n)
    dD = None if inputs.D is None else new(rows, e)
    dbias = None if inputs.dt_bias is None else new(rows, e)
    carried = progress = None
    if plan.cut:
        carried = _carried(inputs, grad_y, grad_last, plan)
    elif plan.segments > 1:
        carried = new(b, blocks, plan.threads, plan.cpt, _padded(n) // plan.lanes)
        progress = torch.zeros(1 + b * blocks, dtype=torch.int32, device=u.device)
    dinitial = None if inputs.initial_state is None else new(b, e, n)
    sizes_of_shared = (plan, _padded(n), dz is not None, u.element_size())
    # A row of few channels would be too short a read; and not every GPU has room for two sides of the sums.
    own = 32 // plan.lanes * plan.cpt >= 16
    own = own and _backward_shared_bytes(*sizes_of_shared, own) <= _shared_limit(u)
    shared_bytes = _backward_shared_bytes(*sizes_of_shared, own)
    defines = (
        *_defines(inputs, plan, (grad_y,)),
        ("TILE", plan.tile), ("CHUNK", plan.chunk), ("KEEP", plan.keep), ("SEGMENTS", plan.segments),
        ("CUT", int(plan.cut)), ("OWN", int(own)), ("SHARED_BYTES", shared_bytes),
    )  # fmt: skip
    if b * blocks:
        kernel(
            _source("backward"), "selective_scan_bwd", defines, u.get_device(), shared_bytes
        ).launch(
            rows * blocks, plan.threads, shared_bytes,
            _arguments(
                inputs, saved=saved, grad_y=grad_y, grad_last=grad_last, du=du, ddt=ddt, dz=dz,
                dBC=dBC, dA=dA, dD=dD, dbias=dbias, dinitial=dinitial, carried=carried, progress=progress,
                blocks=blocks, chunks=saved.shape[1],
            ),
        )  # fmt: skip
    totals = _sums([t for t in (dBC, dA, dD, dbias) if t is not None], u.dtype)
    dB, dC = totals.pop(0).unbind(2)
    return (
        du, ddt, totals.pop(0), dB, dC, None if dD is None else totals.pop(0), dz,
        None if dbias is None else totals.pop(0), dinitial,
    )  # fmt: skip


def _carried(inputs: Inputs, grad_y: Tensor, grad_last: Tensor | None, plan: Plan) -> Tensor:
    """The gradient of the state where each segment ends (segments, b, e, n), which lets them be walked at once."""
    (b, l, e), n, device = inputs.u.shape, inputs.A.shape[1], inputs.u.device
    reach_plan = REACH if n <= 16 else WIDE_REACH
    blocks = -(-e // reach_plan.channels)
    carried = torch.empty((plan.segments, b, e, n), dtype=torch.float32, device=device)
    reach = torch.empty((plan.segments, b, e, n, 2), dtype=torch.float32, device=device)
    arguments = _arguments(
        inputs, grad_y=grad_y, grad_last=grad_last, carried=carried, reach=reach,
        blocks=blocks, chunks=-(-l // plan.tile),
    )  # fmt: skip
    defines = (
        *_defines(inputs, reach_plan, (grad_y,)), ("TILE", plan.tile), ("SEGMENTS", plan.segments),
    )  # fmt: skip
    launches = (
        ("selective_scan_reach", (plan.segments - 1) * b * blocks),
        ("selective_scan_join", -(-b * e * n // reach_plan.threads)),
    )
    for name, count in launches:
        if count:
            kernel(_source("reach"), name, defines, inputs.u.get_device(), 0).launch(
                count, reach_plan.threads, 0, arguments
            )
    return carried


def _sums(partial: list[Tensor], first_dtype: torch.dtype) -> list[Tensor]:
    """Each of the float32 tensors summed over its first axis, in one launch; the first one rounded."""
    dtypes = [first_dtype] + [torch.float32] * (len(partial) - 1)
    totals = [
        torch.empty(t.shape[1:], dtype=dtype, device=t.device)
        for t, dtype in zip(partial, dtypes, strict=True)
    ]
    columns = [t.numel() for t in totals]
    defines = (
        ("TYPE", TYPES[first_dtype]), ("THREADS", 256), ("SUMS", len(partial)),
        # scan_common.cu asks for these; the sums do not.
        ("LANES", 1), ("CPT", 1), ("NPAD", 16), ("VEC", 0), ("BCW", 1), ("SOFTPLUS", 0),
        ("HAS_Z", 0), ("HAS_RESET", 0), ("NPOLY", 0),
    )  # fmt: skip
    device = partial[0].get_device()
    if sum(columns):
        kernel(_source("sums"), "selective_scan_sum", defines, device, 0).launch(
            -(-sum(columns) // 256), 256, 0,
            _sums_struct(len(partial))(
                tuple(t.data_ptr() for t in partial), tuple(t.data_ptr() for t in totals),
                tuple(columns), tuple(t.shape[0] for t in partial),
            ),
        )  # fmt: skip
    return totals


@cache
def _sums_struct(count: int) -> type[ctypes.Structure]:
    """`Sums` of scan_sums.cu."""
    fields = (
        ("from_", ctypes.c_void_p * count), ("to", ctypes.c_void_p * count),
        ("columns", ctypes.c_int64 * count), ("rows", ctypes.c_int32 * count),
    )  # fmt: skip
    return type("Sums", (ctypes.Structure,), {"_fields_": fields})


def _padded(n: int) -> int:
    """States as the kernels hold them, a multiple of every number of lanes."""
    return next(size for size in (16, 32, 64) if n <= size)


def sizes(inputs: Inputs) -> tuple[int, int, int, int]:
    """What a plan depends on: states, rows, channels and the device's multiprocessors."""
    b, _, e = inputs.u.shape
    count = 1
    if inputs.u.is_cuda:
        count = torch.cuda.get_device_properties(inputs.u.device).multi_processor_count
    return inputs.A.shape[1], b, e, count


def _defines(inputs: Inputs, plan: Plan, grads: tuple[Tensor, ...]) -> tuple[tuple[str, int], ...]:
    by_channel = [t for t in (inputs.u, inputs.dt, inputs.z, *grads) if t is not None]
    return (
        ("TYPE", TYPES[inputs.u.dtype]), ("NPAD", _padded(inputs.A.shape[1])),
        ("VEC", int(all(_in_groups(t, 2) for t in by_channel))),
        ("BCW", 4 if _in_groups(inputs.B, 4) and _in_groups(inputs.C, 4) else 1),
        ("SOFTPLUS", int(inputs.dt_softplus)), ("HAS_Z", int(inputs.z is not None)),
        ("HAS_RESET", int(inputs.reset is not None)),
        ("THREADS", plan.threads), ("LANES", plan.lanes), ("CPT", plan.cpt), ("NPOLY", plan.npoly),
        ("BLOCKS", plan.blocks),
    )  # fmt: skip


def _in_groups(tensor: Tensor, size: int) -> bool:
    """Whether `size` neighbours of the last axis can be read at once, everywhere."""
    return (
        all(number % size == 0 for number in (tensor.shape[2], *tensor.stride()[:2]))
        and tensor.data_ptr() % (size * tensor.element_size()) == 0
    )


def _shared_limit(tensor: Tensor) -> int:
    """The most shared memory that a block can have on a tensor's device."""
    if not tensor.is_cuda:
        return 2**20
    properties = torch.cuda.get_device_properties(tensor.device)
    return getattr(properties, "shared_memory_per_block_optin", 2**20)  # older torch does not tell


def _backward_shared_bytes(plan: Plan, npad: int, has_z: bool, element_size: int, own: bool) -> int:
    """The size of `Shared` in scan_backward.cu, which asserts it."""
    warps, groups = plan.threads // 32, 32 // plan.lanes
    pitch = plan.channels + groups * plan.cpt
    starts = plan.tile // plan.chunk * plan.threads * plan.cpt * npad // plan.lanes
    sides = 2 if own else 1
    sums = warps * 2 * npad * (2 * (64 // npad) * groups + sides * plan.tile)
    rows = sides * (2 * npad + 1) + (5 + has_z) * plan.channels + (2 + has_z) * pitch
    raw = (3 + has_z) * plan.tile * plan.channels * element_size
    bytes_in_all = 4 * (starts + sums + plan.tile * rows) + raw
    return -(-bytes_in_all // 16) * 16


@cache
def _source(direction: str) -> str:
    here = Path(__file__).parent
    return "".join((here / f"scan_{part}.cu").read_text() for part in ("common", direction))


_STRIDED = ("u", "dt", "B", "C", "z", "grad_y")


class _Arguments(ctypes.Structure):
    """`Arguments` of scan_common.cu."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "u", "dt", "B", "C", "z", "A", "D", "dt_bias", "initial_state", "reset", "y", "last", "saved",
            "grad_y", "grad_last", "du", "ddt", "dz", "dBC", "dA", "dD", "dbias", "dinitial", "carried",
            "reach", "progress",
        )),
        *((f"{name}_b", ctypes.c_int64) for name in _STRIDED),  # in elements
        *((f"{name}_l", ctypes.c_int32) for name in _STRIDED),  # in bytes
        *((name, ctypes.c_int32) for name in ("b", "l", "e", "n", "blocks", "chunks", "dz_pitch")),
    )  # fmt: skip


def _arguments(inputs: Inputs, *, blocks: int, chunks: int, **others: Tensor | None) -> _Arguments:
    """The struct, full of pointers to tensors that the caller keeps alive."""
    arguments = _Arguments(blocks=blocks, chunks=chunks, n=inputs.A.shape[1])
    arguments.b, arguments.l, arguments.e = inputs.u.shape
    for name, tensor in (inputs._asdict() | others).items():
        if isinstance(tensor, Tensor):
            setattr(arguments, name, tensor.data_ptr())
            if name in _STRIDED:
                setattr(arguments, f"{name}_b", tensor.stride(0))
                setattr(arguments, f"{name}_l", tensor.stride(1) * tensor.element_size())
    dz = others.get("dz")
    arguments.dz_pitch = 0 if dz is None else dz.stride(1)
    return arguments


def _room_beside(z: Tensor) -> Tensor:
    """Room for z's gradient: of a second half of a tensor the second half of one, which `conv` takes as it is."""
    b, l, e = z.shape
    if z.stride() == (2 * l * e, 2 * e, 1) and z.storage_offset() % (2 * e) == e:
        return torch.empty((b, l, 2 * e), dtype=z.dtype, device=z.device)[..., e:]
    return torch.empty((b, l, e), dtype=z.dtype, device=z.device)
