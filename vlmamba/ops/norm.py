"""Residual add and RMS norm on a GPU: one Triton kernel each way.

The forward pass reads and writes every tensor once and keeps its output, which the layer that reads it keeps too,
instead of the wide residual. The backward pass divides it by the weight again and gives each program a run of rows;
the weight's gradient is one partial sum a program, added by one deterministic second pass.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.partial_sums import summed
from vlmamba.ops.reference import scan_dtype

# A row is read in pieces of a power of two, so that few lanes idle at widths such as 2560.
PIECE = 512
FORWARD_OPTIONS = {"num_warps": 2, "enable_fp_fusion": True}
BACKWARD_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
ROWS = 16  # of a program of the backward pass, at most
PROGRAMS = 512  # that it should have before they get several rows
# A weight of less counts as this much: what it let through is then still there for the backward pass, and for the
# layer that reads it too small to count. float16 has no such number, and keeps the normed sum without its weight.
LEAST = 1e-30
# Of so few rows that sum is kept too, in full: the roundings of a row would show in the weight's gradient.
FEW = 16
ACCUMULATE = {torch.float32: tl.float32, torch.float64: tl.float64}


def add_rms_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm_ref` as Triton kernels, differentiable once in every tensor argument."""
    inputs = hidden, residual, weight
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _AddRMSNorm.apply(hidden, residual, weight, eps, dtype)
    normed, total, _, _ = _forward(hidden, residual, weight, eps, dtype, save=False)
    return normed, total


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, residual, weight, eps, dtype):
        ctx.set_materialize_grads(False)
        normed, total, unit, rms = _forward(hidden, residual, weight, eps, dtype, save=True)
        ctx.save_for_backward(weight, normed if unit is None else unit, rms)
        ctx.dtypes = hidden.dtype, None if residual is None else residual.dtype
        ctx.least, ctx.apart = _least(dtype), unit is not None
        return normed, total.view_as(total) if total is hidden else total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_normed, grad_total):
        weight, kept, rms = ctx.saved_tensors
        hidden_dtype, residual_dtype = ctx.dtypes
        dweight = None
        if grad_normed is not None:
            grad_total, dhidden, dweight = _backward(
                grad_normed, grad_total, weight, kept, rms, hidden_dtype,
                ctx.needs_input_grad[2], ctx.least, wide=residual_dtype is not None, apart=ctx.apart,
            )  # fmt: skip
        else:
            dhidden = None if grad_total is None else grad_total.to(hidden_dtype)
        return dhidden, None if residual_dtype is None else grad_total, dweight, None, None


def _rows(tensor: Tensor) -> Tensor:
    """The tensor as rows (r, d) whose elements lie side by side."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _pieces(d: int) -> tuple[int, int]:
    """How many pieces a row of d has, and their width."""
    piece = min(PIECE, triton.next_power_of_2(d))
    return triton.cdiv(d, piece), piece


def _forward(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """normed, the sum, and with `save` what is kept apart of normed before the weight, and the rows' 1 / rms."""
    d, wide, device = hidden.shape[-1], scan_dtype(hidden.dtype), hidden.device
    rows, added = _rows(hidden), None if residual is None else _rows(residual)
    r = rows.shape[0]
    normed = torch.empty(hidden.shape, dtype=dtype, device=device)
    same = residual is None and hidden.dtype == wide
    total = hidden if same else torch.empty(hidden.shape, dtype=wide, device=device)
    few = r <= FEW and dtype.itemsize < wide.itemsize
    apart = save and (few or dtype == torch.float16)
    unit = torch.empty((r, d), dtype=wide if few else dtype, device=device) if apart else None
    rms = torch.empty((r,), dtype=wide, device=device) if save else None
    if r * d:
        _add_rms_norm_fwd_kernel[(r,)](
            rows, added, weight, normed, None if same else total, unit, rms,
            d, rows.stride(0), 0 if added is None else added.stride(0),
            eps, _least(dtype), ACCUMULATE[wide], *_pieces(d), **FORWARD_OPTIONS,
        )  # fmt: skip
    return normed, total, unit, rms


def _least(dtype: torch.dtype) -> float:
    return 0.0 if dtype == torch.float16 else LEAST


