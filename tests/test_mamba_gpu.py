"""The language model's training step on a GPU: the gradients of the definition, whatever is computed anew."""

import pytest
import torch
from torch import Tensor

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM
from vlmamba.ops import linear_cross_entropy

CONFIG = MambaConfig(d_model=72, n_layer=3, vocab_size=301, d_state=16)
LENGTH = 129

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gradients(device: str, dtype: torch.dtype, recompute: str, packed: bool) -> dict[str, Tensor]:
    """The loss and every gradient of a model whose parameters are the same whatever the device and dtype."""
    torch.manual_seed(0)
    model = MambaLM(CONFIG).double().to(device, dtype).train()
    model.backbone.recompute = recompute  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 301, (3, LENGTH), generator=generator).to(device)
    reset = (torch.rand(3, LENGTH, generator=generator) < 0.1).to(device) if packed else None
    hidden = model.backbone(model.backbone.embeddings(ids), reset=reset)
    loss = linear_cross_entropy(
        hidden[:, :-1].flatten(0, 1), model.lm_head.weight, ids[:, 1:].flatten()
    )
    loss.backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | named


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_the_definitions(monkeypatch, packed):
    found = gradients("cuda", torch.float32, "nothing", packed)
    half = gradients("cuda", torch.bfloat16, "nothing", packed)
    monkeypatch.setenv("VLMAMBA_BACKEND", "reference")
    exact = gradients("cpu", torch.float64, "nothing", packed)
    theirs = gradients("cuda", torch.bfloat16, "nothing", packed)
    assert found.keys() == exact.keys()
    for name, right in exact.items():
        scale = right.abs().max()
        error = (found[name].cpu() - right).abs().max() / scale
        assert error < 1e-4, f"{name}: {error:.1e}"
        errors = [(t[name].cpu().double() - right).norm() / right.norm() for t in (half, theirs)]
        assert errors[0] <= 2 * errors[1] + 2**-9, f"{name}: {errors}"


@pytest.mark.parametrize("recompute", ["scan", "mixer"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_computed_anew_changes_no_bit(recompute, packed):
    expected = gradients("cuda", torch.bfloat16, "nothing", packed)
    found = gradients("cuda", torch.bfloat16, recompute, packed)
    for name, right in expected.items():
        assert torch.equal(found[name], right), name
