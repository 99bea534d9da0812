"""The Mamba language model: equal to transformers', and to itself however a sequence is cut, padded or packed."""

import pytest
import torch
from torch import Tensor, nn
from transformers import MambaConfig as TheirConfig
from transformers import MambaForCausalLM

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM
from vlmamba.state import State

CONFIG = MambaConfig(d_model=24, n_layer=3, vocab_size=61, d_state=5, dt_rank=3)


def random_model(config: MambaConfig = CONFIG, seed: int = 0) -> MambaLM:
    """A model whose every parameter matters: norms and biases are not at their initial values."""
    torch.manual_seed(seed)
    model = MambaLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith((".D", "conv1d.bias")):
                parameter.normal_(1.0, 0.3)
            elif "embeddings" in name or "lm_head" in name:
                parameter.normal_(0.0, 0.5)
    return model.eval()


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(2, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def theirs(config: MambaConfig, model: MambaLM) -> MambaForCausalLM:
    other = MambaForCausalLM(
        TheirConfig(
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            vocab_size=config.vocab_size,
            state_size=config.d_state,
            conv_kernel=config.d_conv,
            expand=config.expand,
            time_step_rank=config.dt_rank or "auto",
            layer_norm_epsilon=config.norm_epsilon,
            use_bias=config.bias,
            use_conv_bias=config.conv_bias,
            tie_word_embeddings=config.tie_embeddings,
        )
    )
    other.load_state_dict(model.state_dict())
    return other.eval()


class TestAgainstTransformers:
    @pytest.mark.parametrize(
        "config",
        [
            CONFIG,
            MambaConfig(
                d_model=20, n_layer=2, vocab_size=61, d_state=7, d_conv=3, expand=3,
                norm_epsilon=1e-4, bias=True, conv_bias=False, tie_embeddings=False,
            ),
        ],
        ids=["usual", "unusual"],
    )  # fmt: skip
    def test_logits_and_every_gradient_are_equal(self, config):
        ours = random_model(config)
        other = theirs(config, ours)
        ids = tokens(2, 19)
        weight = torch.randn(2, 19, config.vocab_size)

        logits, expected = ours(ids), other(ids).logits
        assert relative(logits, expected) < 1e-5

        (logits * weight).sum().backward()
        (expected * weight).sum().backward()
        gradients = dict(other.named_parameters())
        for name, parameter in ours.named_parameters():
            assert relative(parameter.grad, gradients[name].grad) < 1e-4, name

    def test_left_padding_and_the_state_after_it_are_equal(self):
        ours = random_model()
        other = theirs(CONFIG, ours)
        ids, mask = tokens(2, 11), torch.ones(2, 11, dtype=torch.long)
        mask[0, :4] = 0
        state = State.allocate(CONFIG, 2)
        with torch.no_grad():
            logits = ours(ids, attention_mask=mask, state=state)
            output = other(ids, attention_mask=mask, use_cache=True)
        real = mask.bool()
        assert relative(logits[real], output.logits[real]) < 1e-5
        for i, layer in enumerate(output.cache_params.layers):
            assert relative(state.ssm_state[i], layer.recurrent_states[0]) < 1e-5
            assert relative(state.conv_state[i], layer.conv_states[0][..., 1:]) < 1e-5


class TestCutting:
    @pytest.mark.parametrize(
        "chunks", [[1] * 23, [23], [1, 22], [5, 1, 1, 9, 7], [2, 3, 18]], ids=str
    )
    def test_any_chunks_give_the_logits_and_state_of_one_pass(self, chunks):
        model, ids = random_model(), tokens(2, 23)
        whole, parts = State.allocate(CONFIG, 2), State.allocate(CONFIG, 2)
        with torch.no_grad():
            expected = model(ids, state=whole)
            logits = torch.cat([model(part, state=parts) for part in ids.split(chunks, 1)], 1)
        assert relative(logits, expected) < 1e-5
        assert relative(expected, model(ids).detach()) < 1e-6
        assert parts.difference(whole) < 1e-5
        assert parts.length.tolist() == [23, 23]

    @pytest.mark.parametrize("d_conv", [1, 2, 4])
    def test_chunks_shorter_than_the_convolution(self, d_conv):
        config = MambaConfig(d_model=16, n_layer=2, vocab_size=61, d_state=4, d_conv=d_conv)
        model, ids = random_model(config), tokens(1, 7)
        state = State.allocate(config, 1)
        with torch.no_grad():
            logits = torch.cat([model(p, state=state) for p in ids.split([1, 2, 1, 3], 1)], 1)
            assert relative(logits, model(ids)) < 1e-5

    def test_a_token_changes_no_logit_before_it(self):
        model, ids = random_model(), tokens(1, 12)
        other = ids.clone()
        other[0, 7] = (ids[0, 7] + 1) % CONFIG.vocab_size
        with torch.no_grad():
            first, second = model(ids), model(other)
        assert torch.equal(first[:, :7], second[:, :7])
        assert not torch.allclose(first[:, 7:], second[:, 7:])

    def test_a_batch_gives_each_row_what_it_gets_alone(self):
        model, ids = random_model(), tokens(4, 13)
        with torch.no_grad():
            batch = model(ids)
            for row in range(4):
                assert relative(batch[row : row + 1], model(ids[row : row + 1])) < 1e-5


MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]],
    "middle": [[1, 1, 0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1, 0]],
    "one row empty": [[0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 1]],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
