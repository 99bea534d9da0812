"""The Triton kernels against the reference: under the interpreter on the CPU, compiled ahead of time, on a GPU."""

import pytest
import torch
from interpreter import INTERPRETED, compiled, interpreted, on_gpu, run_interpreted

from vlmamba import ops
from vlmamba.ops import cuda_runtime, reference

triton = pytest.importorskip("triton")

# Beside twice the reference's own error, as parts of a tensor's largest value: outputs, gradients. The interpreter
# cuts float32 to bfloat16 where the hardware rounds, up to one unit in the last place; its exponential is exact where
# the hardware's is not.
SLACKS = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-6, 2e-6) if INTERPRETED else (1e-5, 1e-4),
    torch.bfloat16: (2**-7, 2**-7) if INTERPRETED else (2**-9, 2**-9),
    torch.float16: (2**-10, 2**-10),
}


def slack(name, dtype):
    """What the results of two orders of summing may differ by; `name` is that of `outputs_and_gradients`."""
    return SLACKS[dtype][name.startswith("d")]


SCAN_OPTIONS = ["D", "z", "dt_bias", "dt_softplus", "initial_state", "reset"]
CONV_OPTIONS = ["bias", "activation", "initial_state", "reset"]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Memory that a kernel should have written and did not holds NaN."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)


def scan_inputs(b, l, e, n, options, device, dtype=torch.float32, dt_rank=3):
    """Arguments of the scan as a model makes them: u and z, and dt's neighbours B and C, are slices."""
    make = torch.Generator().manual_seed(l * 1000 + e * 10 + n)
    wide = torch.promote_types(dtype, torch.float32)

    def random(*shape, dtype=dtype):
        return torch.randn(*shape, generator=make, dtype=torch.float64).to(device, dtype)

    u, z = random(b, l, 2 * e).chunk(2, -1)
    B, C = random(b, l, dt_rank + 2 * n)[..., dt_rank:].split(n, -1)
    every = {
        "D": random(e, dtype=wide),
        "z": z,
        "dt_bias": random(e, dtype=wide),
        "dt_softplus": True,
        "initial_state": random(b, e, n, dtype=wide),
        "reset": (torch.rand(b, l, generator=make) < 0.15).to(device),
    }
    dt = random(b, l, e) if "dt_softplus" in options else random(b, l, e).abs()
    A = -torch.exp(random(e, n, dtype=wide))
    return {"u": u, "dt": dt, "A": A, "B": B, "C": C} | {name: every[name] for name in options}


def conv_inputs(b, l, e, k, options, device, dtype=torch.float32):
    make = torch.Generator().manual_seed(l * 1000 + e * 10 + k)
    wide = torch.promote_types(dtype, torch.float32)

    def random(*shape, dtype=dtype):
        return torch.randn(*shape, generator=make, dtype=torch.float64).to(device, dtype)

    every = {
        "bias": random(e, dtype=wide),
        "activation": "silu",
        "initial_state": random(b, e, k - 1),
        "reset": (torch.rand(b, l, generator=make) < 0.15).to(device),
    }
    x, _ = random(b, l, 2 * e).chunk(2, -1)
    weight = random(e, k, dtype=wide)
    return {"x": x, "weight": weight} | {name: every[name] for name in options}


def outputs_and_gradients(op, inputs, dtype=None):
    """Both outputs of `op` and the gradient of every floating tensor, computed in `dtype` if given."""
    inputs = {
        name: (v.to(dtype or v.dtype).detach().requires_grad_() if is_real(v) else v)
        for name, v in inputs.items()
    }
    out, last = op(**inputs)
    make = torch.Generator().manual_seed(7)
    seeds = [torch.randn(t.shape, generator=make).to(t.device) for t in (out, last)]
    wanted = {name: v for name, v in inputs.items() if is_real(v)}
    grads = torch.autograd.grad(
        [out, last], list(wanted.values()), [s.to(t.dtype) for s, t in zip(seeds, (out, last), strict=True)],
        materialize_grads=True,
    )  # fmt: skip
    for grad, tensor in zip(grads, wanted.values(), strict=True):
        assert grad.dtype == tensor.dtype
    return {"out": out, "last": last} | {f"d{k}": g for k, g in zip(wanted, grads, strict=True)}


