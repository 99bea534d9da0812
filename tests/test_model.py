"""The whole model: where pictures land, what batches, padding, packing and decoding leave unchanged, and errors."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.mamba import MambaLM
from vlmamba.model import IGNORE_INDEX, VLMamba

IMAGE, PAD = 3, 1
CONFIG = ModelConfig(
    vision=VisionConfig(
        "siglip", hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    ),
    connector=ConnectorConfig(d_state=4),
    text=MambaConfig(d_model=20, n_layer=2, vocab_size=40, d_state=4),
    image_token_id=IMAGE,
)  # fmt: skip
PATCHES = CONFIG.vision.num_patches


def random_model(config: ModelConfig = CONFIG) -> VLMamba:
    torch.manual_seed(0)
    model = VLMamba(config)
    with torch.no_grad():
        model.model.language_model.embeddings.weight.mul_(20)
    return model.eval()


def row(*parts: int | str) -> Tensor:
    """Token ids (1, l): numbers as they are, "image" as one picture's tokens."""
    ids = [id for part in parts for id in ([IMAGE] * PATCHES if part == "image" else [part])]
    return torch.tensor([ids])


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


ROWS = {
    "one picture": ([5, "image", 6, 7], 1),
    "two pictures": (["image", 8, "image", 9], 2),
    "adjacent pictures": ([5, "image", "image"], 2),
    "none": ([10, 11, 12], 0),
}


class TestPictures:
    def test_features_land_exactly_at_the_image_tokens_and_nowhere_else(self):
        model = random_model()
        ids, pixels = row(5, "image", 6, "image", 7), pictures(2)
        with torch.no_grad():
            embeds = model.model.embed(ids, pixels)[0]
            features = model.model.image_embeds(pixels)
            words = model.model.language_model.embeddings(ids)[0]
        at_image = ids[0] == IMAGE
        assert torch.equal(embeds[at_image], features.flatten(0, 1))
        assert torch.equal(embeds[~at_image], words[~at_image])

    def test_pictures_go_to_the_rows_of_a_batch_in_order(self):
        model, pixels = random_model(), pictures(3)
        ids = torch.cat([row("image", "image", 5), row("image", *range(5, 5 + PATCHES), 5)])
        with torch.no_grad():
            embeds, features = model.model.embed(ids, pixels), model.model.image_embeds(pixels)
        assert torch.equal(embeds[0, :PATCHES], features[0])
        assert torch.equal(embeds[0, PATCHES : 2 * PATCHES], features[1])
        assert torch.equal(embeds[1, :PATCHES], features[2])

    def test_a_picture_changes_nothing_before_it_and_everything_after(self):
        model, ids, pixels = random_model(), row(5, 6, "image", 7, 8), pictures(2)
        with torch.no_grad():
            first, second = (model(ids, pixels[i : i + 1]).logits[0] for i in range(2))
        assert torch.equal(first[:2], second[:2])
        assert (first[2:] != second[2:]).any(dim=1).all()

    def test_image_embeds_stand_for_their_pictures(self):
        model, ids, pixels = random_model(), row(5, "image", 6), pictures(1)
        with torch.no_grad():
            embeds = model.model.image_embeds(pixels)
            assert torch.equal(model(ids, image_embeds=embeds).logits, model(ids, pixels).logits)

    def test_without_pictures_it_is_the_language_model_alone(self):
        model, ids = random_model(), row(5, 6, 7)
        alone = MambaLM(CONFIG.text).eval()
        alone.backbone.load_state_dict(model.model.language_model.state_dict())
        with torch.no_grad():
            assert torch.equal(model(ids).logits, alone(ids))

    @pytest.mark.parametrize(
        ("ids", "n"),
        [
            (row(5, "image", 6), 0),
            (row(5, "image", 6), 2),
            (row(5, 6), 1),
            (row(5, "image", IMAGE), 1),
            (row(5, *[IMAGE] * (PATCHES - 1)), 1),
            (torch.cat([row(*[IMAGE] * (PATCHES - 1), 5, 5), row("image", IMAGE)]), 2),
        ],
        ids=[
            "no picture",
            "too many",
            "no place",
            "a token over",
            "a token short",
            "shifted to the next row",
        ],
    )
    def test_tokens_and_pictures_that_do_not_fit_are_one_clear_line(self, ids, n):
        with pytest.raises(
            ValueError, match="give as many pictures as the prompt has places for"
        ) as error:
            random_model()(ids, pictures(n) if n else None)
        assert "\n" not in str(error.value)