class TestPadding:
    def test_outputs_states_and_further_decoding_are_those_of_the_unpadded_row(self, mask):
        model, mask = random_model(), torch.tensor(mask)
        before, ids, after = tokens(2, 4), tokens(2, 9, seed=2), tokens(2, 3, seed=3)
        state = State.allocate(CONFIG, 2)
        with torch.no_grad():
            model(before, state=state)  # the rows come with a past
            logits = model(ids, attention_mask=mask, state=state)
            padded = state.clone()
            further = torch.cat([model(t, state=state) for t in after.split(1, 1)], 1)
            for row in range(2):
                alone, real = State.allocate(CONFIG, 1), mask[row].bool()
                model(before[row : row + 1], state=alone)
                if real.any():
                    expected = model(ids[row : row + 1, real], state=alone)
                    assert relative(logits[row : row + 1, real], expected) < 1e-5
                assert padded.select(torch.tensor([row])).difference(alone) < 1e-5
                assert padded.length[row] == alone.length[0]
                assert (
                    relative(further[row : row + 1], model(after[row : row + 1], state=alone))
                    < 1e-5
                )

    def test_what_stands_at_padded_positions_does_not_matter(self, mask):
        model, mask = random_model(), torch.tensor(mask)
        ids, noise = tokens(2, 9), tokens(2, 9, seed=5)
        with torch.no_grad():
            first = model(ids, attention_mask=mask)
            second = model(torch.where(mask.bool(), ids, noise), attention_mask=mask)
        assert torch.equal(first, second)

    def test_gradients_are_those_of_the_unpadded_rows(self, mask):
        mask = torch.tensor(mask)
        ids, weight = tokens(2, 9), torch.randn(2, 9, CONFIG.vocab_size)
        padded, separate = random_model(), random_model()
        (padded(ids, attention_mask=mask) * weight * mask[..., None]).sum().backward()
        for row in range(2):
            real = mask[row].bool()
            if real.any():
                logits = separate(ids[row : row + 1, real])
                (logits * weight[row : row + 1, real]).sum().backward()
        expected = dict(separate.named_parameters())
        for name, parameter in padded.named_parameters():
            assert relative(parameter.grad, expected[name].grad) < 1e-4, name


class TestPacking:
    def test_packed_samples_are_separate_samples_gradients_included(self):
        lengths = [5, 1, 2, 9]
        ids = tokens(1, sum(lengths))
        weight = torch.randn(1, sum(lengths), CONFIG.vocab_size)
        reset = torch.zeros(1, sum(lengths), dtype=torch.bool)
        reset[0, torch.tensor([0, 5, 6, 8])] = True
        packed, separate = random_model(), random_model()

        logits = packed(ids, reset=reset)
        parts = torch.cat([separate(part) for part in ids.split(lengths, 1)], 1)
        assert relative(logits, parts) < 1e-5

        (logits * weight).sum().backward()
        (parts * weight).sum().backward()
        expected = dict(separate.named_parameters())
        for name, parameter in packed.named_parameters():
            assert relative(parameter.grad, expected[name].grad) < 1e-4, name

    def test_the_state_after_packed_samples_is_the_last_ones(self):
        model, ids = random_model(), tokens(1, 9)
        reset = torch.zeros(1, 9, dtype=torch.bool)
        reset[0, 7] = True
        packed, last = State.allocate(CONFIG, 1), State.allocate(CONFIG, 1)
        with torch.no_grad():
            model(ids, state=packed, reset=reset)
            model(ids[:, 7:], state=last)
        assert packed.difference(last) < 1e-6

    def test_packing_and_padding_together_are_refused(self):
        reset = torch.zeros(1, 4, dtype=torch.bool)
        mask = torch.tensor([[0, 1, 1, 1]])
        with pytest.raises(ValueError, match="pass one of the two"):
            random_model()(tokens(1, 4), reset=reset, attention_mask=mask)