def is_real(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def assert_equal_to_reference(op_name, inputs):
    """Our error against a float64 run is at most twice that of the reference in the inputs' own dtypes."""
    definition = getattr(reference, op_name)
    exact = outputs_and_gradients(definition, inputs, torch.float64)
    theirs = outputs_and_gradients(definition, inputs)
    from vlmamba.ops import gpu

    ours = outputs_and_gradients(getattr(gpu, op_name), inputs)
    assert ours.keys() == exact.keys()
    for name, right in exact.items():
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == right.shape, name
        if not right.numel():
            continue
        allowed = 2 * (theirs[name] - right).abs().max()
        allowed = allowed + slack(name, ours[name].dtype) * right.abs().max()
        error = (ours[name] - right).abs().max()
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@interpreted
@pytest.mark.parametrize(
    ("l", "e", "n", "options"),
    [
        (1, 5, 5, SCAN_OPTIONS),
        (2, 37, 16, SCAN_OPTIONS),
        (3, 5, 16, []),
        (63, 5, 5, ["dt_softplus", "initial_state"]),
        (65, 5, 16, SCAN_OPTIONS),
        (9, 37, 5, ["D", "dt_bias", "reset"]),
        (5, 1, 1, ["z", "dt_softplus"]),
    ],
)
def test_scan(l, e, n, options):
    assert_equal_to_reference("selective_scan", scan_inputs(2, l, e, n, options, "cpu"))


@interpreted
def test_scan_in_bfloat16():
    inputs = scan_inputs(2, 9, 5, 16, SCAN_OPTIONS, "cpu", torch.bfloat16)
    assert_equal_to_reference("selective_scan", inputs)


@interpreted
def test_scan_in_float64():
    inputs = scan_inputs(1, 6, 3, 4, SCAN_OPTIONS, "cpu", torch.float64)
    assert_equal_to_reference("selective_scan", inputs)


def check_extreme_steps(device):
    """dt -1e4 is no step at all, near 0 and 20 the softplus stays exact; nothing overflows."""
    from vlmamba.ops import gpu

    inputs = scan_inputs(1, 6, 5, 4, ["dt_softplus", "z"], device)
    dt = torch.tensor([-1e4, -30.0, -1e-6, 20.0, 25.0, -1e4], device=device)
    inputs["dt"] = dt[None, :, None].repeat(1, 1, 5)
    inputs["z"] = torch.tensor([-1e4, -90.0, 0.0, 1.0, 90.0, 1e4], device=device)[
        None, :, None
    ].repeat(1, 1, 5)
    assert_equal_to_reference("selective_scan", inputs)
    results = outputs_and_gradients(gpu.selective_scan, inputs)
    assert all(t.isfinite().all() for t in results.values())
    assert (results["ddt"][:, [0, 5]] == 0).all()
    state = torch.randn(1, 5, 4, device=device)
    padding = {name: t[:, :1] if t.dim() == 3 else t for name, t in inputs.items() if is_real(t)}
    _, last = gpu.selective_scan(**padding, dt_softplus=True, initial_state=state)
    assert torch.equal(last, state)


@interpreted
def test_extreme_steps():
    check_extreme_steps("cpu")


@interpreted
def test_scan_where_only_one_output_has_a_gradient():
    from vlmamba.ops import gpu

    for which in (0, 1):
        grads = []
        for op in (reference.selective_scan, gpu.selective_scan):
            inputs = scan_inputs(1, 5, 3, 4, ["initial_state", "dt_softplus"], "cpu")
            inputs = {k: v.requires_grad_() if is_real(v) else v for k, v in inputs.items()}
            op(**inputs)[which].sum().backward()
            grads.append({k: v.grad for k, v in inputs.items() if is_real(v) and k not in "BCu"})
        for name, grad in grads[0].items():
            torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("op", ["selective_scan", "causal_conv1d"])
@pytest.mark.parametrize(("b", "l"), [(2, 0), (0, 3)])
def test_empty(op, b, l):
    from vlmamba.ops import gpu

    make = scan_inputs if op == "selective_scan" else conv_inputs
    inputs = make(b, l, 3, 4, ["initial_state", "reset"], "cpu")
    for ours, right in zip(
        getattr(gpu, op)(**inputs), getattr(reference, op)(**inputs), strict=True
    ):
        assert torch.equal(ours, right)
        assert ours.dtype == right.dtype


@interpreted
@pytest.mark.parametrize(
    ("l", "e", "k", "options"),
    [
        (1, 5, 4, CONV_OPTIONS),
        (2, 37, 4, CONV_OPTIONS),
        (3, 5, 4, []),
        (63, 5, 2, ["bias", "activation"]),
        (65, 3, 4, CONV_OPTIONS),
        (9, 130, 3, ["initial_state", "activation"]),
        (17, 5, 7, ["reset", "initial_state"]),
        (5, 3, 1, ["bias", "activation"]),
    ],
)
def test_conv(l, e, k, options):
    b = 1 if l > 9 else 2
    assert_equal_to_reference("causal_conv1d", conv_inputs(b, l, e, k, options, "cpu"))


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_conv_in_other_dtypes(dtype):
    inputs = conv_inputs(2, 9, 5, 4, CONV_OPTIONS, "cpu", dtype)
    assert_equal_to_reference("causal_conv1d", inputs)


def check_steps(device, dtype, state_dtype, e=37, n=5, k=4):
    """Both step kernels against the reference, on states that are slices of a larger cache."""
    from vlmamba.ops import gpu

    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}  # fmt: skip
    for options in (["D", "z", "dt_bias", "dt_softplus"], []):
        arguments = scan_inputs(3, 1, e, n, options, device, dtype)
        x = arguments.pop("u")[:, 0]
        step = {k: v[:, 0] if is_real(v) and v.dim() == 3 else v for k, v in arguments.items()}
        cache = torch.randn(3, 2, e, n + 1, device=device).to(state_dtype)
        expected, ours = cache.clone(), cache.clone()
        y = reference.selective_state_update_ref(expected[:, 1, :, :n], x, **step)
        y_ours = gpu.selective_state_update(ours[:, 1, :, :n], x, **step)
        torch.testing.assert_close(y_ours, y, **tolerance)
        torch.testing.assert_close(ours, expected, **tolerance)
        assert not torch.equal(ours, cache)
    for options in (["bias", "activation"], []):
        for width in (1, 2, k):
            arguments = conv_inputs(3, 1, e, width, options, device, dtype)
            x = arguments.pop("x")[:, 0]
            cache = torch.randn(3, 2, e, width, device=device).to(state_dtype)
            expected, ours = cache.clone(), cache.clone()
            out = reference.causal_conv1d_update_ref(x, expected[:, 1, :, : width - 1], **arguments)
            out_ours = gpu.causal_conv1d_update(x, ours[:, 1, :, : width - 1], **arguments)
            torch.testing.assert_close(out_ours, out, **tolerance)
            assert torch.equal(ours, expected)


