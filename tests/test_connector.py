"""The connectors: equal to the paper's words written out in loops, and of the sizes that follow from them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import ConnectorConfig
from vlmamba.connector import VSS, VSSL2, VSSMLP, build_connector
from vlmamba.mamba import RMSNorm

GRIDS = [(1, 1), (3, 3), (2, 5), (4, 1)]


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter away from its initial value, decays included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def paths(scan: str, h_p: int, w_p: int) -> list[list[int]]:
    """The patches in the order in which each direction visits them (Fig. 3)."""
    by_rows = [row * w_p + column for row in range(h_p) for column in range(w_p)]
    by_columns = [row * w_p + column for column in range(w_p) for row in range(h_p)]
    forward = [by_rows] if scan == "bsm" else [by_rows, by_columns]
    return forward + [path[::-1] for path in forward]


def mamba_layer(ssm, xs: list[Tensor]) -> list[Tensor]:
    """Convolution and selective scan over a list of inputs (e,), one number at a time."""
    weight, bias = ssm.conv1d.weight[:, 0], ssm.conv1d.bias
    e, k = weight.shape
    A, state, ys = -ssm.A_log.exp(), torch.zeros_like(ssm.A_log), []
    for t in range(len(xs)):
        u = bias.clone()
        for j in range(k):
            if t - j >= 0:
                u = u + weight[:, k - 1 - j] * xs[t - j]
        u = F.silu(u)
        selected = ssm.x_proj.weight @ u
        dt = F.softplus(ssm.dt_proj.weight @ selected[: ssm.dt_rank] + ssm.dt_proj.bias)
        B = selected[ssm.dt_rank : ssm.dt_rank + ssm.d_state]
        C = selected[ssm.dt_rank + ssm.d_state :]
        state = torch.stack([(dt[i] * A[i]).exp() * state[i] + dt[i] * B * u[i] for i in range(e)])
        ys.append(state @ C + ssm.D * u)
    return ys


def vss_in_loops(vss: VSS, v: Tensor, scan: str, merge: str, grid: tuple[int, int]) -> Tensor:
    """The VSS module over one picture v (p, d): scan, put back, merge, gate, project."""
    x, z = (v @ vss.in_proj.weight.T).chunk(2, dim=-1)
    directions = paths(scan, *grid)
    merged = torch.zeros_like(x)
    for i, path in enumerate(directions):
        ssm = vss.ssm[i if len(vss.ssm) > 1 else 0]
        for patch, y in zip(path, mamba_layer(ssm, [x[patch] for patch in path]), strict=True):
            merged[patch] += y
    if merge == "mean":
        merged = merged / len(directions)
    return (merged * F.silu(z)) @ vss.out_proj.weight.T


@torch.no_grad()
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("merge", ["mean", "sum"])
@pytest.mark.parametrize("share", ["layer", "projections"])
@pytest.mark.parametrize("scan", ["bsm", "csm"])
def test_vss_is_the_loops(scan, share, merge, grid):
    config = ConnectorConfig(scan=scan, share=share, merge=merge, d_state=3, d_conv=3, dt_rank=2)
    vss = randomised(VSS(6, config))
    v = torch.randn(2, grid[0] * grid[1], 6)
    found = vss(v, grid)
    for picture in range(2):
        expected = vss_in_loops(vss, v[picture], scan, merge, grid)
        assert (found[picture] - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)


def test_sharing_makes_one_mamba_layer_or_one_for_each_direction():
    assert len(VSS(8, ConnectorConfig(scan="csm")).ssm) == 1
    assert len(VSS(8, ConnectorConfig(scan="csm", share="projections")).ssm) == 4
    assert len(VSS(8, ConnectorConfig(scan="bsm", share="projections")).ssm) == 2


@torch.no_grad()
@pytest.mark.parametrize("scan", ["bsm", "csm"])
def test_a_shared_layer_cannot_tell_a_picture_from_the_picture_turned_round(scan):
    vss = randomised(VSS(6, ConnectorConfig(scan=scan, d_state=3)))
    v = torch.randn(1, 12, 6)
    assert torch.allclose(vss(v.flip(1), (3, 4)), vss(v, (3, 4)).flip(1), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_vss_l2_is_equation_6_with_the_skip_before_the_gelu(norm):
    connector = randomised(VSSL2(5, 8, ConnectorConfig(norm=norm)))
    v = torch.randn(2, 6, 5)
    projected = connector.linear_1(v)
    inner = connector.vss(F.gelu(projected), (2, 3)) + projected
    assert torch.equal(connector(v, (2, 3)), connector.linear_2(connector.norm(inner)))
    assert isinstance(connector.norm, RMSNorm if norm == "rmsnorm" else nn.LayerNorm)


@torch.no_grad()
def test_vss_mlp_is_equation_5():
    connector = randomised(VSSMLP(5, 8, ConnectorConfig(kind="vss-mlp")))
    v = torch.randn(2, 6, 5)
    normed = connector.norm(connector.vss(v, (2, 3)) + v)
    hidden = F.gelu(connector.mlp.linear_1(normed))
    assert torch.equal(connector(v, (2, 3)), connector.mlp.linear_2(hidden))


@pytest.mark.parametrize("kind", ["mlp", "mlp-wide", "vss-mlp", "vss-l2"])
def test_every_connector_reaches_the_language_models_width_with_gradients_everywhere(kind):
    connector = build_connector(5, 8, ConnectorConfig(kind=kind))
    out = connector(torch.randn(2, 6, 5), (2, 3))
    assert out.shape == (2, 6, 8)
    out.square().sum().backward()
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_picture_is_the_same_alone_and_in_a_batch():
    connector = build_connector(5, 8, ConnectorConfig(scan="csm", share="projections"))
    v = torch.randn(3, 6, 5)
    with torch.no_grad():
        batch = connector(v, (3, 2))
        for i in range(3):
            assert torch.allclose(batch[i], connector(v[i : i + 1], (3, 2))[0], atol=1e-6)


def parameters(kind: str, d_vision: int, d_model: int, **options) -> int:
    with torch.device("meta"):
        connector = build_connector(d_vision, d_model, ConnectorConfig(kind=kind, **options))
    return sum(p.numel() for p in connector.parameters())


@pytest.mark.parametrize(
    ("d_vision", "d_model", "millions"),
    [
        (1152, 2560, {"mlp": 9.51, "vss-mlp": 17.93, "vss-l2": 50.75}),
        (1024, 2560, {"mlp": 9.18, "vss-mlp": 15.85, "vss-l2": 50.43}),
        (1152, 2048, {"mlp": 6.56, "vss-mlp": 14.98, "vss-l2": 33.0}),
    ],
    ids=["siglip-2.8b", "clip-2.8b", "siglip-1.4b"],
)
def test_sizes_for_the_papers_models(d_vision, d_model, millions):
    for kind, expected in millions.items():
        assert parameters(kind, d_vision, d_model) / 1e6 == pytest.approx(expected, abs=0.01), kind


@pytest.mark.parametrize(("d_vision", "d_model"), [(1152, 2560), (1024, 2048), (192, 256), (6, 9)])
@pytest.mark.parametrize("share", ["layer", "projections"])
def test_mlp_wide_has_as_many_parameters_as_vss_l2(d_vision, d_model, share):
    wide = parameters("mlp-wide", d_vision, d_model, share=share)
    assert math.isclose(wide, parameters("vss-l2", d_vision, d_model, share=share), rel_tol=0.01)
