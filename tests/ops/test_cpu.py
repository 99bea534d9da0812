"""The CPU backend equals the reference: outputs, states and every gradient, however it is called."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import (
    OPTIONAL,
    assert_same,
    conv_arguments,
    resets,
    results,
    scan_arguments,
    without,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlmamba.ops import cpu, cpu_scan, reference

LENGTHS = [0, 1, 2, 63, 128, 500]
EXACT = 1e-12  # relative, for float64


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("l", LENGTHS)
def test_scan_equals_the_reference(l: int, reset: bool) -> None:
    arguments = scan_arguments(2, l, 7, 5)
    options = {"dt_softplus": True, "reset": resets(2, l) if reset else None}
    found = results(cpu.selective_scan, arguments, **options)
    assert_same(found, results(reference.selective_scan, arguments, **options), EXACT)


@pytest.mark.parametrize("dt_softplus", [False, True])
@pytest.mark.parametrize("absent", [*((name,) for name in OPTIONAL), OPTIONAL])
def test_scan_without_an_optional_argument(absent: tuple[str, ...], dt_softplus: bool) -> None:
    arguments = without(scan_arguments(3, 20, 33, 1), *absent)
    if not dt_softplus:
        arguments["dt"] = arguments["dt"].abs() * 0.1
    found = results(cpu.selective_scan, arguments, dt_softplus=dt_softplus)
    expected = results(reference.selective_scan, arguments, dt_softplus=dt_softplus)
    assert_same(found, expected, EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_scan_in_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    arguments = scan_arguments(2, 100, 40, 16, dtype)
    for name in ("A", "D", "dt_bias", "initial_state"):  # the model keeps these in float32
        arguments[name] = arguments[name].float()
    found = results(cpu.selective_scan, arguments, dt_softplus=True)
    expected = results(reference.selective_scan, arguments, dt_softplus=True)
    assert found["output"].dtype == dtype
    assert found["last state"].dtype == torch.float32
    assert_same(found, expected, tolerance)


@pytest.mark.parametrize("reset", [False, True])
def test_scan_gradients_match_finite_differences(
    monkeypatch: pytest.MonkeyPatch, reset: bool
) -> None:
    monkeypatch.setattr(cpu_scan, "CHUNK_LENGTHS", (3, 3))  # two chunks and a shorter third
    arguments = scan_arguments(2, 7, 2, 3)
    names = list(arguments)

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, tensors, strict=True))
        mask = resets(2, 7) if reset else None
        return cpu.selective_scan(**named, dt_softplus=True, reset=mask)

    leaves = [t.detach().clone().requires_grad_() for t in arguments.values()]
    assert torch.autograd.gradcheck(scan, leaves)


@settings(max_examples=25, deadline=None)
@given(l=st.integers(1, 90), cuts=st.lists(st.integers(0, 90), max_size=4), seed=st.integers(0, 99))
def test_scan_in_pieces_is_one_scan(l: int, cuts: list[int], seed: int) -> None:
    arguments = scan_arguments(2, l, 3, 4, seed=seed)
    reset = resets(2, l, seed)
    whole, last = cpu.selective_scan(**arguments, dt_softplus=True, reset=reset)
    state, pieces = arguments["initial_state"], []
    edges = [0, *sorted(min(cut, l) for cut in cuts), l]
    for begin, end in pairwise(edges):
        piece = {
            name: t[:, begin:end] if name in ("u", "dt", "B", "C", "z") else t
            for name, t in arguments.items()
        }
        piece["initial_state"] = state
        y, state = cpu.selective_scan(**piece, dt_softplus=True, reset=reset[:, begin:end])
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-11)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 3),
    l=st.integers(0, 40),
    e=st.integers(1, 20),
    n=st.integers(1, 9),
    size=st.integers(1, 12),
)
def test_scan_of_any_shape_in_chunks_of_any_length(
    b: int, l: int, e: int, n: int, size: int
) -> None:
    arguments = scan_arguments(b, l, e, n)
    options = {"dt_softplus": True, "reset": resets(b, l)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_scan, "CHUNK_LENGTHS", (size, size))
        found = results(cpu.selective_scan, arguments, **options)
    assert_same(found, results(reference.selective_scan, arguments, **options), EXACT)


def test_a_position_without_a_step_changes_nothing() -> None:
    arguments = scan_arguments(2, 6, 5, 4)
    arguments["dt"][:, 3:] = -1e4
    _, before = cpu.selective_scan(
        **{k: t[:, :3] if k in ("u", "dt", "B", "C", "z") else t for k, t in arguments.items()},
        dt_softplus=True,
    )
    found = results(cpu.selective_scan, arguments, dt_softplus=True)
    assert torch.equal(found["last state"], before)
    assert not found["gradient of dt"][:, 3:].any()
    assert not found["gradient of B"][:, 3:].any()
    assert all(t.isfinite().all() for t in found.values())


@pytest.mark.parametrize("dt", [20.0, 80.0, -20.0, -80.0])
def test_extreme_steps_stay_finite(dt: float) -> None:
    arguments = scan_arguments(1, 40, 4, 3, torch.float32)
    arguments["dt"].fill_(dt)
    arguments["A"].mul_(4)
    found = results(cpu.selective_scan, arguments, dt_softplus=True)
    assert all(t.isfinite().all() for t in found.values())
    assert_same(found, results(reference.selective_scan, arguments, dt_softplus=True), 2e-5)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (cpu.selective_scan, scan_arguments(1, 9, 4, 3)),
        (cpu.causal_conv1d, conv_arguments(1, 9, 4, 3)),
    ],
)
def test_one_argument_alone_gets_its_gradient(op: Callable, arguments: dict[str, Tensor]) -> None:
    everything = results(op, arguments)
    for name in arguments:
        leaf = arguments[name].detach().requires_grad_()
        outputs = op(**{k: t.detach() for k, t in arguments.items()} | {name: leaf})
        g = torch.Generator().manual_seed(99)
        directions = [
            torch.randn(t.shape, generator=g, dtype=torch.float64).bfloat16().double()
            for t in outputs
        ]
        (grad,) = torch.autograd.grad(outputs, leaf, directions)
        torch.testing.assert_close(grad, everything[f"gradient of {name}"])


def test_gradient_through_one_output_alone_and_twice() -> None:
    arguments = scan_arguments(1, 9, 4, 3)
    for op in (cpu.selective_scan, reference.selective_scan):
        leaf = arguments["B"].detach().requires_grad_()
        y, last = op(**{**arguments, "B": leaf}, dt_softplus=True)
        by_y = torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0]
        by_last = torch.autograd.grad(last.sum(), leaf, retain_graph=True)[0]
        both = torch.autograd.grad(y.sum() + last.sum(), leaf)[0]
        torch.testing.assert_close(by_y + by_last, both)


def test_second_derivatives_are_refused() -> None:
    u = scan_arguments(1, 4, 2, 2)["u"].requires_grad_()
    y, _ = cpu.selective_scan(**{**scan_arguments(1, 4, 2, 2), "u": u})
    (grad,) = torch.autograd.grad(y.square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_outputs_are_the_same(mode: Callable) -> None:
    scan, conv = scan_arguments(2, 30, 4, 3), conv_arguments(2, 30, 4, 4)
    expected = (
        results(cpu.selective_scan, scan)["output"],
        results(cpu.causal_conv1d, conv)["output"],
    )
    with mode():
        y, _ = cpu.selective_scan(**{**scan, "A": scan["A"].requires_grad_()})
        out, _ = cpu.causal_conv1d(**conv)
    assert not y.requires_grad
    assert torch.equal(y, expected[0])
    assert torch.equal(out, expected[1])


def test_under_activation_checkpointing() -> None:
    arguments = scan_arguments(2, 30, 4, 3)

    def scan(**named: Tensor) -> tuple[Tensor, Tensor]:
        return cpu.selective_scan(**named, dt_softplus=True)

    def recomputed(**named: Tensor) -> tuple[Tensor, Tensor]:
        return checkpoint(scan, use_reentrant=False, **named)

    assert_same(results(recomputed, arguments), results(scan, arguments), 0.0)


def test_autocast_does_not_lower_the_state() -> None:
    scan, conv = (
        scan_arguments(2, 30, 4, 3, torch.float32),
        conv_arguments(2, 30, 4, 4, torch.float32),
    )

    def run() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        state = scan["initial_state"].detach().clone()
        step = cpu.selective_state_update(state, **step_arguments(scan), dt_softplus=True)
        return (
            results(cpu.selective_scan, scan, dt_softplus=True),
            results(cpu.causal_conv1d, conv),
            step,
        )

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        found = run()
    assert_same(found[0], expected[0], 0.0)
    assert_same(found[1], expected[1], 0.0)
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("l", LENGTHS)
def test_convolution_equals_the_reference(l: int, reset: bool) -> None:
    arguments = conv_arguments(2, l, 7, 4)
    options = {"activation": "silu", "reset": resets(2, l) if reset else None}
    found = results(cpu.causal_conv1d, arguments, **options)
    assert_same(found, results(reference.causal_conv1d, arguments, **options), EXACT)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("absent", [("bias",), ("initial_state",), ("bias", "initial_state")])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_convolution_without_an_optional_argument(
    k: int, absent: tuple[str, ...], activation: str | None
) -> None:
    arguments = without(conv_arguments(3, 11, 5, k), *absent)
    found = results(cpu.causal_conv1d, arguments, activation=activation)
    expected = results(reference.causal_conv1d, arguments, activation=activation)
    assert_same(found, expected, EXACT)


def test_convolution_gradients_match_finite_differences() -> None:
    arguments = conv_arguments(2, 5, 3, 4)
    names = list(arguments)

    def conv(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, tensors, strict=True))
        return cpu.causal_conv1d(**named, activation="silu", reset=resets(2, 5, seed=1))

    leaves = [t.detach().clone().requires_grad_() for t in arguments.values()]
    assert torch.autograd.gradcheck(conv, leaves)


def test_convolution_in_bfloat16() -> None:
    arguments = conv_arguments(2, 50, 9, 4, torch.bfloat16)
    found = results(cpu.causal_conv1d, arguments, activation="silu")
    assert_same(found, results(reference.causal_conv1d, arguments, activation="silu"), 2e-2)


@settings(max_examples=25, deadline=None)
@given(l=st.integers(1, 30), cut=st.integers(0, 30), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_convolution_in_pieces_is_one_convolution(l: int, cut: int, k: int, seed: int) -> None:
    arguments = conv_arguments(2, l, 3, k, seed=seed)
    reset, cut = resets(2, l, seed), min(cut, l)
    whole, last = cpu.causal_conv1d(**arguments, reset=reset)
    x = arguments.pop("x")
    first, state = cpu.causal_conv1d(x[:, :cut], **arguments, reset=reset[:, :cut])
    arguments["initial_state"] = state
    second, state = cpu.causal_conv1d(x[:, cut:], **arguments, reset=reset[:, cut:])
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert torch.equal(state, last)


def step_arguments(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first position of a scan's arguments, as `selective_state_update` takes them."""
    step = {k: t[:, 0] if k in ("u", "dt", "B", "C", "z") else t for k, t in arguments.items()}
    step["x"] = step.pop("u")
    return without(step, "initial_state")


