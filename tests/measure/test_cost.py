"""What a model costs, counted from its config, is what its modules hold and PyTorch counts."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlmamba.config import MambaConfig
from vlmamba.measure import cost
from vlmamba.measure.language_model import learning, random_model, random_tokens, reading

CONFIG = MambaConfig(d_model=24, n_layer=3, vocab_size=61, d_state=5)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_layers_weights_in_matrix_products():
    mixer = (
        random_model(CONFIG, torch.device("cpu"), torch.float32)
        .model.language_model.layers[0]
        .mixer
    )
    linear = [m.weight.numel() for m in mixer.modules() if isinstance(m, nn.Linear)]
    assert cost.layer_matmul_parameters(CONFIG) == sum(linear)


def test_operations_are_those_that_pytorch_counts(monkeypatch):
    monkeypatch.setenv("VLMAMBA_BACKEND", "reference")  # its scan has no matrix products
    model = random_model(CONFIG, torch.device("cpu"), torch.float32)
    ids = random_tokens(CONFIG, 2, 9, torch.device("cpu"))
    assert counted(reading(model.eval(), ids)) == cost.forward_flops(CONFIG, 18, 2)
    # The loss is not taken at a row's last position.
    learnt = 3 * cost.forward_flops(CONFIG, 18, 16)
    assert counted(learning(model.train(), ids)) == learnt
    assert cost.training_flops(CONFIG, 18) == 3 * cost.forward_flops(CONFIG, 18, 18)
