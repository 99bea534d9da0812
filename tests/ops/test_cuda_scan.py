"""The selective scan in CUDA C++: run on the CPU against an emulation, compiled ahead of time, run on a GPU."""

import shutil

import pytest
import torch
from cuda_emulation import EmulatedKernel, kernel_in
from op_cases import OPTIONAL, assert_same, resets, results, scan_arguments, without

from vlmamba.ops import cuda_runtime, cuda_scan, reference, scan_plans
from vlmamba.ops.scan_plans import Plan

emulated = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the emulation")


def has_nvrtc():
    try:
        return bool(cuda_runtime.nvrtc_version())
    except OSError:
        return False


ahead_of_time = pytest.mark.skipif(not has_nvrtc(), reason="no libnvrtc: install nvidia-cuda-nvrtc")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def emulation(monkeypatch, libraries):
    """The kernels run on the CPU; memory that one of them should have written and did not holds NaN."""
    monkeypatch.setattr(cuda_scan, "kernel", kernel_in(libraries))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kw: empty(*size, **kw).fill_(float("nan")))


def assert_equals_reference(arguments, tolerance=2e-6, **options):
    """Equal to a float64 run, up to `tolerance` times the largest value of each tensor."""
    found = results(cuda_scan.selective_scan, arguments, **options)
    wide = {name: t.double() for name, t in arguments.items()}
    expected = results(reference.selective_scan, wide, **options)
    assert_same(found, {name: t.to(found[name].dtype) for name, t in expected.items()}, tolerance)


@emulated
@pytest.mark.parametrize(
    ("b", "l", "e"),
    [(2, 1, 3), (1, 2, 33), (1, 3, 7), (1, 63, 71), (2, 64, 37), (2, 65, 5), (1, 129, 5)],
)
def test_equals_the_reference(emulation, b, l, e):
    arguments = scan_arguments(b, l, e, 16, torch.float32)
    assert_equals_reference(arguments, dt_softplus=True, reset=resets(b, l))


@emulated
def test_a_state_is_moved_on_in_place(emulation):
    check_moving_on(2, 35, 10, 5, "cpu", cuda_scan.scan_onwards)


def check_moving_on(b, l, e, n, device, scan_onwards):
    """y and the last state in two parts, as of a float64 run over all positions."""
    arguments = scan_arguments(b, l, e, n, torch.float32)
    wide = {name: t.double() for name, t in arguments.items()}
    right, last = reference.selective_scan(**wide, dt_softplus=True)
    u, dt, A, B, C, D, z, dt_bias, state = (t.to(device) for t in arguments.values())
    first = l // 3
    parts = [
        scan_onwards(*(t[:, part] for t in (u, dt)), A, *(t[:, part] for t in (B, C)), D, z[:, part], dt_bias, state)
        for part in (slice(first), slice(first, l))
    ]  # fmt: skip
    assert_same(
        {"y": torch.cat(parts, 1).cpu(), "last": state.cpu()},
        {"y": right.float(), "last": last.float()},
        1e-5,
    )


@emulated
@pytest.mark.parametrize("n", [1, 5, 24, 40])
def test_any_number_of_states(emulation, n):
    assert_equals_reference(scan_arguments(1, 19, 6, n, torch.float32), dt_softplus=True)


@emulated
@pytest.mark.parametrize(("absent", "dt_softplus"), [(("z",), True), (OPTIONAL, False)])
def test_without_optional_arguments(emulation, absent, dt_softplus):
    arguments = without(scan_arguments(2, 20, 34, 16, torch.float32), *absent)
    if not dt_softplus:
        arguments["dt"] = arguments["dt"].abs() * 0.1
    assert_equals_reference(arguments, dt_softplus=dt_softplus)


@emulated
@pytest.mark.parametrize("e", [10, 33])  # pairs of channels, and channels one by one
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_half_precision(emulation, e, dtype, tolerance):
    arguments = scan_arguments(2, 20, e, 16, dtype)
    for name in ("A", "D", "dt_bias", "initial_state"):  # the model keeps these in float32
        arguments[name] = arguments[name].float()
    assert_equals_reference(arguments, tolerance, dt_softplus=True)