@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias")])
def test_a_state_update_is_a_scan_of_one_position(absent: tuple[str, ...]) -> None:
    arguments = without(scan_arguments(3, 1, 7, 5), *absent)
    y, last = reference.selective_scan(**arguments, dt_softplus=True)
    state = arguments["initial_state"].clone()
    out = cpu.selective_state_update(state, **step_arguments(arguments), dt_softplus=True)
    torch.testing.assert_close(out, y[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_a_state_update_in_bfloat16(state_dtype: torch.dtype) -> None:
    arguments = scan_arguments(2, 1, 7, 5, torch.bfloat16)
    step, state = step_arguments(arguments), arguments["initial_state"].to(state_dtype)
    expected_state = state.clone()
    expected = reference.selective_state_update(expected_state, **step, dt_softplus=True)
    out = cpu.selective_state_update(state, **step, dt_softplus=True)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(state, expected_state, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_update_is_a_sequence_of_one(
    bias: bool, activation: str | None, dtype: torch.dtype
) -> None:
    arguments = conv_arguments(2, 1, 6, 4, dtype)
    x, state = arguments["x"][:, 0], arguments["initial_state"]
    rest = (arguments["weight"], arguments["bias"] if bias else None, activation)
    expected_state = state.clone()
    expected = reference.causal_conv1d_update(x, expected_state, *rest)
    out = cpu.causal_conv1d_update(x, state, *rest)
    torch.testing.assert_close(out, expected)
    assert torch.equal(state, expected_state)


def test_updates_run_in_inference_mode_on_a_slice_of_a_state() -> None:
    arguments = scan_arguments(2, 1, 7, 5, torch.float32)
    states = torch.zeros(3, 2, 7, 5)
    with torch.inference_mode():
        cpu.selective_state_update(states[1], **step_arguments(arguments), dt_softplus=True)
    assert states[1].any()
    assert not states[0].any()
    assert not states[2].any()


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_states() -> None:
    b, l, e, n = 2, 1024, 64, 16
    kept: list[Tensor] = []
    arguments = {k: t.requires_grad_() for k, t in scan_arguments(b, l, e, n).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cpu.selective_scan(**arguments, dt_softplus=True)
    new = sum(
        t.numel() for t in kept if all(t.data_ptr() != a.data_ptr() for a in arguments.values())
    )
    assert 0 < new <= b * l * e  # one checkpoint of n numbers for every n positions or more


MEMORY_PROBE = """
import resource, torch
from vlmamba.ops import cpu
b, l, e, n = 1, 2048, 512, 64
torch.manual_seed(0)
leaf = lambda *shape: torch.randn(*shape).requires_grad_()
u, dt, z, B, C = leaf(b, l, e), leaf(b, l, e), leaf(b, l, e), leaf(b, l, n), leaf(b, l, n)
A = (-torch.rand(e, n)).requires_grad_()
tiny = [t.detach()[:, :2].requires_grad_() for t in (u, dt, B, C)]
cpu.selective_scan(*tiny[:2], A, *tiny[2:])[0].sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y, _ = cpu.selective_scan(u, dt, A, B, C, z=z, dt_softplus=True)
y.sum().backward()
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(grown / (b * l * e * n * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_the_whole_scan_takes_less_memory_than_one_tensor_of_all_states() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 0.75
