"""The model under transformers' base class: the package's own numbers, directories, and all ways of generating."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import (
    IMAGE,
    PAD,
    padded,
    pixels,
    row,
    small_config,
    small_model,
    small_processor,
)
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    DynamicCache,
    GenerationConfig,
    Mamba2Config,
)

from vlmamba.checkpoints import load_model, save_model
from vlmamba.integrations.transformers import StateCache, VLMambaConfig
from vlmamba.integrations.transformers.model import VLMambaForConditionalGeneration
from vlmamba.model import IGNORE_INDEX, VLMamba

GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": PAD}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def own(model):
    """The same weights in the package's own model."""
    twin = VLMamba(model.config.to_own()).eval()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    small_processor().save(path)
    return path


def change_weights(directory, tmp_path, change):
    """A copy of a model directory with its tensors changed."""
    copy = tmp_path / "changed"
    copy.mkdir()
    (copy / "config.json").write_text((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


class TestAgainstTheOwnModel:
    def test_logits_and_loss_are_equal(self, model, own):
        inputs = padded(row(5, "image", 6, "image", 7), row(5, 8, 9), row("image", 9))
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] <= IMAGE, IGNORE_INDEX)
        ids, mask = inputs.values()
        with torch.no_grad():
            found = model(**inputs, pixel_values=pixels(3), labels=labels)
            assert torch.equal(found.logits, own(ids, pixels(3), attention_mask=mask).logits)
            expected = own(ids, pixels(3), attention_mask=mask, labels=labels).loss
        assert torch.allclose(found.loss, expected)

    @pytest.mark.parametrize("tied", [True, False])
    def test_one_directory_serves_both_loaders(self, tied, tmp_path):
        model = small_model(small_config(tie_word_embeddings=tied))
        model.save_pretrained(tmp_path / "theirs")
        small_processor().save(tmp_path / "theirs")
        loaded, processor = load_model(tmp_path / "theirs")
        save_model(tmp_path / "ours", loaded, processor)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
        assert model.state_dict().keys() == loaded.state_dict().keys() == again.state_dict().keys()
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
        assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied
        assert (again.generation_config.eos_token_id, again.generation_config.pad_token_id) == (
            0,
            1,
        )

    def test_a_fresh_model_begins_as_the_own_one_does(self):
        torch.manual_seed(0)
        fresh = VLMambaForConditionalGeneration(small_config())
        twin = VLMamba(fresh.config.to_own())
        for name, parameter in twin.named_parameters():
            begun = fresh.get_parameter(name)
            if parameter.numel() >= 60:
                assert begun.std().item() == pytest.approx(parameter.std().item(), rel=0.4), name
            assert begun.abs().max() <= 2.5 * parameter.abs().max() + 1e-6, name
            if name.endswith(("A_log", ".D", "norm.weight", "norm_f.weight")):
                assert torch.equal(begun, parameter), name