@emulated
@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (
            Plan(128, 2, 1, 16, 0, 0, 0, 4, 1),
            Plan(128, 4, 2, 16, 8, 1, 0, 2, 1),
        ),  # for many channels
        (Plan(64, 2, 2, 16, 0, 0, 3, 1, 1), Plan(64, 4, 1, 16, 16, 0, 2, 1, 1)),
        (Plan(32, 1, 1, 16, 0, 0, 2, 1, 1), Plan(32, 8, 2, 24, 8, 0, 0, 1, 1, segments=2)),
        (Plan(160, 8, 1, 64, 0, 0, 0, 1, 1), Plan(160, 8, 1, 16, 16, 0, 0, 1, 1)),
        (Plan(64, 2, 1, 16, 0, 0, 0, 1, 1), Plan(64, 4, 2, 16, 8, 1, 0, 1, 1, 4, True)),
        (Plan(160, 4, 1, 32, 0, 0, 0, 1, 1), Plan(96, 8, 1, 16, 8, 1, 0, 1, 1, segments=4)),
    ],
)
def test_any_division_of_the_work(emulation, monkeypatch, forward, backward):
    monkeypatch.setattr(cuda_scan, "forward_plan", lambda *_: forward)
    monkeypatch.setattr(cuda_scan, "backward_plan", lambda *_: backward)
    arguments = scan_arguments(2, 35, 70, 16, torch.float32)
    for name in ("B", "C"):  # four states at once
        arguments[name] = arguments[name].contiguous()
    assert_equals_reference(arguments, dt_softplus=True)
    assert_equals_reference(arguments, dt_softplus=True, reset=resets(2, 35))


@emulated
def test_gradients_without_the_output(emulation):
    arguments = scan_arguments(2, 35, 70, 16, torch.float32)
    options = {"dt_softplus": True, "reset": resets(2, 35)}
    expected = results(cuda_scan.selective_scan, arguments, **options)
    found = results(cuda_scan.selective_scan, arguments, gradients_only=True, **options)
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape
        if name.startswith("gradient"):
            assert torch.equal(found[name], gradient), name


@emulated
@pytest.mark.parametrize("plan", [scan_plans.MANY, scan_plans.FEWER])
def test_no_barrier_is_missing(emulation, monkeypatch, plan):
    """The order in which threads run between two barriers makes no difference."""
    monkeypatch.setattr(cuda_scan, "backward_plan", lambda *_: plan)
    arguments = scan_arguments(1, 35, 70, 16, torch.float32)
    options = {"dt_softplus": True, "reset": resets(1, 35)}
    expected = results(cuda_scan.selective_scan, arguments, **options)
    monkeypatch.setattr(EmulatedKernel, "backwards", True)
    assert_same(results(cuda_scan.selective_scan, arguments, **options), expected, 0.0)


@emulated
@pytest.mark.parametrize("step", [-1e4, -30.0, -1e-6, 20.0, 80.0])
def test_extreme_steps_stay_finite(emulation, step):
    arguments = without(scan_arguments(1, 7, 4, 16, torch.float32), "dt_bias")
    arguments["dt"].fill_(step)
    arguments["z"] = torch.tensor([-1e4, -90.0, 90.0, 1e4]).repeat(1, 7, 1)
    assert_equals_reference(arguments, dt_softplus=True)
    if step == -1e4:  # no step at all
        _, last = cuda_scan.selective_scan(**arguments, dt_softplus=True)
        assert torch.equal(last, arguments["initial_state"])


@emulated
@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_of_one_output_alone(emulation, which):
    arguments = scan_arguments(1, 20, 6, 16, torch.float32)
    grads = []
    for op in (cuda_scan.selective_scan, reference.selective_scan):
        leaves = {name: t.detach().clone().requires_grad_() for name, t in arguments.items()}
        op(**leaves, dt_softplus=True)[which].sum().backward()
        grads.append({name: t.grad for name, t in leaves.items() if t.grad is not None})
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-4, atol=1e-4)