def _backward(
    grad_normed: Tensor,
    grad_total: Tensor | None,
    weight: Tensor,
    kept: Tensor,
    rms: Tensor,
    hidden_dtype: torch.dtype,
    weighted: bool,
    least: float,
    *,
    wide: bool,
    apart: bool,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The gradients of the residual (with `wide`), of hidden and, where `weighted`, of the weight.

    kept: normed, or with `apart` what it was before the weight.
    """
    shape, dtype, device = grad_normed.shape, rms.dtype, kept.device
    r, d = rms.shape[0], kept.shape[-1]
    through, above = _rows(grad_normed), None if grad_total is None else _rows(grad_total)
    dtotal = torch.empty(shape, dtype=dtype, device=device) if wide else None
    other = dtotal is None or hidden_dtype != dtype
    dhidden = torch.empty(shape, dtype=hidden_dtype, device=device) if other else None
    each = min(ROWS, triton.cdiv(r, PROGRAMS))
    programs = triton.cdiv(r, each) if r else 0
    dweight = torch.empty((programs, d), dtype=dtype, device=device) if weighted else None
    if programs * d:
        _add_rms_norm_bwd_kernel[(programs,)](
            through, above, weight, kept, rms, dtotal, dhidden, dweight,
            r, d, each, through.stride(0), 0 if above is None else above.stride(0),
            least, apart, ACCUMULATE[dtype], *_pieces(d), **BACKWARD_OPTIONS,
        )  # fmt: skip
    return (
        dtotal,
        dtotal if dhidden is None else dhidden,  # pyright: ignore[reportReturnType]
        None if dweight is None else summed(dweight[:, None], weight)[0],
    )


@triton.jit
def _weight(weight_ptr, at, d, LEAST: tl.constexpr, ACC: tl.constexpr):
    """The weights at `at`, those of nearly nothing as LEAST."""
    weight = tl.load(weight_ptr + at, mask=at < d, other=1.0).to(ACC)
    return tl.where(tl.abs(weight) < LEAST, LEAST, weight)


@triton.jit
def _add_rms_norm_fwd_kernel(
    hidden_ptr, residual_ptr, weight_ptr, normed_ptr, total_ptr, unit_ptr, rms_ptr,
    d, hidden_row, residual_row,
    EPS: tl.constexpr, LEAST: tl.constexpr, ACC: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PIECE)
    squares = tl.zeros((PIECE,), ACC)
    xs = ()
    for i in tl.static_range(PIECES):
        at = i * PIECE + lane
        x = tl.load(hidden_ptr + row * hidden_row + at, mask=at < d, other=0.0).to(ACC)
        if residual_ptr is not None:
            x += tl.load(residual_ptr + row * residual_row + at, mask=at < d, other=0.0).to(ACC)
        if total_ptr is not None:
            tl.store(total_ptr + row * d + at, x, mask=at < d)
        squares += x * x
        xs += (x,)
    rms = 1.0 / tl.sqrt(tl.sum(squares, 0) / d + EPS)
    if rms_ptr is not None:
        tl.store(rms_ptr + row, rms)
    for i in tl.static_range(PIECES):
        at = i * PIECE + lane
        unit = xs[i] * rms
        if unit_ptr is not None:
            tl.store(unit_ptr + row * d + at, unit, mask=at < d)
        weight = _weight(weight_ptr, at, d, LEAST, ACC)
        tl.store(normed_ptr + row * d + at, unit * weight, mask=at < d)


@triton.jit
def _add_rms_norm_bwd_kernel(
    grad_ptr, above_ptr, weight_ptr, kept_ptr, rms_ptr, dtotal_ptr, dhidden_ptr, dweight_ptr,
    r, d, each, grad_row, above_row,
    LEAST: tl.constexpr, APART: tl.constexpr, ACC: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * each
    lane = tl.arange(0, PIECE)
    weights = ()
    inverses = ()
    dweights = ()
    for i in tl.static_range(PIECES):
        weight = _weight(weight_ptr, i * PIECE + lane, d, LEAST, ACC)
        weights += (weight,)
        inverses += (tl.full((PIECE,), 1.0, ACC) if APART else 1.0 / weight,)
        dweights += (tl.zeros((PIECE,), ACC),)
    for index in range(first, tl.minimum(first + each, r)):
        row = tl.cast(index, tl.int64)
        dot = tl.zeros((PIECE,), ACC)
        units = ()
        scaled = ()
        sums = ()
        aboves = ()  # asked for before the row's sum, which everything below waits for
        for i in tl.static_range(PIECES):
            at = i * PIECE + lane
            if above_ptr is not None:
                aboves += (tl.load(above_ptr + row * above_row + at, mask=at < d, other=0.0),)
            grad = tl.load(grad_ptr + row * grad_row + at, mask=at < d, other=0.0).to(ACC)
            unit = tl.load(kept_ptr + row * d + at, mask=at < d, other=0.0).to(ACC) * inverses[i]
            sums += (dweights[i] + grad * unit,)
            grad *= weights[i]
            dot += grad * unit
            units += (unit,)
            scaled += (grad,)
        dweights = sums
        mean = tl.sum(dot, 0) / d
        rms = tl.load(rms_ptr + row)
        for i in tl.static_range(PIECES):
            at = i * PIECE + lane
            dx = (scaled[i] - units[i] * mean) * rms
            if above_ptr is not None:
                dx += aboves[i].to(ACC)
            if dtotal_ptr is not None:
                tl.store(dtotal_ptr + row * d + at, dx, mask=at < d)
            if dhidden_ptr is not None:
                tl.store(dhidden_ptr + row * d + at, dx, mask=at < d)
    if dweight_ptr is not None:
        for i in tl.static_range(PIECES):
            at = i * PIECE + lane
            slot = tl.program_id(0).to(tl.int64) * d
            tl.store(dweight_ptr + slot + at, dweights[i], mask=at < d)