@interpreted
def test_steps():
    check_steps("cpu", torch.float32, torch.float32)
    check_steps("cpu", torch.bfloat16, torch.bfloat16, e=5)


@interpreted
@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo's own, about caches and graph breaks
def test_without_gradients_and_inside_a_compiled_function():
    inputs = scan_inputs(1, 4, 5, 4, ["dt_softplus"], "cpu")
    expected, _ = reference.selective_scan_ref(**inputs)

    def double(u):
        return ops.selective_scan(**(inputs | {"u": u * 2}))

    with torch.inference_mode():
        torch.testing.assert_close(ops.selective_scan(**inputs), expected)
    half = (inputs["u"] / 2).requires_grad_()
    with torch.no_grad():
        assert not double(half).requires_grad
    y = torch.compile(double, backend="eager")(half)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert half.grad is not None


@compiled
def test_the_interpreted_tests_pass():
    assert "test_scan" not in run_interpreted(__file__)


def launches(monkeypatch, call):
    """Every kernel launch that `call` makes, as (kernel, bound arguments, options); nothing runs."""
    seen = []

    def record(kernel, *args, grid, warmup, **kwargs):
        options = {k: kwargs.pop(k) for k in [*kwargs] if k not in kernel.arg_names}
        seen.append((kernel, dict(zip(kernel.arg_names, args, strict=True)) | kwargs, options))

    with monkeypatch.context() as patch:
        patch.setattr(triton.runtime.jit.JITFunction, "run", record)
        call()
    return seen