@emulated
@pytest.mark.parametrize(("b", "l"), [(2, 0), (0, 3)])
def test_empty(emulation, b, l):
    assert_equals_reference(scan_arguments(b, l, 6, 16, torch.float32), dt_softplus=True)


def test_few_channels_are_shared_by_more_lanes():
    def lanes(rows, multiprocessors=132):
        return [
            plan(16, rows, 5120, multiprocessors).lanes
            for plan in (scan_plans.forward_plan, scan_plans.backward_plan)
        ]

    assert lanes(1)[0] == 8
    assert lanes(8) == [2, 4]
    assert lanes(1, multiprocessors=16) == lanes(8)


def test_a_sequence_is_cut_where_there_are_few():
    def cut(rows):
        return scan_plans.backward_plan(16, rows, 5120, 132).cut

    assert cut(1)
    assert not cut(8)


def test_what_is_left_to_triton():
    def takes(dtype=torch.float32, n=16, **changed):
        arguments = scan_arguments(1, 2, 4, n, dtype) | changed
        return cuda_scan.takes(*(arguments[name] for name in ("u", "dt", "A", "B", "C", "z")))

    assert takes()
    assert not takes(torch.float64)
    assert not takes(n=65)
    assert not takes(dt=torch.zeros(1, 2, 4, dtype=torch.bfloat16))


@ahead_of_time
@pytest.mark.parametrize("architecture", [80, 90])
def test_every_kernel_compiles(monkeypatch, tmp_path, architecture):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = []

    class Compiled:
        def __init__(self, source, name, defines, device, shared_bytes):
            compiled.append((name, cuda_runtime.cubin(source, defines, architecture)))

        def launch(self, *_):
            pass

    monkeypatch.setattr(cuda_scan, "kernel", Compiled)
    for dtype, n, absent in ((torch.bfloat16, 16, ()), (torch.float32, 33, OPTIONAL)):
        arguments = without(scan_arguments(1, 5, 4, n, dtype), *absent)
        results(cuda_scan.selective_scan, arguments, dt_softplus=True)
    (at_once,) = (plan for plan in scan_plans.BACKWARD if plan.cut)
    monkeypatch.setattr(cuda_scan, "backward_plan", lambda *_: at_once)
    results(cuda_scan.selective_scan, scan_arguments(1, 5, 4, 16, torch.bfloat16))
    parts = ["fwd", "bwd", "sum"] * 2 + ["fwd", "reach", "join", "bwd", "sum"]
    assert [name for name, _ in compiled] == [f"selective_scan_{part}" for part in parts]
    assert all(name.encode() in code for name, code in compiled)


SOURCE = 'extern "C" __global__ void copy(const int* from, int* to) { *to = *from; }'


@ahead_of_time
def test_compiled_code_is_kept_unless_the_file_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = cuda_runtime.cubin(SOURCE, (("NUMBER", 1),), 90)
    (file,) = tmp_path.rglob("*.cubin")
    with monkeypatch.context() as patch:
        patch.setattr(cuda_runtime, "_compile", lambda *_: pytest.fail("compiled again"))
        assert cuda_runtime.cubin(SOURCE, (("NUMBER", 1),), 90) == code
    for broken in (b"", file.read_bytes()[:-1]):
        file.write_bytes(broken)
        assert cuda_runtime.cubin(SOURCE, (("NUMBER", 1),), 90) == code
    cuda_runtime.cubin(SOURCE, (("NUMBER", 2),), 90)
    assert len([*tmp_path.rglob("*")]) == 4  # two directories, two files, nothing half written


@ahead_of_time
def test_a_cache_that_cannot_be_written_does_no_harm(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cuda_runtime.cubin(SOURCE, (), 90)


@ahead_of_time
def test_a_compiler_error_is_shown():
    with pytest.raises(RuntimeError, match=r"NVRTC .*unknown_type"):
        cuda_runtime.cubin("unknown_type x;", (), 90)


def on_gpu(test):
    """Marks a test that needs a real CUDA device."""
    return pytest.mark.gpu(
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test)
    )


