"""The step of many rows in CUDA C++ against the modules: emulated on the CPU, compiled ahead of time, run on a GPU."""

import struct

import pytest
import torch
from ops.cuda_emulation import EmulatedKernel, kernel_in
from test_fused import follow_steps, on_gpu, spoil
from test_streamed import CompiledKernel, check_bits, emulated, has_nvrtc, wide_model

pytest.importorskip("triton")
from vlmamba.engine import many as engine
from vlmamba.engine.many import Cuts, ManyStep, why_not_many
from vlmamba.ops import cuda_runtime, many, stream_launch
from vlmamba.ops.many import Cut


def plain_norm(residual, mixed, weight, eps, out, tokens=None, embeddings=None):
    if tokens is not None:
        residual.copy_(embeddings[tokens])
    if mixed is not None:
        residual += mixed.sum(0).to(out.dtype)
    scale = torch.rsqrt(residual.square().mean(1, keepdim=True) + eps)
    out.copy_(residual * scale * weight)


@pytest.fixture
def without_triton(monkeypatch):
    monkeypatch.setattr(engine, "add_norm", plain_norm)
    monkeypatch.setattr(engine, "sum_partials", lambda parts, out: out.copy_(parts.sum(0)))
    monkeypatch.setattr(engine, "thin_linear", lambda x, w, out, _: out.copy_((x @ w.T)[None]))
    yield
    stream_launch._kernel.cache_clear()


def emulated_map(matrix, rows, columns):
    """What cuda_many_emulation.h reads as a Map."""
    n, k = matrix.shape
    return struct.pack("6q80x", matrix.data_ptr(), n, k, matrix.stride(0), rows, columns)


@emulated
@pytest.mark.parametrize(
    ("b", "n_layer", "cuts", "backwards"),
    [
        (9, 2, Cuts(Cut(stages=3, waiting=2), Cut(), Cut(splits=2)), False),
        (35, 1, Cuts(Cut(), Cut(splits=3, stages=2, waiting=2), Cut(stages=5, waiting=1)), True),
    ],
)
def test_equals_the_modules(without_triton, monkeypatch, tmp_path, b, n_layer, cuts, backwards):
    kernel = kernel_in(tmp_path, "cuda_many_emulation.h", "run_warps")
    monkeypatch.setattr(cuda_runtime, "kernel", kernel)
    monkeypatch.setattr(cuda_runtime, "tensor_map", emulated_map)
    monkeypatch.setattr(many, "num_blocks", lambda _: 5)
    monkeypatch.setattr(EmulatedKernel, "backwards", backwards)
    model = wide_model(256, n_layer)
    step = ManyStep(model, b, cuts)
    spoil(step)
    follow_steps(step, model, b, 1e-2, steps=n_layer)


@pytest.mark.skipif(not has_nvrtc(), reason="no libnvrtc: install nvidia-cuda-nvrtc")
def test_compiles_at_the_published_width(without_triton, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_runtime, "kernel", CompiledKernel)
    CompiledKernel.names.clear()
    monkeypatch.setattr(cuda_runtime, "tensor_map", lambda *_: bytes(128))
    monkeypatch.setattr(many, "num_blocks", lambda _: 132)
    with torch.device("meta"):
        model = wide_model(2560, 2, "meta", dt_rank=160, vocab_size=50280)
        tokens = torch.zeros(64, dtype=torch.long)
        ManyStep(model, 64)(tokens, *(model.allocate_state(64) for _ in "ab"))
    assert CompiledKernel.names == {"many_product", "many_scan"}


def test_what_the_kernels_do_not_take_is_named():
    assert why_not_many(wide_model(256, 1).float()) == "torch.float32 is not bfloat16"
    assert "do not fill their warps" in (why_not_many(wide_model(256, 1, dt_rank=16)) or "")
    assert "d_state 5" in (why_not_many(wide_model(256, 1, d_state=5)) or "")


# On a GPU.


@on_gpu
@pytest.mark.parametrize("b", [9, 16, 35, 64])
@pytest.mark.parametrize("width", [2560, 1024])
def test_steps_on_the_device(b, width):
    model = wide_model(width, 2, "cuda", dt_rank=width // 16, vocab_size=5003)
    assert why_not_many(model) is None
    follow_steps(ManyStep(model, b), model, b, 2e-2, steps=3)


@on_gpu
def test_a_row_has_the_same_bits_in_any_batch_and_every_time():
    check_bits(ManyStep, (64, 48, 16, 9, 64))