class TestDirectories:
    def test_the_configuration_says_all_and_no_path(self, directory):
        written = json.loads((directory / "config.json").read_text())
        assert written["architectures"] == ["VLMambaForConditionalGeneration"]
        assert written["image_token_id"] == IMAGE
        assert written["connector_config"]["scan"] == "bsm"
        assert written["text_config"]["time_step_rank"] == 3
        AutoConfig.from_pretrained(directory).save_pretrained(directory / "again")
        assert str(directory) not in (directory / "again" / "config.json").read_text()

    def test_half_precision_keeps_the_dynamics_in_float32(self, directory):
        half = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.bfloat16)
        wide = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
        dynamics = ("A_log", ".D", "dt_proj.bias")
        assert wide == {name for name, _ in half.named_parameters() if name.endswith(dynamics)}
        logits = half(row(5, "image", 6), pixel_values=pixels(1)).logits
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda t: t.pop("model.connector.linear_2.weight"),
                "lack model.connector.linear_2.weight",
            ),
            (lambda t: t.update(stray=torch.ones(1)), "hold the unknown stray"),
            (
                lambda t: t["model.language_model.norm_f.weight"].fill_(float("nan")),
                "not finite in model.language_model.norm_f.weight",
            ),
        ],
        ids=["missing", "unknown", "not finite"],
    )
    def test_a_directory_that_does_not_fit_is_one_clear_line(
        self, directory, tmp_path, change, message
    ):
        broken = change_weights(directory, tmp_path, change)
        with pytest.raises(ValueError, match=message) as error:
            AutoModelForImageTextToText.from_pretrained(broken)
        assert "\n" not in str(error.value)

    def test_a_tensor_of_another_shape_is_refused(self, directory, tmp_path):
        name = "model.connector.linear_1.bias"
        broken = change_weights(directory, tmp_path, lambda t: t.update({name: torch.ones(3)}))
        with pytest.raises((ValueError, RuntimeError)):
            AutoModelForImageTextToText.from_pretrained(broken)
        with pytest.raises(ValueError, match=f"in another shape, {name}"):
            AutoModelForImageTextToText.from_pretrained(broken, ignore_mismatched_sizes=True)

    def test_what_is_missing_begins_afresh_when_asked(self, model, directory, tmp_path):
        missing = [
            name for name in load_file(directory / "model.safetensors") if "connector" in name
        ]
        assert any(name.endswith("A_log") for name in missing)
        partial = change_weights(directory, tmp_path, lambda t: [t.pop(name) for name in missing])
        loaded, info = VLMambaForConditionalGeneration.from_pretrained(
            partial, strict=False, output_loading_info=True
        )
        assert set(info["missing_keys"]) == set(missing)
        assert all(p.isfinite().all() for p in loaded.parameters())
        dynamics = loaded.model.connector.vss.ssm[0]
        assert torch.allclose(dynamics.A_log.exp(), torch.arange(1.0, 4).expand_as(dynamics.A_log))
        assert torch.equal(dynamics.D, torch.ones_like(dynamics.D))
        for name, tensor in loaded.state_dict().items():
            if name not in missing:
                assert torch.equal(tensor, model.state_dict()[name]), name

    def test_an_unknown_connector_key_or_value_is_an_error(self):
        with pytest.raises(ValueError, match=r"unknown keys .*'widht'"):
            VLMambaConfig(connector_config={"widht": 3})
        with pytest.raises(ValueError, match="connector scan 'spiral' is unknown"):
            VLMambaConfig(connector_config={"scan": "spiral"})

    def test_the_own_configuration_is_refused_for_another_language_model(self):
        config = VLMambaConfig(text_config=Mamba2Config())
        with pytest.raises(ValueError, match="text_config model_type 'mamba2' is unknown"):
            config.to_own()


PROMPTS = (row(5, "image", 6, "image", 7), row(8, 9), row("image", 10, 11))


