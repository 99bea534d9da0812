"""Residual add + RMS norm, and linear + cross-entropy, against their definitions: on the CPU, and as kernels.

Triton decides at import whether to interpret, so the interpreted tests, those of test_gated_conv.py too, run in a
process of their own, started by `test_the_interpreted_tests_pass`.
"""

import pytest
import torch
from interpreter import compiled, interpreted, on_gpu, run_interpreted
from test_gpu import compile_for, launches, slack
from test_gpu import poisoned_memory as poisoned_memory  # a fixture for every test here too

from vlmamba import ops
from vlmamba.ops import reference

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
EPS = 1e-5


def norm_inputs(shape, device, dtype=F32, residual=True, weight_dtype=None):
    make = torch.Generator().manual_seed(sum(shape))

    def random(*shape, dtype):
        return torch.randn(*shape, generator=make, dtype=F64).to(device, dtype)

    return {
        "hidden": random(*shape, dtype=dtype),
        "residual": 3 * random(*shape, dtype=reference.scan_dtype(dtype)) if residual else None,
        "weight": random(shape[-1], dtype=weight_dtype or dtype),
    }


def loss_inputs(n, d, v, device, dtype=F32):
    make = torch.Generator().manual_seed(n + d + v)
    hidden = torch.randn(n, d, generator=make, dtype=F64)
    weight = torch.randn(v, d, generator=make, dtype=F64)
    targets = torch.randint(v, (n,), generator=make)
    return {
        "x": hidden.to(device, dtype),
        "weight": weight.to(device, dtype),
        "targets": targets.to(device),
    }