class TestTraining:
    @pytest.mark.parametrize("recompute", ["scan", "mixer"])
    def test_recomputing_changes_nothing(self, recompute):
        ids = tokens(2, 9)
        plain, saving = random_model().train(), random_model().train()
        saving.backbone.recompute = recompute
        mixer = saving.backbone.layers[1].mixer
        calls = []
        mixer.in_proj.register_forward_hook(lambda *_: calls.append("in_proj"))
        mixer.x_proj.register_forward_hook(lambda *_: calls.append("x_proj"))
        mixer.out_proj.register_forward_hook(lambda *_: calls.append("out_proj"))
        for model in (plain, saving):
            model(ids).square().sum().backward()
        expected = dict(plain.named_parameters())
        for name, parameter in saving.named_parameters():
            assert torch.equal(parameter.grad, expected[name].grad), name
        again = {"scan": ["x_proj"], "mixer": ["in_proj", "x_proj"]}[recompute]
        assert calls == ["in_proj", "x_proj", "out_proj", *again]

    @pytest.mark.parametrize("name", ["in_proj", "x_proj", "dt_proj", "out_proj"])
    def test_an_adapter_around_a_projection_takes_effect(self, name):
        class Doubled(nn.Module):
            def __init__(self, base: nn.Module) -> None:
                super().__init__()
                self.base = base

            def forward(self, x: Tensor) -> Tensor:
                return 2 * self.base(x)

            def __getattr__(self, attribute: str):
                if attribute in ("weight", "bias"):
                    return getattr(self.base, attribute)
                return super().__getattr__(attribute)

        model, ids = random_model(), tokens(1, 6)
        before = model(ids)
        mixer = model.backbone.layers[1].mixer
        setattr(mixer, name, Doubled(getattr(mixer, name)))
        assert relative(model(ids), before) > 1e-4

    def test_initial_steps_and_decays_are_mambas(self):
        mixer = MambaLM(CONFIG).backbone.layers[0].mixer
        assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 6).expand(48, 5))
        assert torch.equal(mixer.D, torch.ones(48))
        step = nn.functional.softplus(mixer.dt_proj.bias)
        assert step.min() >= 0.999e-3
        assert step.max() <= 0.1001


class TestNumerics:
    def test_half_precision_keeps_the_residual_the_state_and_the_dynamics_wide(self):
        model = random_model().to(torch.bfloat16)
        state = State.allocate(CONFIG, 1, dtype=torch.bfloat16)
        wide = random_model()(tokens(1, 16))
        residuals = []
        for block in model.backbone.layers:
            block.register_forward_hook(lambda _, inputs, output: residuals.append(output[1]))
        assert state.ssm_state.dtype == torch.float32
        assert all(t.dtype == torch.float32 for t in model.backbone.layers[0].mixer.dynamics())
        logits = model(tokens(1, 16), state=state)
        assert logits.dtype == torch.bfloat16
        assert {residual.dtype for residual in residuals} == {torch.float32}
        assert relative(logits.float(), wide) < 0.05

    def test_float64_stays_float64(self):
        model, ids = random_model().double(), tokens(1, 9)
        state = State.allocate(CONFIG, 1, dtype=torch.float64)
        with torch.no_grad():
            logits = torch.cat([model(part, state=state) for part in ids.split([4, 1, 4], 1)], 1)
            assert relative(logits, model(ids)) < 1e-13

    def test_a_mask_or_state_that_does_not_fit_is_one_clear_line(self):
        model = random_model()
        with pytest.raises(ValueError, match=r"shape \(1, 3\), expected \(1, 4\)"):
            model(tokens(1, 4), attention_mask=torch.tensor([[0, 1, 1]]))
        with pytest.raises(ValueError, match="holds 2 sequences, the input 1"):
            model(tokens(1, 4), state=State.allocate(CONFIG, 2))


@pytest.mark.parametrize(
    ("n_layer", "d_model", "parameters"),
    [(24, 768, 129_135_360), (48, 2048, 1_372_178_432), (64, 2560, 2_768_345_600)],
    ids=["130m", "1.4b", "2.8b"],
)
def test_published_sizes(n_layer, d_model, parameters):
    with torch.device("meta"):
        model = MambaLM(MambaConfig(d_model=d_model, n_layer=n_layer))
    assert sum(p.numel() for p in model.parameters()) == parameters