class TestBatches:
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_mixed_padded_batch_gives_each_row_what_it_gets_alone(self, side):
        model = random_model()
        rows, counts = zip(*((row(*parts), n) for parts, n in ROWS.values()), strict=True)
        pixels = pictures(sum(counts))
        longest = max(r.shape[1] for r in rows)
        padding = [
            (longest - r.shape[1], 0) if side == "left" else (0, longest - r.shape[1]) for r in rows
        ]
        ids = torch.cat([F.pad(r, p, value=PAD) for r, p in zip(rows, padding, strict=True)])
        mask = torch.cat([F.pad(torch.ones_like(r), p) for r, p in zip(rows, padding, strict=True)])
        state, step = model.allocate_state(len(rows)), torch.arange(4, 4 + len(rows))[:, None]
        with torch.no_grad():
            logits = model(ids, pixels, attention_mask=mask, state=state).logits
            further = model(step, state=state).logits
            for i, own in enumerate(pixels.split(counts)):
                alone = model.allocate_state(1)
                expected = model(rows[i], own if len(own) else None, state=alone).logits
                assert close(logits[i, mask[i].bool()], expected[0])
                assert close(further[i], model(step[i : i + 1], state=alone).logits[0])

    def test_a_packed_row_gives_each_sample_what_it_gets_alone(self):
        model = random_model()
        rows, counts = zip(*((row(*parts), n) for parts, n in ROWS.values()), strict=True)
        pixels, lengths = pictures(sum(counts)), [r.shape[1] for r in rows]
        reset = torch.cat([F.pad(torch.ones(1, 1), (0, l - 1)) for l in lengths], 1).bool()
        with torch.no_grad():
            packed = model(torch.cat(rows, 1), pixels, reset=reset).logits
            for r, own, found in zip(
                rows, pixels.split(counts), packed.split(lengths, 1), strict=True
            ):
                assert close(found, model(r, own if len(own) else None).logits)

    def test_prefill_in_parts_then_decoding_equals_one_pass(self):
        model, pixels = random_model(), pictures(1)
        ids = row(5, "image", 6, 7, 8, 9)
        state = model.allocate_state(1)
        with torch.no_grad():
            parts = [model(ids[:, : 1 + PATCHES], pixels, state=state).logits]
            parts += [
                model(token, state=state).logits for token in ids[:, 1 + PATCHES :].split(1, 1)
            ]
            assert close(torch.cat(parts, 1), model(ids, pixels).logits)
        assert state.length.tolist() == [ids.shape[1]]


class TestLoss:
    def test_it_is_the_mean_over_supervised_tokens(self):
        model, ids, pixels = random_model(), row(5, "image", 6, 7, 8), pictures(1)
        labels = ids.clone()
        labels[:, : 2 + PATCHES] = IGNORE_INDEX
        logits = model(ids, pixels).logits
        expected = F.cross_entropy(logits[0, -3:-1], ids[0, -2:])
        found = model(ids, pixels, labels=labels)
        assert found.logits is None
        assert torch.allclose(found.loss, expected)

    def test_the_first_label_is_nobodys_prediction(self):
        model, ids = random_model(), row(5, 6, 7)
        labels = ids.clone()
        with_first = model(ids, labels=labels).loss
        labels[:, 0] = IGNORE_INDEX
        assert torch.equal(with_first, model(ids, labels=labels).loss)

    def test_an_adapter_in_the_place_of_the_head_takes_effect(self):
        class Bent(torch.nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input).square()

        model, ids = random_model(), row(5, 6, 7, 8)
        plain = model(ids, labels=ids).loss
        bent = Bent(20, 40, bias=False)
        bent.weight = model.lm_head.weight
        model.lm_head = bent
        expected = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
        assert torch.allclose(model(ids, labels=ids).loss, expected)
        assert not torch.allclose(expected, plain)

    def test_nothing_to_learn_is_a_loss_of_zero_not_nan(self):
        model, ids = random_model(), row(5, 6, 7)
        loss = model(ids, labels=torch.full_like(ids, IGNORE_INDEX)).loss
        loss.backward()
        assert loss == 0
        assert model.model.language_model.layers[0].norm.weight.grad.abs().max() == 0

    def test_every_part_gets_a_gradient_through_a_picture(self):
        model, ids, pixels = random_model(), row(5, "image", 6, 7), pictures(1)
        labels = torch.where(ids == IMAGE, IGNORE_INDEX, ids)
        model(ids, pixels, labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class TestHead:
    @pytest.mark.parametrize("keep", [1, 3])
    def test_logits_to_keep_are_the_last_ones(self, keep):
        model, ids = random_model(), row(5, 6, 7, 8, 9)
        with torch.no_grad():
            found = model(ids, logits_to_keep=keep).logits
            assert close(found, model(ids).logits[:, -keep:])

    def test_the_head_is_tied_or_not_as_configured(self):
        tied = random_model()
        assert tied.lm_head.weight is tied.model.language_model.embeddings.weight
        text = dataclasses.replace(CONFIG.text, tie_embeddings=False)
        untied = VLMamba(dataclasses.replace(CONFIG, text=text))
        assert untied.lm_head.weight is not untied.model.language_model.embeddings.weight

    def test_weights_have_the_names_of_the_directory_format(self):
        parts = (
            "model.vision_tower.",
            "model.connector.",
            "model.language_model.",
            "lm_head.weight",
        )
        names = list(random_model().state_dict())
        assert all(name.startswith(parts) for name in names)
        assert "model.language_model.layers.1.mixer.dt_proj.bias" in names
