"""The step of four kernels a layer against the modules: emulated on the CPU, compiled ahead of time, run on a GPU."""

import shutil
from itertools import zip_longest
from typing import ClassVar

import pytest
import torch
from ops.cuda_emulation import EmulatedKernel, kernel_in
from test_fused import follow_steps, on_gpu, some_state
from tiny import tiny_config

from vlmamba.engine import Sampling, generate
from vlmamba.engine.streamed import Reach, Rings, StreamedStep, rings_for, why_not_streamed
from vlmamba.model import VLMamba
from vlmamba.ops import cuda_runtime, stream, stream_launch
from vlmamba.ops.stream import Ring

REACHES = (Reach(64, 2048), Reach(1024, 512), Reach(0, 1 << 20))
emulated = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the emulation")


@pytest.fixture
def emulation(monkeypatch, tmp_path):
    kernel = kernel_in(tmp_path, "cuda_stream_emulation.h", "run_warps")
    monkeypatch.setattr(cuda_runtime, "kernel", kernel)
    monkeypatch.setattr(stream, "num_blocks", lambda _: 5)
    stream_launch._kernel.cache_clear()
    empty = torch.empty

    def spoilt(*size, **options):
        tensor = empty(*size, **options)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 1 << 20)

    monkeypatch.setattr(torch, "empty", spoilt)
    yield
    stream_launch._kernel.cache_clear()


def wide_model(d_model: int, n_layer: int, device: str = "cpu", **text) -> VLMamba:
    torch.manual_seed(0)
    sizes = {"vocab_size": 41, "d_state": 16, "dt_rank": 32} | text
    config = tiny_config(d_model=d_model, n_layer=n_layer, tie_embeddings=False, **sizes)
    model = VLMamba(config).to(device, torch.bfloat16).eval().requires_grad_(False)
    model.lm_head.weight.normal_()
    return model


@emulated
@pytest.mark.parametrize(
    ("b", "rings", "d_model", "n_layer", "backwards"),
    [
        (1, rings_for(1), 256, 2, False),
        (3, Rings(Ring(4, 3, near=2), Ring(2, 3, near=1), Ring(1, 1), *REACHES), 256, 1, True),
        (8, rings_for(8), 512, 1, False),
    ],
)
def test_equals_the_modules(emulation, monkeypatch, b, rings, d_model, n_layer, backwards):
    monkeypatch.setattr(EmulatedKernel, "backwards", backwards)
    model = wide_model(d_model, n_layer)
    follow_steps(StreamedStep(model, b, rings), model, b, 1e-2, steps=n_layer)


def has_nvrtc() -> bool:
    try:
        return bool(cuda_runtime.nvrtc_version())
    except OSError:
        return False


class CompiledKernel:
    """Takes the place of `cuda_runtime.Kernel`: compiled for an H100, and never run."""

    names: ClassVar[set[str]] = set()

    def __init__(self, source, name, defines, device, shared_bytes, suffix="") -> None:
        assert shared_bytes <= 227 * 1024
        assert cuda_runtime.cubin(source, defines, f"90{suffix}")
        CompiledKernel.names.add(name)

    def prefer_shared(self) -> None:
        pass

    def launch(self, blocks, threads, shared_bytes, arguments, early) -> None:
        pass


@pytest.mark.skipif(not has_nvrtc(), reason="no libnvrtc: install nvidia-cuda-nvrtc")
@pytest.mark.parametrize("b", [1, 8])
def test_compiles_at_the_published_width(b, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_runtime, "kernel", CompiledKernel)
    CompiledKernel.names.clear()
    monkeypatch.setattr(stream, "num_blocks", lambda _: 132)
    with torch.device("meta"):
        model = wide_model(2560, 2, "meta", dt_rank=160, vocab_size=50280)
        stream_launch._kernel.cache_clear()
        StreamedStep(model, b)(
            torch.zeros(b, dtype=torch.long), *(model.allocate_state(b) for _ in "ab")
        )
    stream_launch._kernel.cache_clear()
    assert CompiledKernel.names == {f"stream_{k}" for k in ("embed", "product", "select", "scan")}


def test_what_the_kernels_do_not_take_is_named():
    assert why_not_streamed(wide_model(256, 1).float()) == "torch.float32 is not bfloat16"
    assert "do not fill their warps" in (why_not_streamed(wide_model(256, 1, dt_rank=16)) or "")
    with torch.device("meta"):
        wide = wide_model(2816, 1, "meta")
    assert "does not fit their rings" in (why_not_streamed(wide) or "")
    assert "d_state 5" in (why_not_streamed(wide_model(256, 1, d_state=5)) or "")


# On a GPU.


@on_gpu
@pytest.mark.parametrize("b", [1, 2, 3, 8])
def test_steps_on_the_device(b):
    model = wide_model(2560, 2, "cuda", dt_rank=160, vocab_size=5003)
    assert why_not_streamed(model) is None
    follow_steps(StreamedStep(model, b), model, b, 2e-2, steps=3)


def check_bits(step_of, batches: tuple[int, ...]) -> None:
    """A row's logits and states are the same in every batch, to the last bit."""
    model = wide_model(1024, 3, "cuda", dt_rank=64, vocab_size=5003)
    rows = {}
    for b in batches:
        after = model.allocate_state(b)
        tokens = torch.arange(b, device="cuda") + 3
        logits = step_of(model, b)(tokens, some_state(model, b), after)
        for row in range(b):
            found = logits[row].clone(), after.ssm_state[:, row], after.conv_state[:, row]
            for ours, right in zip(found, rows.setdefault(row, found), strict=True):
                assert torch.equal(ours, right), (b, row)


@on_gpu
def test_a_row_has_the_same_bits_in_any_batch_and_every_time():
    check_bits(StreamedStep, (8, 4, 3, 2, 1, 8))


@on_gpu
def test_two_generations_at_once_do_not_disturb_each_other(monkeypatch):
    model = wide_model(1024, 3, "cuda", dt_rank=64, vocab_size=5003)
    taken, init = [], StreamedStep.__init__
    monkeypatch.setattr(
        StreamedStep, "__init__", lambda self, *a: taken.append(a[1]) or init(self, *a)
    )
    prompts = [torch.tensor([[5, 6, 7]]).cuda(), torch.tensor([[50, 3, 9]]).cuda()]
    alone = [[s.tokens for s in generate(model, p, sampling=Sampling(30))] for p in prompts]
    pair = [generate(model, p, sampling=Sampling(30)) for p in prompts]
    together = [[], []]
    for steps in zip_longest(*pair):  # the one may end before the other
        for tokens, step in zip(together, steps, strict=True):
            tokens += [] if step is None else [step.tokens]
    assert together == alone
    assert set(taken) == {1}