def compile_for(architecture, kernel, arguments, options):
    """The kernel compiled as for a real launch: absent tensors and ones folded, alignment known."""
    names = {
        torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64",
        torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
    }  # fmt: skip
    signature, constants, attributes = {}, {}, {}
    for position, param in enumerate(kernel.params):
        value = arguments[param.name]
        if isinstance(value, torch.Tensor):
            signature[param.name] = names[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif param.is_constexpr or value is None or (value == 1 and not param.do_not_specialize):
            signature[param.name] = "constexpr"
            constants[param.name] = value
        elif isinstance(value, float):
            signature[param.name] = "fp32"
        else:
            signature[param.name] = "i32"
            if value % 16 == 0 and not param.do_not_specialize:
                attributes[(position,)] = [["tt.divisibility", 16]]
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def every_call(dtype, options):
    """One forward and backward of each op, and one of each step."""
    from vlmamba.ops import gpu

    b, l, e, n, k = 2, 48, 64, 16, 4
    scan = scan_inputs(b, l, e, n, SCAN_OPTIONS if options else [], "cpu", dtype)
    conv = conv_inputs(b, l, e, k, CONV_OPTIONS if options else [], "cpu", dtype)
    outputs_and_gradients(gpu.selective_scan, scan)
    outputs_and_gradients(gpu.causal_conv1d, conv)
    step = {name: v[:, 0] if is_real(v) and v.dim() == 3 else v for name, v in scan.items()}
    x, state = step.pop("u"), torch.randn(b, e, n)
    step = {name: v for name, v in step.items() if name not in ("initial_state", "reset")}
    gpu.selective_state_update(state, x, **step)
    conv = {name: v for name, v in conv.items() if name not in ("x", "initial_state", "reset")}
    gpu.causal_conv1d_update(x, torch.randn(b, e, k - 1), **conv)


@compiled
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("options", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_every_kernel_compiles(monkeypatch, architecture, options, dtype):
    made = launches(monkeypatch, lambda: every_call(dtype, options))
    assert len({kernel for kernel, _, _ in made}) == 7
    for launch in made:
        assert compile_for(architecture, *launch).asm["cubin"]


def decoding_calls():
    """One launch of every kernel of a decoding step, at widths of a published model."""
    from vlmamba.ops import decode
    from vlmamba.ops.thin_linear import Tile, sum_partials, thin_linear

    def new(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype)

    b, d, e, n, r = 8, 256, 512, 16, 16
    conv, conv_weight, xz = new(b, e, 3), new(e, 4), new(b, 2 * e)
    states = [(new(b, e, 3), new(b, e, n, dtype=torch.float32)) for _ in range(2)]
    partials = new(2, b, r + 2 * n, dtype=torch.float32)
    mixed, residual = new(4, b, d, dtype=torch.float32), new(b, d, dtype=torch.float32)
    decode.add_norm(residual, mixed, new(d), 1e-5, new(b, d))
    thin_linear(new(b, d), new(2 * e, d), xz[None], Tile())
    decode.conv_select(xz, conv, conv_weight, new(e), new(r + 2 * n, e), partials)
    sum_partials(partials, new(b, r + 2 * n))
    for dt in (None, new(b, e)):
        decode.ssm_step(
            xz, *states, conv_weight, new(e), new(b, r + 2 * n), new(e, r), new(e), new(e, n), new(e), new(b, e),
            rows=4, dt=dt,
        )  # fmt: skip
    decode.keep_inputs(new(b, 5, e), conv, torch.ones(b, dtype=torch.long))


@compiled
@pytest.mark.parametrize("architecture", [80, 90])
def test_every_decoding_kernel_compiles(monkeypatch, architecture):
    from vlmamba.ops import dependent_launch

    monkeypatch.setattr(dependent_launch, "starts_early", lambda _: architecture >= 90)
    made = launches(monkeypatch, decoding_calls)
    assert len({kernel for kernel, _, _ in made}) == 6
    for launch in made:
        assert compile_for(architecture, *launch).asm["cubin"]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("l", [1, 2, 3, 63, 64, 65, 729, 2049])
@pytest.mark.parametrize("options", [False, True], ids=["bare", "every option"])
def test_on_the_device(monkeypatch, l, dtype, options):
    monkeypatch.setattr(cuda_runtime, "unavailable", lambda device: "the Triton scan is tested")
    scan = scan_inputs(3, l, 77, 16, SCAN_OPTIONS if options else [], "cuda", dtype)
    conv = conv_inputs(3, l, 133, 4, CONV_OPTIONS if options else [], "cuda", dtype)
    assert_equal_to_reference("selective_scan", scan)
    assert_equal_to_reference("causal_conv1d", conv)


@on_gpu
def test_extreme_steps_on_the_device():
    check_extreme_steps("cuda")


@on_gpu
def test_float64_on_the_device():
    inputs = scan_inputs(2, 65, 33, 5, SCAN_OPTIONS, "cuda", torch.float64)
    assert_equal_to_reference("selective_scan", inputs)


@on_gpu
def test_steps_on_the_device():
    check_steps("cuda", torch.float32, torch.float32)
    check_steps("cuda", torch.bfloat16, torch.bfloat16)


@on_gpu
def test_every_run_gives_the_same_bits():
    from vlmamba.ops import gpu

    inputs = scan_inputs(4, 129, 512, 16, SCAN_OPTIONS, "cuda", torch.bfloat16)
    first, *others = (outputs_and_gradients(gpu.selective_scan, inputs) for _ in range(5))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
