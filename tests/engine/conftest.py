"""A random model so small that a test can afford many answers, and graphs that need no GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.engine.forward import decode
from vlmamba.engine.graphs import Graphs
from vlmamba.engine.lanes import Lane, Lanes
from vlmamba.engine.recordings import Recordings
from vlmamba.engine.rows import put_rows
from vlmamba.mamba import MambaModel
from vlmamba.model import VLMamba
from vlmamba.state import State


def random_model(vocab_size: int = 97, dtype: torch.dtype = torch.float64) -> VLMamba:
    """Random weights with a long memory: what was read first still changes the next token."""
    torch.manual_seed(3)
    vision = VisionConfig(
        layout="siglip", hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    text = MambaConfig(
        d_model=20, n_layer=3, vocab_size=vocab_size, d_state=5, tie_embeddings=False
    )
    config = ModelConfig(vision, ConnectorConfig(d_state=3), text, image_token_id=2)
    model = VLMamba(config).to(dtype).eval().requires_grad_(False)
    model.lm_head.weight.normal_()
    model.model.connector.linear_2.weight.mul_(20)
    model.model.language_model.embeddings.weight.normal_(std=0.3)
    for layer in model.model.language_model.layers:
        layer.mixer.A_log.fill_(-3)
        layer.mixer.D.zero_()
        layer.mixer.dt_proj.bias.zero_()
        layer.mixer.conv1d.weight.mul_(4)
        layer.mixer.x_proj.weight.mul_(5)
        layer.mixer.out_proj.weight.mul_(4)
    return model


@pytest.fixture(scope="session")
def model() -> VLMamba:
    return random_model()


def eager_graphs(model: VLMamba) -> Graphs:
    """Graphs without a GPU: what would be captured runs anew at every replay, over the same buffers."""

    def capture(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        out = run()

        def replay() -> None:
            out.copy_(run())

        return replay, out

    def step(tokens: Tensor, before: State, after: State) -> Tensor:
        put_rows(after, torch.arange(after.batch_size), before)
        return decode(model, tokens, after)

    def make(size: int) -> Lane:
        lane = Lane(model, size, step, capture)
        for state in lane.states:  # what an earlier generation may have left behind
            state.conv_state.fill_(torch.nan)
            state.ssm_state.fill_(torch.nan)
        return lane

    def read(
        language_model: MambaModel, embeds: Tensor, lengths: Tensor | None, state: State
    ) -> Tensor:
        b, l, _ = embeds.shape
        lengths = torch.full((b,), l) if lengths is None else lengths
        hidden = language_model(
            embeds, state=state, attention_mask=torch.arange(l) < lengths[:, None]
        )
        return hidden[torch.arange(b), lengths - 1]

    return Graphs(model, Lanes(make), Recordings(capture), read)


@pytest.fixture(params=["plain", "graphs"])
def graphs(request, model, monkeypatch) -> Graphs | None:
    """Generation module by module, and from graphs; both must write the same."""
    if request.param == "plain":
        return None
    made = eager_graphs(model)
    monkeypatch.setattr(
        "vlmamba.engine.generation.graphs_of", lambda of: made if of is model else None
    )
    return made
