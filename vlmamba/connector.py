"""The multimodal connector (MMC): vision features -> language-model embeddings (paper Sec. 3.2, Fig. 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmamba.config import ConnectorConfig
from vlmamba.mamba import RMSNorm, SelectiveSSM
from vlmamba.scan2d import NUM_DIRECTIONS, orders_on


class VSS(nn.Module):
    """The Vision Selective Scan module: a 2-D scan mechanism and one Mamba layer.

    Projections work on single patches, so they are shared and applied once in patch order; only the
    convolution and the scan see the directions. With share = "layer" one set of parameters serves every
    direction, batched; with "projections" each direction has its own convolution and dynamics.
    """

    def __init__(self, width: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.mechanism = config.scan
        self.merge = config.merge
        d_inner = config.expand * width
        self.in_proj = nn.Linear(width, 2 * d_inner, bias=False)
        sets = 1 if config.share == "layer" else NUM_DIRECTIONS[config.scan]
        self.ssm = nn.ModuleList(
            SelectiveSSM(width, config.d_state, config.d_conv, config.expand, config.dt_rank)
            for _ in range(sets)
        )
        self.out_proj = nn.Linear(d_inner, width, bias=False)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """v (b, p, d) on a grid of (h_p, w_p) patches, row-major -> (b, p, d)."""
        orders, inverse = orders_on(self.mechanism, *grid, v.device)  # (directions, p)
        x, z = self.in_proj(v).chunk(2, dim=-1)  # (b, p, e)
        ssm = [module for module in self.ssm if isinstance(module, SelectiveSSM)]
        if len(ssm) == 1:
            sequences = x[:, orders].flatten(0, 1)  # (b * directions, p, e)
            y = ssm[0].scan(sequences).unflatten(0, (len(v), -1))
        else:
            y = torch.stack([s.scan(x[:, order]) for s, order in zip(ssm, orders, strict=True)], 1)
        # y (b, directions, p, e): back to patch order, then merged
        direction = torch.arange(len(orders), device=v.device)[:, None]
        y = y[:, direction, inverse]
        merged = y.mean(1) if self.merge == "mean" else y.sum(1)
        return self.out_proj(merged * F.silu(z))


class MLP(nn.Module):
    """Linear - GELU - Linear."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(d_in, d_hidden)
        self.linear_2 = nn.Linear(d_hidden, d_out)

    def forward(self, v: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(v)))


class MLPConnector(nn.Module):
    """The MLP alone, which looks at no patch's neighbours (Fig. 2a)."""

    def __init__(self, d_vision: int, d_hidden: int, d_model: int) -> None:
        super().__init__()
        self.mlp = MLP(d_vision, d_hidden, d_model)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.mlp(v)


class VSSMLP(nn.Module):
    """MLP(Norm(VSS(V) + V)) at vision width (Eq. 5, Fig. 2b)."""

    def __init__(self, d_vision: int, d_model: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.vss = VSS(d_vision, config)
        self.norm = _norm(d_vision, config)
        self.mlp = MLP(d_vision, d_model, d_model)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.mlp(self.norm(self.vss(v, grid) + v))


class VSSL2(nn.Module):
    """Linear(Norm(VSS(GELU(V')) + V')) with V' = Linear(V), at language width (Eq. 6, Fig. 2c)."""

    def __init__(self, d_vision: int, d_model: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(d_vision, d_model)
        self.vss = VSS(d_model, config)
        self.norm = _norm(d_model, config)
        self.linear_2 = nn.Linear(d_model, d_model)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        v = self.linear_1(v)
        return self.linear_2(self.norm(self.vss(F.gelu(v), grid) + v))


def build_connector(d_vision: int, d_model: int, config: ConnectorConfig) -> nn.Module:
    """The connector that `config.kind` names: (b, p, d_vision) and a grid -> (b, p, d_model)."""
    match config.kind:
        case "mlp":
            return MLPConnector(d_vision, d_model, d_model)
        case "mlp-wide":
            return MLPConnector(
                d_vision, _hidden_matching_vss_l2(d_vision, d_model, config), d_model
            )
        case "vss-mlp":
            return VSSMLP(d_vision, d_model, config)
        case "vss-l2":
            return VSSL2(d_vision, d_model, config)


def _hidden_matching_vss_l2(d_vision: int, d_model: int, config: ConnectorConfig) -> int:
    """The hidden width at which an MLP has as many parameters as VSS-L2, which the paper does not control for."""
    with torch.device("meta"):
        vss_l2 = VSSL2(d_vision, d_model, config)
    target = sum(parameter.numel() for parameter in vss_l2.parameters())
    return round((target - d_model) / (d_vision + 1 + d_model))


def _norm(width: int, config: ConnectorConfig) -> nn.Module:
    return RMSNorm(width) if config.norm == "rmsnorm" else nn.LayerNorm(width)
