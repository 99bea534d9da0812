"""The Mamba language model (arXiv 2312.00752, Sec. 3), with the weight names of transformers' Mamba.

Block order: residual add -> RMSNorm -> mixer, the residual carried in float32. Every linear layer is
called as a module, so that an adapter put in its place takes effect.
"""

import math
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlmamba.config import MambaConfig
from vlmamba.ops import (
    add_rms_norm,
    causal_conv1d,
    causal_conv1d_update,
    gated_conv1d,
    last_inputs,
    scan_dynamics,
    selective_scan,
    selective_state_update,
)
from vlmamba.ops.precision import compute_dtype
from vlmamba.state import State
from vlmamba.twice import twice

# What the backward pass does once more: nothing, of a mixer all between its projections, or all of it.
Recompute = Literal["nothing", "scan", "mixer"]

# softplus of this is exactly 0: the state passes a padded position unchanged.
NO_STEP = -1e4


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 and returned in the dtype that the next layer computes in."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, None)[0]

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """residual + x (.., d), normed, and as it is: the residual of the next layer, in float32 at least."""
        return add_rms_norm(x, residual, self.weight, self.eps, dtype=compute_dtype(self.weight))


class DtProjection(nn.Linear):
    """dt_proj without its bias: the scan adds the bias in float32, as the checkpoints were trained."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight)


class SelectiveSSM(nn.Module):
    """What a Mamba layer does between its two projections: causal convolution, then the selective scan."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        self.dt_rank = dt_rank or math.ceil(d_model / 16)
        self.d_state = d_state
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, bias=conv_bias)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = DtProjection(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        self.D = nn.Parameter(torch.empty(d_inner))
        self._kept: tuple[list, tuple] | None = None
        self.reset_ssm_parameters()

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """Mamba's initial dynamics: A = -(1..n), D = 1, steps log-uniform in [0.001, 0.1]."""
        d_inner, d_state = self.A_log.shape
        self.A_log.copy_(torch.arange(1, d_state + 1).log().expand(d_inner, d_state))
        self.D.fill_(1.0)
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = math.log(1e-3), math.log(0.1)
        step = torch.exp(torch.rand(d_inner) * (high - low) + low).clamp(min=1e-4)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus^-1(step)

    def dynamics(self) -> tuple[Tensor, Tensor, Tensor]:
        """A (e, n), D (e,) and dt's bias (e,), in float32 at least."""
        return scan_dynamics(self.A_log, self.D, self.dt_proj.bias)

    def scan(
        self,
        x: Tensor,
        z: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """x, z (b, l, e) -> (b, l, e), gated by silu(z) where z is given.

        `state` (conv_state (b, e, k-1), ssm_state (b, e, n)) is continued from and updated in place;
        `lengths` (b,): positions from there on are padding; `reset` (b, l): a new sample begins there.
        """
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        convolved = causal_conv1d(
            x, weight, bias, "silu", initial_state=state and state[0], reset=reset
        )
        assert isinstance(convolved, Tensor)
        return self._scan(x, convolved, convolved, z, state, lengths, reset)

    def scan_halves(
        self,
        xz: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        gradients_only: bool = False,
    ) -> Tensor:
        """`scan` of x and z that lie side by side in xz (b, l, 2e), as in_proj makes them.

        `gradients_only`: nobody reads the values of the result.
        """
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        to_project, to_scan, z = gated_conv1d(
            xz, weight, bias, "silu", initial_state=state and state[0], reset=reset
        )
        x = xz[..., : z.shape[-1]]
        return self._scan(x, to_project, to_scan, z, state, lengths, reset, gradients_only)

    def _scan(
        self,
        x: Tensor,
        to_project: Tensor,
        to_scan: Tensor,
        z: Tensor | None,
        state: tuple[Tensor, Tensor] | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        gradients_only: bool = False,
    ) -> Tensor:
        """What follows the convolution of x, whose output comes once for the projections and once for the scan."""
        conv_state, ssm_state = state or (None, None)
        dt, B, C = self._select(to_project)
        if lengths is not None:
            padded = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]  # (b, l)
            dt = dt.masked_fill(padded[..., None], NO_STEP)
        A, D, dt_bias = self.dynamics()
        y, last = selective_scan(
            to_scan, dt, A, B, C, D, z, dt_bias, dt_softplus=True,
            initial_state=ssm_state, reset=reset, return_last_state=True, gradients_only=gradients_only,
        )  # fmt: skip
        if conv_state is not None and ssm_state is not None:
            width = conv_state.shape[-1]
            if lengths is not None:
                conv_state.copy_(_inputs_before(lengths, x, conv_state, width))
            else:
                conv_state.copy_(last_inputs(x, width, conv_state, reset))
            ssm_state.copy_(last)
        return y

    def step(self, x: Tensor, z: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """`scan` of one position: x, z (b, e) -> (b, e), `state` updated in place."""
        conv_state, ssm_state = state
        weight, bias, A, D, dt_bias = self.constants()
        convolved = causal_conv1d_update(x, conv_state, weight, bias, "silu")
        dt, B, C = self._select(convolved)
        return selective_state_update(
            ssm_state, convolved, dt, A, B, C, D, z, dt_bias, dt_softplus=True
        )

    def constants(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """The convolution's weight and bias and the dynamics, in float32 at least, kept between steps.

        They depend on no input, and making them anew takes longer than the step's own arithmetic. A changed
        or moved parameter shows in its version or its place.
        """
        conv = self.conv1d
        used = [
            p
            for p in (conv.weight, conv.bias, self.A_log, self.D, self.dt_proj.bias)
            if p is not None
        ]
        if torch.is_grad_enabled() or any(p.is_inference() for p in used):
            return conv.weight.squeeze(1), conv.bias, *self.dynamics()
        key = [(p.data_ptr(), p._version, p.dtype) for p in used]
        if self._kept is None or self._kept[0] != key:
            A, D, dt_bias = self.dynamics()
            weight = conv.weight.squeeze(1).to(A.dtype)
            bias = None if conv.bias is None else conv.bias.to(A.dtype)
            self._kept = (key, (weight, bias, A, D, dt_bias))
        return self._kept[1]

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The input-dependent dt (.., e), B and C (.., n) of x (.., e)."""
        parts = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return self.dt_proj(parts[0]), parts[1], parts[2]


class MambaMixer(SelectiveSSM):
    """A Mamba layer: in_proj -> convolution -> selective scan, gated -> out_proj."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(
            config.d_model, config.d_state, config.d_conv, config.expand, config.dt_rank, config.conv_bias
        )  # fmt: skip
        self.in_proj = nn.Linear(config.d_model, 2 * config.d_inner, bias=config.bias)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=config.bias)

    def forward(
        self,
        hidden: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """hidden (b, l, d) -> (b, l, d); the other arguments as in `SelectiveSSM.scan`.

        `recompute`: what lies between the two projections is not kept for the backward pass but done once more
        there. It is cheap in time and dear in memory: of the matrix products it holds the two small ones.
        """
        if state is not None and hidden.shape[1] == 1 and lengths is None and reset is None:
            x, z = self.in_proj(hidden.squeeze(1)).chunk(2, dim=-1)  # (b, e)
            return self.out_proj(self.step(x, z, state)).unsqueeze(1)
        xz = self.in_proj(hidden)  # (b, l, 2e)
        if recompute and xz.requires_grad:
            # The first pass runs without gradients, so the scan saves no states in vain.
            again = twice if self._certain else partial(checkpoint, use_reentrant=True)
            y = again(self._scan_twice, xz, state, lengths, reset)
            assert isinstance(y, Tensor)
        else:
            y = self.scan_halves(xz, state, lengths, reset)
        return self.out_proj(y)

    @property
    def _certain(self) -> bool:
        """Whether nothing random happens between the two large projections, as in an adapter."""
        return type(self.x_proj) is nn.Linear and type(self.dt_proj) is DtProjection

    def _scan_twice(self, xz: Tensor, *others: Any) -> Tensor:
        """`scan_halves`; the second time, with gradients, out_proj has its result already."""
        return self.scan_halves(xz, *others, gradients_only=torch.is_grad_enabled())


class MambaBlock(nn.Module):
    """A mixer with the residual add and the norm before it, which are one op."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.mixer = MambaMixer(config)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        recompute: Recompute = "nothing",
    ) -> tuple[Tensor, Tensor]:
        """The output of the mixer before and the residual it belongs to (b, l, d) -> the same after this one.

        The residual is float32 at least, None before the first block. What `recompute` names is done again in
        the backward pass, instead of kept for it.
        """
        normed, residual = self.norm.add(hidden, residual)
        if recompute == "mixer":
            mixed = checkpoint(self.mixer, normed, state, lengths, reset, use_reentrant=False)
        else:
            mixed = self.mixer(normed, state, lengths, reset, recompute=recompute == "scan")
        return mixed, residual  # pyright: ignore[reportReturnType]


class MambaModel(nn.Module):
    """Embeddings, blocks and the final norm: ids or embeddings -> hidden states."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # transformers' switch: the same as recompute = "mixer"
        self.recompute: Recompute = "nothing"  # in training, see MambaBlock
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(MambaBlock(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_epsilon)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Embeddings N(0, 0.02); out_proj scaled down by sqrt(n_layer), as in state-spaces/mamba."""
        nn.init.normal_(self.embeddings.weight, std=0.02)
        for mixer in self.modules():
            if isinstance(mixer, MambaMixer):
                nn.init.kaiming_uniform_(mixer.out_proj.weight, a=math.sqrt(5))
                mixer.out_proj.weight.div_(math.sqrt(self.config.n_layer))

    def forward(
        self,
        inputs_embeds: Tensor,
        *,
        state: State | None = None,
        attention_mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """inputs_embeds (b, l, d) -> hidden states (b, l, d) after the final norm.

        `state`, where given, is continued from and updated in place. `attention_mask` (b, l), 0 at padding
        on any side or between: padding changes neither a row's outputs nor its state; outputs there are
        zeros. `reset` (b, l): positions where a packed sample begins with an empty state.
        Raises ValueError for a mask or state that does not fit.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            return self._without_padding(inputs_embeds, attention_mask.bool(), state, reset)
        return self._run(inputs_embeds, state, None, reset)

    def _without_padding(
        self, inputs_embeds: Tensor, mask: Tensor, state: State | None, reset: Tensor | None
    ) -> Tensor:
        """Moves each row's real positions to the front, so that one rule for padding serves every side."""
        b, l, d = inputs_embeds.shape
        if mask.shape != (b, l):
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, expected {(b, l)}")
        if reset is not None:
            raise ValueError(
                "reset marks packed samples, which need no attention_mask: pass one of the two"
            )
        lengths = mask.sum(1)
        order = (~mask).int().argsort(dim=1, stable=True)  # (b, l)
        index = order[..., None].expand(b, l, d)
        hidden = self._run(inputs_embeds.gather(1, index), state, lengths, None)
        back = torch.zeros_like(hidden).scatter(1, index, hidden)
        return back * mask[..., None].to(back.dtype)

    def _run(
        self,
        inputs_embeds: Tensor,
        state: State | None,
        lengths: Tensor | None,
        reset: Tensor | None,
    ) -> Tensor:
        b, l, _ = inputs_embeds.shape
        if state is not None and state.batch_size != b:
            raise ValueError(f"the state holds {state.batch_size} sequences, the input {b}")
        recompute = "mixer" if self.gradient_checkpointing else self.recompute
        hidden, residual = inputs_embeds, None
        for i, block in enumerate(self.layers):
            layer_state = (state.conv_state[i], state.ssm_state[i]) if state is not None else None
            hidden, residual = block(
                hidden, residual, layer_state, lengths, reset,
                recompute if self.training else "nothing",
            )  # fmt: skip
        if state is not None:
            state.length += lengths if lengths is not None else l
        return self.norm_f.add(hidden, residual)[0]


class MambaLM(nn.Module):
    """A Mamba language model alone; state_dict keys equal those of transformers' MambaForCausalLM."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = MambaModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(
        self,
        input_ids: Tensor,
        *,
        state: State | None = None,
        attention_mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """input_ids (b, l) -> logits (b, l, v); the other arguments as in `MambaModel.forward`."""
        embeds = self.backbone.embeddings(input_ids)
        hidden = self.backbone(embeds, state=state, attention_mask=attention_mask, reset=reset)
        return self.lm_head(hidden)


def _inputs_before(lengths: Tensor, x: Tensor, conv_state: Tensor, width: int) -> Tensor:
    """The last `width` inputs of each row before its padding begins: (b, e, width)."""
    e = x.shape[-1]
    seen = torch.cat([conv_state.to(x.dtype).transpose(1, 2), x], 1)  # (b, width+l, e)
    index = lengths[:, None] + torch.arange(width, device=x.device)  # (b, width)
    return seen.gather(1, index[..., None].expand(-1, -1, e)).transpose(1, 2)
