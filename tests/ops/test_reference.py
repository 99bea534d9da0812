"""The reference ops against arithmetic done by hand, finite differences and PyTorch's own convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import conv_arguments, resets, scan_arguments
from torch import Tensor

from vlmamba.ops.reference import (
    causal_conv1d_ref,
    causal_conv1d_update_ref,
    selective_scan_ref,
    selective_state_update_ref,
)


def column(*values: float) -> Tensor:
    """One sequence of one channel (1, l, 1)."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def test_three_steps_by_hand() -> None:
    # delta = ln 2 and A = -1 halve the state at every step; then ln 2 * B * u is added.
    ln2 = math.log(2)
    y, last = selective_scan_ref(
        column(1, 2, 3),
        column(ln2, ln2, ln2),
        torch.tensor([[-1.0]], dtype=torch.float64),
        column(1, 1, 2),
        column(1, 10, 1),
    )
    h = [1 * ln2, 2.5 * ln2, 7.25 * ln2]
    torch.testing.assert_close(y, column(h[0], 10 * h[1], h[2]))
    torch.testing.assert_close(last, torch.tensor([[[h[2]]]], dtype=torch.float64))


def test_skip_gate_and_softplus_by_hand() -> None:
    # softplus(0) = ln 2; the gate silu(1) = 1 / (1 + 1/e) multiplies scan and skip alike.
    one = torch.tensor([1.0], dtype=torch.float64)
    y, _ = selective_scan_ref(
        column(3),
        column(-2),
        torch.tensor([[-1.0]], dtype=torch.float64),
        column(5),
        column(7),
        D=one * 11,
        z=column(1),
        dt_bias=one * 2,
        dt_softplus=True,
    )
    torch.testing.assert_close(y, column((7 * math.log(2) * 5 * 3 + 11 * 3) / (1 + math.exp(-1))))


def test_two_states_share_one_channel() -> None:
    # The slow state keeps everything (A = 0), the fast one is halved; y reads both through C.
    ln2 = math.log(2)
    ones = torch.ones(1, 2, 2, dtype=torch.float64)
    A = torch.tensor([[0.0, -1.0]], dtype=torch.float64)
    y, last = selective_scan_ref(column(1, 1), column(ln2, ln2), A, ones, ones)
    torch.testing.assert_close(y, column(2 * ln2, 3.5 * ln2))
    torch.testing.assert_close(last.flatten(), torch.tensor([2 * ln2, 1.5 * ln2]).double())


def test_scan_gradients_match_finite_differences() -> None:
    arguments = scan_arguments(2, 4, 3, 2)
    names = list(arguments)

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, tensors, strict=True))
        return selective_scan_ref(**named, dt_softplus=True, reset=resets(2, 4, seed=1))

    leaves = [t.detach().clone().requires_grad_() for t in arguments.values()]
    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_convolution_equals_torch(activation: str | None) -> None:
    c = conv_arguments(2, 9, 5, 4)
    out, last = causal_conv1d_ref(**c, activation=activation)
    seen = torch.cat([c["initial_state"], c["x"].transpose(1, 2)], 2)
    expected = F.conv1d(seen, c["weight"].unsqueeze(1), c["bias"], groups=5).transpose(1, 2)
    torch.testing.assert_close(out, F.silu(expected) if activation else expected)
    torch.testing.assert_close(last, seen[..., -3:])


def test_convolution_by_hand() -> None:
    weight = torch.tensor([[1.0, 10.0, 100.0]], dtype=torch.float64)
    out, last = causal_conv1d_ref(column(1, 2, 3, 4), weight)
    torch.testing.assert_close(out, column(100, 210, 321, 432))
    assert last.tolist() == [[[3.0, 4.0]]]


def test_convolution_forgets_what_a_reset_cut_off() -> None:
    weight = torch.tensor([[1.0, 10.0, 100.0]], dtype=torch.float64)
    reset = torch.tensor([[False, False, True, False]])
    out, last = causal_conv1d_ref(column(1, 2, 3, 4), weight, reset=reset)
    torch.testing.assert_close(out, column(100, 210, 300, 430))
    assert last.tolist() == [[[3.0, 4.0]]]
    out, last = causal_conv1d_ref(column(1, 2, 3), weight, reset=reset[:, :3])
    assert last.tolist() == [[[0.0, 3.0]]]


def test_convolution_gradients_match_finite_differences() -> None:
    arguments = conv_arguments(2, 5, 3, 3)
    names = list(arguments)

    def conv(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(names, tensors, strict=True))
        return causal_conv1d_ref(**named, activation="silu", reset=resets(2, 5, seed=1))

    leaves = [t.detach().clone().requires_grad_() for t in arguments.values()]
    assert torch.autograd.gradcheck(conv, leaves)


def test_a_reset_begins_a_new_sequence() -> None:
    c = scan_arguments(1, 12, 3, 4)
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[0, 5] = True
    whole, last = selective_scan_ref(**c, dt_softplus=True, reset=reset)
    second = {k: v[:, 5:] if k in ("u", "dt", "B", "C", "z") else v for k, v in c.items()}
    del second["initial_state"]
    alone, alone_last = selective_scan_ref(**second, dt_softplus=True)
    torch.testing.assert_close(whole[:, 5:], alone)
    torch.testing.assert_close(last, alone_last)


def test_updates_are_sequences_of_length_one() -> None:
    c = scan_arguments(2, 1, 5, 3)
    y, last = selective_scan_ref(**c, dt_softplus=True)
    state = c.pop("initial_state").clone()
    step = {k: v[:, 0] if k in ("dt", "B", "C", "z") else v for k, v in c.items()}
    x = step.pop("u")[:, 0]
    torch.testing.assert_close(
        selective_state_update_ref(state, x, **step, dt_softplus=True), y[:, 0]
    )
    torch.testing.assert_close(state, last)

    c = conv_arguments(2, 1, 5, 4)
    out, last = causal_conv1d_ref(**c, activation="silu")
    state = c["initial_state"].clone()
    one = causal_conv1d_update_ref(c["x"][:, 0], state, c["weight"], c["bias"], "silu")
    torch.testing.assert_close(one, out[:, 0])
    torch.testing.assert_close(state, last)


def test_half_precision_keeps_a_float32_state() -> None:
    y, last = selective_scan_ref(**scan_arguments(1, 4, 3, 2, torch.bfloat16), dt_softplus=True)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