class TestGeneration:
    def test_greedy_is_the_own_models_argmax(self, model, own):
        ids = row(5, "image", 6)
        found = model.generate(ids, pixel_values=pixels(1), max_new_tokens=8, **GREEDY)
        for _ in range(8):
            with torch.no_grad():
                logits = own(ids, pixels(1)).logits[:, -1]
            logits[:, IMAGE] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        assert torch.equal(found, ids)
        assert len(set(found[0, -8:].tolist())) > 2  # not one word over and over

    def test_a_left_padded_mixed_batch_is_each_row_alone(self, model):
        batch = model.generate(
            **padded(*PROMPTS), pixel_values=pixels(3), max_new_tokens=6, **GREEDY
        )
        for i, own in enumerate(pixels(3).split([2, 0, 1])):
            pictures = {"pixel_values": own} if len(own) else {}
            alone = model.generate(PROMPTS[i], max_new_tokens=6, **pictures, **GREEDY)
            assert torch.equal(batch[i, -6:], alone[0, -6:])

    @pytest.mark.parametrize("beams", [2, 4])
    def test_beams_are_those_of_a_model_without_a_state(self, model, beams):
        settings = {"num_beams": beams, "num_return_sequences": 2, "max_new_tokens": 7, **GREEDY}
        inputs = {**padded(*PROMPTS), "pixel_values": pixels(3)}
        cached = model.generate(
            **inputs, **settings, output_scores=True, return_dict_in_generate=True
        )
        plain = model.generate(
            **inputs, **settings, use_cache=False, output_scores=True, return_dict_in_generate=True
        )
        assert torch.equal(cached.sequences, plain.sequences)
        assert torch.allclose(cached.sequences_scores, plain.sequences_scores, atol=1e-5)
        greedy = model.generate(**inputs, max_new_tokens=7, **GREEDY)
        assert not torch.equal(cached.sequences[::2], greedy)  # the beams did find something else

    def test_several_sampled_answers_see_their_own_rows_pictures(self, model):
        settings = {
            "do_sample": True,
            "max_new_tokens": 5,
            "num_return_sequences": 3,
            "eos_token_id": None,
        }
        inputs = {**padded(*PROMPTS), "pixel_values": pixels(3)}
        torch.manual_seed(0)
        cached = model.generate(**inputs, **settings)
        torch.manual_seed(0)
        plain = model.generate(**inputs, **settings, use_cache=False)
        assert torch.equal(cached, plain)
        assert len({tuple(answer.tolist()) for answer in cached}) > 3

    def test_embeddings_in_place_of_ids(self, model):
        ids = row(5, "image", 6)
        embeds = model.model.embed(ids, pixels(1), None)
        found = model.generate(inputs_embeds=embeds, max_new_tokens=6, **GREEDY)
        expected = model.generate(ids, pixel_values=pixels(1), max_new_tokens=6, **GREEDY)
        assert torch.equal(found, expected[:, ids.shape[1] :])

    def test_a_second_turn_continues_from_the_first_ones_state(self, model):
        settings = {"max_new_tokens": 4, "return_dict_in_generate": True, **GREEDY}
        first = model.generate(row(5, "image", 6), pixel_values=pixels(2)[:1], **settings)
        ids = torch.cat([first.sequences, row(12, "image", 13)], 1)
        read = first.past_key_values.get_seq_length()
        assert read == first.sequences.shape[1] - 1
        whole = model.generate(ids, pixel_values=pixels(2), **settings)
        for given in (pixels(2), pixels(2)[1:]):  # all pictures so far, or the new one
            cache = StateCache(first.past_key_values.state.clone())
            second = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                pixel_values=given,
                **settings,
            )
            assert torch.equal(second.sequences, whole.sequences)
            assert cache.get_seq_length() == second.sequences.shape[1] - 1

    def test_a_state_of_the_own_model_is_continued(self, model, own):
        ids, state = row(5, "image", 6, 7), own.allocate_state(1)
        with torch.no_grad():
            own(ids[:, :-1], pixels(1), state=state)
            found = model(ids[:, -1:], past_key_values=StateCache(state)).logits
            assert torch.allclose(found, own(ids, pixels(1)).logits[:, -1:], atol=1e-5)

    def test_prefill_in_chunks(self, model):
        ids = row(5, 6, 7, 8, 9, 10, 11)
        settings = {"max_new_tokens": 5, **GREEDY}
        expected = model.generate(ids, **settings)
        assert torch.equal(model.generate(ids, prefill_chunk_size=3, **settings), expected)

    def test_the_image_token_is_never_written(self, model):
        biased = small_model(small_config(tie_word_embeddings=False))
        with torch.no_grad():
            biased.lm_head.weight.zero_()
            biased.lm_head.weight[IMAGE] = 1.0
            likely = biased(row(5, 6)).logits[0, -1, IMAGE]
            if likely < 0:
                biased.lm_head.weight.neg_()
        found = biased.generate(row(5, 6), max_new_tokens=5, **GREEDY)
        assert IMAGE not in found[0, 2:]

    def test_a_finished_row_is_padded(self, model):
        ids = row(5, "image", 6)
        free = model.generate(ids, pixel_values=pixels(1), max_new_tokens=6, **GREEDY)
        stop = int(free[0, ids.shape[1] + 2])
        stopped = model.generate(
            **padded(ids, row(8, 9)),
            pixel_values=pixels(1),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=stop,
        )
        end = free[0, ids.shape[1] :].tolist().index(stop)
        assert stopped[0, ids.shape[1] + end + 1 :].eq(PAD).all()

    def test_what_a_recurrent_state_cannot_do_is_refused(self, model):
        ids = row(5, 6)
        with pytest.raises(ValueError, match="cache_implementation 'static'"):
            model.generate(ids, max_new_tokens=2, cache_implementation="static", **GREEDY)
        with pytest.raises(ValueError, match="not a DynamicCache"):
            model(ids, past_key_values=DynamicCache())
        with pytest.raises(ValueError, match="cannot be cropped"):
            StateCache().crop(-1)
        with pytest.raises(ValueError, match=r"[Aa]ssisted"):
            model.generate(ids, max_new_tokens=2, prompt_lookup_num_tokens=2, **GREEDY)