def on_device(arguments, dtype=None):
    return {name: t.to("cuda", dtype or t.dtype) for name, t in arguments.items()}


def assert_within_tolerance(arguments, **options):
    """Against a float64 run, as parts of a tensor's largest value.

    float32: 1e-5 for outputs, 1e-4 for gradients; bfloat16: twice the error of the reference run in bfloat16.
    """
    from vlmamba.ops import gpu

    found = results(gpu.selective_scan, arguments, **options)
    theirs = results(reference.selective_scan, arguments, **options)
    exact = results(reference.selective_scan, on_device(arguments, torch.float64), **options)
    for name, right in exact.items():
        assert found[name].dtype == theirs[name].dtype
        scale = right.abs().max()
        allowed = (1e-4 if name.startswith("gradient") else 1e-5) * scale
        if found[name].dtype == torch.bfloat16:
            allowed = 2 * (theirs[name] - right).abs().max()
        error = (found[name] - right).abs().max()
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("l", [1, 2, 3, 63, 64, 65, 729, 2049])
@pytest.mark.parametrize(("b", "e", "n"), [(3, 77, 16), (1, 130, 5)])
def test_on_the_device(b, l, e, n, dtype):
    assert cuda_runtime.unavailable(0) is None
    arguments = scan_arguments(b, l, e, n, dtype)
    for name in ("A", "D", "dt_bias", "initial_state"):
        arguments[name] = arguments[name].float()
    reset = resets(b, l).cuda()
    assert_within_tolerance(on_device(arguments), dt_softplus=True, reset=reset)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("way", "plan"),
    [("forward", plan) for plan in scan_plans.FORWARD]
    + [("backward", plan) for plan in scan_plans.BACKWARD],
)
def test_every_plan_on_the_device(monkeypatch, way, plan, dtype):
    monkeypatch.setattr(cuda_scan, f"{way}_plan", lambda *_: plan)
    arguments = scan_arguments(2, 131, 330, 16, dtype)
    for name in ("A", "D", "dt_bias", "initial_state"):
        arguments[name] = arguments[name].float()
    assert_within_tolerance(on_device(arguments), dt_softplus=True, reset=resets(2, 131).cuda())


@on_gpu
def test_a_state_is_moved_on_in_place_on_the_device():
    from vlmamba.ops import gpu

    check_moving_on(2, 300, 77, 16, "cuda", gpu.scan_onwards)


@on_gpu
@pytest.mark.parametrize("step", [-1e4, -30.0, -1e-6, 20.0, 80.0])
def test_extreme_steps_on_the_device(step):
    arguments = without(scan_arguments(1, 70, 4, 16, torch.float32), "dt_bias")
    arguments["dt"].fill_(step)
    arguments["z"] = torch.tensor([-1e4, -90.0, 90.0, 1e4]).repeat(1, 70, 1)
    assert_within_tolerance(on_device(arguments), dt_softplus=True)


@on_gpu
@pytest.mark.parametrize(("b", "l", "e"), [(1, 300, 96), (2, 300, 1024), (8, 300, 2560)])
def test_every_run_gives_the_same_bits(b, l, e):
    arguments = on_device(scan_arguments(b, l, e, 16, torch.bfloat16))
    first, *others = (
        results(cuda_scan.selective_scan, arguments, dt_softplus=True) for _ in range(5)
    )
    for other in others:
        assert_same(other, first, 0.0)


@on_gpu
def test_forward_and_backward_in_a_graph():
    arguments = on_device(scan_arguments(2, 65, 128, 16, torch.bfloat16))

    def both_ways():
        leaves = {name: t.detach().requires_grad_() for name, t in arguments.items()}
        y, _ = cuda_scan.selective_scan(**leaves, dt_softplus=True)
        return y, *torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))

    expected = both_ways()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both_ways()
    for tensor in captured:
        tensor.detach().zero_()
    graph.replay()
    for found, right in zip(captured, expected, strict=True):
        assert torch.equal(found, right)
