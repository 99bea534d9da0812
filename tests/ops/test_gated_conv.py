"""The convolution of one half of a tensor: both halves' gradients in one, as the definition has them."""

import pytest
import torch
from interpreter import compiled, interpreted, on_gpu
from test_gpu import poisoned_memory as poisoned_memory  # a fixture for every test here too
from test_gpu import slack

from vlmamba import ops
from vlmamba.ops import reference

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


def inputs(b, l, e, k, device, dtype=F32, options=True):
    make = torch.Generator().manual_seed(l * e)

    def random(*shape, dtype=dtype):
        return torch.randn(*shape, generator=make, dtype=F64).to(device, dtype)

    wide = reference.scan_dtype(dtype)
    found = {"xz": random(b, l, 2 * e), "weight": random(e, k, dtype=wide)}
    if options:
        found |= {"bias": random(e, dtype=wide), "initial_state": random(b, e, k - 1)}
        found["reset"] = (torch.rand(b, l, generator=make) < 0.15).to(device)
    return found


def results(op, arguments, cast=None, readers=(0, 1, 2)):
    """The outputs, and the gradients of a random function of those that are read."""
    given = {k: t if k == "reset" else t.to(cast or t.dtype).detach() for k, t in arguments.items()}
    leaves = {k: t.requires_grad_() for k, t in given.items() if k != "reset"}
    outputs = op(**given, activation="silu")
    make = torch.Generator().manual_seed(7)
    seeds = [torch.randn(t.shape, generator=make).to(t.device, t.dtype) for t in outputs]
    grads = torch.autograd.grad(
        [outputs[i] for i in readers], list(leaves.values()), [seeds[i] for i in readers],
        allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    found = dict(zip(("out", "again", "z"), (t.detach() for t in outputs), strict=True))
    return found | {f"d{k}": g for k, g in zip(leaves, grads, strict=True)}


def check(op, *shape, device="cpu", dtype=F32, options=True, readers=(0, 1, 2), times=1.0):
    arguments = inputs(*shape, device, dtype, options)
    arguments["xz"] = arguments["xz"] * times
    exact = results(reference.gated_conv1d, arguments, F64, readers)
    theirs = results(reference.gated_conv1d, arguments, None, readers)
    ours = results(op, arguments, None, readers)
    assert ours.keys() == exact.keys()
    for name, right in exact.items():
        assert ours[name].dtype == theirs[name].dtype, name
        allowed = 2 * (theirs[name] - right).abs().max()
        allowed = allowed + slack(name, ours[name].dtype) * right.abs().max()
        error = (ours[name] - right).abs().max()
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


@compiled
def test_on_the_cpu():
    check(ops.gated_conv1d, 2, 9, 5, 4)
    with pytest.raises(ValueError, match=r"xz has shape \(1, 2, 5\), expected \(1, 2, 6\)"):
        ops.gated_conv1d(torch.zeros(1, 2, 5), torch.zeros(3, 4))


@interpreted
@pytest.mark.parametrize(
    ("b", "l", "e", "k"), [(1, 1, 3, 4), (2, 9, 37, 4), (1, 65, 3, 3), (2, 17, 130, 2)]
)
@pytest.mark.parametrize("options", [True, False])
def test_interpreted(b, l, e, k, options):
    check(ops.gated_conv1d, b, l, e, k, options=options)


@interpreted
@pytest.mark.parametrize("times", [0.0, 1e-6, 1e4])
def test_small_and_large_inputs(times):
    check(ops.gated_conv1d, 2, 17, 5, 4, times=times)


@interpreted
@pytest.mark.parametrize("readers", [(0,), (1,), (2,), (0, 2), (0, 1)])
def test_whatever_is_read(readers):
    check(ops.gated_conv1d, 2, 9, 5, 4, readers=readers)
    check(ops.gated_conv1d, 2, 9, 5, 4, dtype=BF16, readers=readers)


@interpreted
def test_a_gradient_of_the_gate_that_lies_in_its_half_already_is_not_copied():
    arguments = inputs(2, 9, 5, 4, "cpu")
    xz = arguments["xz"].requires_grad_()
    out, again, z = ops.gated_conv1d(**arguments, activation="silu")
    seed = torch.randn_like(out)
    expected = torch.autograd.grad([out, again, z], [xz], [seed] * 3, retain_graph=True)[0]
    room = torch.zeros_like(xz)
    room[..., 5:] = seed
    (found,) = torch.autograd.grad([out, again, z], [xz], [seed, seed, room[..., 5:]])
    assert found.data_ptr() == room.data_ptr()
    assert torch.equal(found, expected)


@on_gpu
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("l", [1, 2, 3, 63, 64, 65, 729, 2049])
def test_on_the_device(l, dtype):
    from vlmamba.ops import gpu

    check(gpu.gated_conv1d, 3, l, 133, 4, device="cuda", dtype=dtype)
    check(gpu.gated_conv1d, 1, l, 256, 4, device="cuda", dtype=dtype, options=False)


@on_gpu
@pytest.mark.parametrize("times", [0.0, 1e-6, 100.0])
def test_small_and_large_inputs_on_the_device(times):
    check(ops.gated_conv1d, 2, 65, 133, 4, device="cuda", times=times)


@on_gpu
def test_every_run_gives_the_same_bits():
    arguments = inputs(2, 2049, 256, 4, "cuda", BF16)
    first, *others = (results(ops.gated_conv1d, arguments) for _ in range(4))
    assert all(torch.equal(first[k], other[k]) for other in others for k in first)


def test_the_scan_leaves_the_gates_gradient_where_the_convolution_wants_it():
    from vlmamba.ops import conv, cuda_scan

    xz = torch.randn(2, 3, 10)
    dz = cuda_scan._room_beside(xz[..., 5:])
    dz.fill_(1.0)
    assert dz.shape == (2, 3, 5)
    assert conv._wide(dz, xz).data_ptr() == dz.data_ptr() - 5 * dz.element_size()
    for other in (xz[..., :5], torch.randn(2, 3, 5)):
        assert cuda_scan._room_beside(other).is_contiguous()