class TestForward:
    @pytest.mark.parametrize(
        ("ids", "n"),
        [(row(5, "image"), 0), (row(5, "image"), 2), (row(5, 6), 1), (row("image", IMAGE), 1)],
        ids=["no picture", "too many", "no place", "a token over"],
    )
    def test_tokens_and_pictures_that_do_not_fit_are_one_clear_line(self, model, ids, n):
        pictures = {"pixel_values": pixels(n)} if n else {}
        with pytest.raises(ValueError, match="give as many pictures as the prompt has places for"):
            model(ids, **pictures)
        with pytest.raises(ValueError, match="give as many pictures as the prompt has places for"):
            model.generate(ids, max_new_tokens=2, **pictures)

    def test_ids_or_embeddings_and_pictures_only_with_ids(self, model):
        ids = row(5, 6)
        embeds = model.get_input_embeddings()(ids)
        for inputs in ({}, {"input_ids": ids, "inputs_embeds": embeds}):
            with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
                model(**inputs)
        with pytest.raises(ValueError, match="not inputs_embeds"):
            model(inputs_embeds=embeds, pixel_values=pixels(1))

    @pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])], ids=["1", "3", "indices"])
    def test_logits_to_keep(self, model, keep):
        ids = row(5, 6, 7, 8, 9)
        with torch.no_grad():
            every = model(ids).logits
            found = model(ids, logits_to_keep=keep).logits
        expected = every[:, -keep:] if isinstance(keep, int) else every[:, keep]
        assert torch.allclose(found, expected, atol=1e-6)

    def test_the_loss_is_divided_by_the_items_of_the_whole_batch(self, model):
        ids = row(5, 6, 7, 8)
        mean = model(ids, labels=ids).loss
        shared = model(ids, labels=ids, num_items_in_batch=torch.tensor(12)).loss
        assert torch.allclose(mean * 3, shared * 12)
        nothing = model(ids, labels=torch.full_like(ids, IGNORE_INDEX)).loss
        assert nothing == 0

    def test_a_cache_only_where_it_serves(self, model):
        ids = row(5, 6)
        assert model(ids).past_key_values is None  # gradients may flow
        with torch.no_grad():
            assert model(ids).past_key_values.get_seq_length() == 2
            assert model(ids, use_cache=False).past_key_values is None

    def test_a_tuple_when_asked(self, model):
        ids = row(5, 6)
        loss, logits = model(ids, labels=ids, return_dict=False)
        assert torch.allclose(logits, model(ids).logits, atol=1e-5)
        assert loss.ndim == 0

    def test_hidden_states_are_refused_not_forgotten(self, model):
        with pytest.raises(ValueError, match="neither hidden states nor attentions"):
            model(row(5, 6), output_hidden_states=True)

    def test_new_tokens_keep_the_head_tied(self):
        model = small_model()
        model.resize_token_embeddings(270)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert model(row(5, 265)).logits.shape == (1, 2, 270)
        assert model.config.to_own().text.vocab_size == 270


def test_generation_settings_in_a_directory_are_followed(model, directory, tmp_path):
    GenerationConfig(eos_token_id=0, pad_token_id=1, max_new_tokens=3).save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 3
    assert loaded.generate(row(5, 6), do_sample=False).shape[1] <= 5