def results(op, inputs, cast, **options):
    """The outputs of `op` and the gradient of a random function of them in each real argument, in `cast` if given."""
    leaves = {
        name: t if t is None or not t.is_floating_point() else t.to(cast or t.dtype).detach()
        for name, t in inputs.items()
    }
    wanted = {k: t.requires_grad_() for k, t in leaves.items() if t is not None and k != "targets"}
    outputs = op(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    make = torch.Generator().manual_seed(7)
    seeds = [torch.randn(t.shape, generator=make).to(t.device, t.dtype) for t in outputs]
    grads = torch.autograd.grad(outputs, list(wanted.values()), seeds)
    found = {f"out{i}": t.detach() for i, t in enumerate(outputs)}
    return found | {f"d{k}": g for k, g in zip(wanted, grads, strict=True)}


def assert_equal(op, definition, inputs, **options):
    """Our error against a float64 run is at most twice that of the definition in the inputs' own dtypes."""
    exact = results(definition, inputs, F64, **options | ({"dtype": F64} if options else {}))
    theirs, ours = (
        results(definition, inputs, None, **options),
        results(op, inputs, None, **options),
    )
    assert ours.keys() == exact.keys()
    for name, right in exact.items():
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == right.shape, name
        if right.numel():
            allowed = 2 * (theirs[name] - right).abs().max()
            allowed = allowed + slack(name, ours[name].dtype) * right.abs().max()
            error = (ours[name] - right).abs().max()
            assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


NORMS = [
    ((2, 3, 24), F32, True),
    ((5, 7), F32, False),
    ((1, 1), F64, True),
    ((3, 513), F32, True),
    ((4, 37), BF16, True),
    ((4, 37), BF16, False),
    ((1, 1, 133), BF16, True),
    ((17, 133), BF16, True),
    ((0, 8), F32, True),
]
LOSSES = [(1, 3, 5), (7, 24, 61), (9, 5, 300), (0, 4, 7)]


def check_norm(shape, dtype, residual, device, times=1.0):
    from vlmamba.ops import gpu

    inputs = norm_inputs(shape, device, dtype, residual)
    inputs |= {k: t * times for k, t in inputs.items() if k != "weight" and t is not None}
    assert_equal(gpu.add_rms_norm, reference.add_rms_norm, inputs, eps=EPS, dtype=dtype)


def dynamics_inputs(device, dtype):
    make = torch.Generator().manual_seed(3)
    shapes = {"A_log": (133, 16), "D": (133,), "dt_bias": (133,)}
    return {k: torch.randn(*s, generator=make).to(device, dtype) for k, s in shapes.items()}


def check_dynamics(dtype, device):
    from vlmamba.ops import gpu

    assert_equal(gpu.scan_dynamics, reference.scan_dynamics, dynamics_inputs(device, dtype))


def check_loss(n, d, v, dtype, device, times=1.0):
    from vlmamba.ops import gpu

    inputs = loss_inputs(n, d, v, device, dtype)
    inputs["x"] = inputs["x"] * times
    assert_equal(gpu.linear_cross_entropy, reference.linear_cross_entropy, inputs)


def small_chunks(monkeypatch, module, rows, v, dtype):
    monkeypatch.setattr(module, "MOST", rows * v * dtype.itemsize)


@compiled
def test_norm_on_the_cpu():
    norm = norm_inputs((2, 3, 5), "cpu", F64)
    assert torch.autograd.gradcheck(
        lambda *t: ops.add_rms_norm(*t, EPS), [t.requires_grad_() for t in norm.values()]
    )
    with pytest.raises(ValueError, match=r"residual has shape \(2, 3\), expected \(2, 4\)"):
        ops.add_rms_norm(torch.zeros(2, 4), torch.zeros(2, 3), torch.ones(4))


@interpreted
class TestInterpreted:
    @pytest.mark.parametrize(("shape", "dtype", "residual"), NORMS)
    def test_norm(self, shape, dtype, residual):
        check_norm(shape, dtype, residual, "cpu")

    def test_rows_of_several_pieces_and_programs_of_several_rows(self, monkeypatch):
        from vlmamba.ops import norm

        monkeypatch.setattr(norm, "PIECE", 8)
        monkeypatch.setattr(norm, "PROGRAMS", 2)
        check_norm((5, 19), F32, True, "cpu")
        check_norm((40, 19), F32, True, "cpu")

    def test_a_float32_norm_in_bfloat16(self):
        """As under autocast: weights are float32, the output is not."""
        inputs = norm_inputs((4, 24), "cpu", BF16, weight_dtype=F32)
        for dtype in (F32, BF16):
            ours = ops.add_rms_norm(**inputs, dtype=dtype)
            expected = reference.add_rms_norm(**inputs, eps=EPS, dtype=dtype)
            assert [t.dtype for t in ours] == [dtype, F32]
            torch.testing.assert_close(ours, expected, rtol=2**-7, atol=1e-6)

    @pytest.mark.parametrize("dtype", [F32, BF16, F16])
    @pytest.mark.parametrize("weight", [0.0, 1e-38, -1e-4])
    def test_the_smallest_weight_learns(self, dtype, weight):
        from vlmamba.ops import gpu

        inputs = norm_inputs((3, 5), "cpu", dtype)
        inputs["weight"][1:3] = weight
        options = {"eps": EPS, "dtype": dtype}
        assert_equal(gpu.add_rms_norm, reference.add_rms_norm, inputs, **options)
        assert results(gpu.add_rms_norm, inputs, None, **options)["dweight"].abs().min() > 0

    @pytest.mark.parametrize("times", [0.0, 1e-6, 1e4])
    def test_small_and_large_inputs(self, times):
        check_norm((5, 19), F32, True, "cpu", times)
        check_loss(5, 7, 61, F32, "cpu", times)

    def test_only_the_residual_has_a_gradient(self):
        inputs = {k: t.requires_grad_() for k, t in norm_inputs((3, 5), "cpu", BF16).items()}
        _, total = ops.add_rms_norm(**inputs)
        total.backward(torch.ones_like(total))
        assert torch.equal(inputs["hidden"].grad, torch.ones(3, 5, dtype=BF16))
        assert torch.equal(inputs["residual"].grad, torch.ones(3, 5))
        assert inputs["weight"].grad is None

    @pytest.mark.parametrize("dtype", [F32, BF16])
    def test_dynamics(self, dtype):
        check_dynamics(dtype, "cpu")

    @pytest.mark.parametrize(("n", "d", "v"), LOSSES)
    @pytest.mark.parametrize("dtype", [F32, BF16, F64])
    def test_loss(self, n, d, v, dtype):
        check_loss(n, d, v, dtype, "cpu")

    @pytest.mark.parametrize("dtype", [F32, BF16])
    def test_loss_in_chunks_and_blocks(self, monkeypatch, dtype):
        from vlmamba.ops import loss

        monkeypatch.setattr(loss, "BLOCK_V", 16)
        small_chunks(monkeypatch, loss, 3, 61, dtype)
        check_loss(7, 5, 61, dtype, "cpu")

    def test_autocast_decides_what_the_products_are_computed_in(self):
        inputs = loss_inputs(7, 24, 61, "cpu")
        narrow = {k: t if k == "targets" else t.to(BF16) for k, t in inputs.items()}
        expected = results(ops.linear_cross_entropy, narrow, None)
        with torch.autocast("cpu", BF16):
            found = results(ops.linear_cross_entropy, inputs, None)
        assert {t.dtype for t in found.values()} == {F32}
        for name, right in expected.items():
            torch.testing.assert_close(found[name], right.float(), rtol=2**-7, atol=1e-2)

    def test_what_is_frozen_gets_no_gradient_and_a_retained_graph_gives_it_again(self):
        inputs = loss_inputs(7, 24, 61, "cpu")
        x, weight = (inputs[k].clone().requires_grad_() for k in ("x", "weight"))
        expected, _ = torch.autograd.grad(
            reference.linear_cross_entropy(x, weight, inputs["targets"]), [x, weight]
        )
        x = inputs["x"].requires_grad_()
        loss = ops.linear_cross_entropy(**inputs)
        for _ in range(2):
            (found,) = torch.autograd.grad(loss, [x], torch.full((), 3.0), retain_graph=True)
            torch.testing.assert_close(found, 3 * expected)
        with torch.no_grad():
            assert not ops.linear_cross_entropy(**inputs).requires_grad

    def test_logits_of_any_size(self):
        from vlmamba.ops import loss

        logits = torch.tensor([[1e4, -1e4, 0.0], [-torch.inf, 5.0, -torch.inf]])
        losses = loss._cross_entropy(logits.clone(), torch.tensor([1, 1]), False)
        assert losses.tolist() == [2e4, 0.0]


@compiled
def test_the_interpreted_tests_pass():
    output = run_interpreted(__file__, __file__.replace("norm_loss", "gated_conv"))
    assert "passed" in output


@compiled
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_every_kernel_compiles(monkeypatch, architecture, dtype):
    from vlmamba.ops import gpu

    def every_call():
        norm = norm_inputs((32, 1024), "cpu", dtype)
        results(gpu.add_rms_norm, norm, None, eps=EPS, dtype=dtype)
        results(gpu.linear_cross_entropy, loss_inputs(16, 32, 96, "cpu", dtype), None)
        results(gpu.scan_dynamics, dynamics_inputs("cpu", dtype), None)

    made = launches(monkeypatch, every_call)
    assert len({kernel for kernel, _, _ in made}) == (5 if dtype == BF16 else 4)
    for launch in made:
        assert compile_for(architecture, *launch).asm["cubin"]


@on_gpu
class TestOnTheDevice:
    @pytest.mark.parametrize(
        ("shape", "dtype", "residual"),
        [*NORMS, ((3, 729, 2560), BF16, True), ((2049, 768), F32, True)],
    )
    def test_norm(self, shape, dtype, residual):
        check_norm(shape, dtype, residual, "cuda")

    @pytest.mark.parametrize("dtype", [F32, BF16])
    @pytest.mark.parametrize("l", [1, 2, 3, 63, 64, 65, 729, 2049])
    def test_any_length(self, l, dtype):
        check_norm((1, l, 133), dtype, True, "cuda")
        check_loss(l, 37, 501, dtype, "cuda")

    @pytest.mark.parametrize("times", [0.0, 1e-6, 1e4])
    def test_small_and_large_inputs(self, times):
        check_norm((5, 133), F32, True, "cuda", times)
        check_loss(5, 37, 501, F32, "cuda", times)

    @pytest.mark.parametrize("dtype", [F32, BF16])
    def test_dynamics(self, dtype):
        check_dynamics(dtype, "cuda")

    @pytest.mark.parametrize(("n", "d", "v"), [*LOSSES, (65, 768, 50280)])
    @pytest.mark.parametrize("dtype", [F32, BF16, F64])
    def test_loss(self, n, d, v, dtype):
        check_loss(n, d, v, dtype, "cuda")

    @pytest.mark.parametrize("dtype", [F32, BF16])
    def test_loss_in_chunks(self, monkeypatch, dtype):
        from vlmamba.ops import loss

        small_chunks(monkeypatch, loss, 30, 5000, dtype)
        check_loss(65, 64, 5000, dtype, "cuda")

    def test_every_run_gives_the_same_bits(self):
        norm, loss = norm_inputs((2049, 2560), "cuda", BF16), loss_inputs(65, 64, 999, "cuda", BF16)
        for op, inputs in ((ops.add_rms_norm, norm), (ops.linear_cross_entropy, loss)):
            first, *others = (results(op, inputs, None) for _ in range(4))
            for other in others:
                assert all(torch.equal(first[name], other[name]) for name in first)
