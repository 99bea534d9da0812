"""Training through transformers: Trainer with exact resume, gradient checkpointing, LoRA that trains and merges."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from small import EOS, IMAGE, padded, pixels, row, small_config, small_model
from torch import Tensor
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from vlmamba.integrations.transformers import VLMambaForConditionalGeneration
from vlmamba.model import IGNORE_INDEX

# PEFT and Trainer use names of transformers that newer versions call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")


class Samples(torch.utils.data.Dataset):
    """A picture and its word, the same for ever; every third sample has no picture."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        parts = (40 + i, 60 + i, EOS) if i % 3 == 2 else ("image", 40 + i, 60 + i, EOS)
        return {"input_ids": row(*parts), "pixel_values": pixels(12)[i : i + (i % 3 != 2)]}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = padded(*(sample["input_ids"] for sample in samples))
    real = batch["attention_mask"].bool() & (batch["input_ids"] != IMAGE)
    batch["labels"] = batch["input_ids"].masked_fill(~real, IGNORE_INDEX)
    pictures = torch.cat([sample["pixel_values"] for sample in samples])
    return {**batch, "pixel_values": pictures} if len(pictures) else batch


def trainer(model, directory, steps: int, **changes) -> Trainer:
    settings = {
        "max_steps": steps, "per_device_train_batch_size": 3, "learning_rate": 0.01, "save_steps": 2,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False,
        "logging_steps": 1, "seed": 7, "lr_scheduler_type": "constant", "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = TrainingArguments(str(directory), **{**settings, **changes})
    return Trainer(model, arguments, train_dataset=Samples(), data_collator=collate)


def losses(run: Trainer) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


class TestTrainer:
    def test_it_learns_and_its_checkpoint_loads(self, tmp_path):
        torch.manual_seed(0)
        fresh = VLMambaForConditionalGeneration(small_config())
        run = trainer(fresh, tmp_path, 24, save_steps=24, per_device_train_batch_size=12)
        run.train()
        assert losses(run)[-1] < 0.5 * losses(run)[0]
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint-24")
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, run.model.state_dict()[name]), name

    def test_a_resumed_run_equals_one_that_never_stopped(self, tmp_path):
        whole = trainer(small_model(), tmp_path / "whole", 4)
        whole.train()
        trainer(small_model(), tmp_path / "halves", 2).train()
        rest = trainer(small_model(), tmp_path / "halves", 4)
        rest.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-2"))
        expected = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
        found = load_file(tmp_path / "halves" / "checkpoint-4" / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name

    def test_accumulated_steps_are_the_steps_of_one_large_batch(self, tmp_path):
        large = trainer(small_model(), tmp_path / "large", 1, per_device_train_batch_size=6)
        parts = trainer(
            small_model(), tmp_path / "parts", 1,
            per_device_train_batch_size=2, gradient_accumulation_steps=3,
        )  # fmt: skip
        for run in (large, parts):
            run.train()
        assert losses(parts) == pytest.approx(losses(large), rel=1e-3)

    def test_evaluation_gives_a_loss_and_logits_and_no_cache(self, tmp_path):
        run = trainer(small_model(), tmp_path, 1)
        found = run.predict(Samples())
        assert found.metrics["test_loss"] > 0
        assert found.predictions.shape[0] == 12

    def test_gradient_checkpointing_by_its_argument(self, tmp_path):
        plain = trainer(small_model(), tmp_path / "plain", 2)
        saving = trainer(small_model(), tmp_path / "saving", 2, gradient_checkpointing=True)
        for run in (plain, saving):
            run.train()
        assert saving.model.model.language_model.gradient_checkpointing
        assert losses(saving) == losses(plain)


def test_gradient_checkpointing_changes_no_gradient():
    batch = collate([Samples()[i] for i in range(4)])
    plain, saving = small_model().train(), small_model().train()
    saving.gradient_checkpointing_enable()
    recomputed = []
    mixer = saving.model.language_model.layers[0].mixer
    mixer.register_forward_pre_hook(lambda *_: recomputed.append(1))
    for model in (plain, saving):
        model(**batch).loss.backward()
    assert len(recomputed) == 2
    expected = dict(plain.named_parameters())
    for name, parameter in saving.named_parameters():
        assert torch.equal(parameter.grad, expected[name].grad), name
    saving.gradient_checkpointing_disable()
    assert not saving.model.language_model.gradient_checkpointing


class TestLora:
    @pytest.fixture
    def adapted(self) -> PeftModel:
        target = rf".*language_model.*\.({'|'.join(PROJECTIONS)})"
        torch.manual_seed(0)
        return get_peft_model(small_model(), LoraConfig(r=2, target_modules=target))

    def train(self, model: PeftModel) -> None:
        batch = collate([Samples()[i] for i in range(4)])
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

    def test_every_projection_learns(self, adapted):
        begun = {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}
        self.train(adapted)
        for projection in PROJECTIONS:
            for half in ("lora_A", "lora_B"):
                names = [n for n in begun if f"{projection}.{half}" in n]
                assert len(names) == 2
                for name in names:
                    assert not torch.equal(adapted.get_parameter(name), begun[name]), name

    def test_merging_keeps_the_output(self, adapted):
        batch = collate([Samples()[i] for i in range(4)])
        base = small_model()(**batch).logits
        self.train(adapted)
        adapted.eval()
        expected = adapted(**batch).logits
        merged = adapted.merge_and_unload()
        assert torch.allclose(merged(**batch).logits, expected, atol=1e-4)
        assert not torch.allclose(expected, base, atol=1e-2)
        assert merged.state_dict().keys() == small_model().state_dict().keys()

    def test_each_projection_alone_changes_the_output(self):
        batch = collate([Samples()[i] for i in range(2)])
        base = small_model()(**batch).logits
        for projection in PROJECTIONS:
            target = rf".*language_model.*\.{projection}"
            model = get_peft_model(small_model(), LoraConfig(r=2, target_modules=target))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_()
            assert not torch.allclose(model(**batch).logits, base, atol=1e-3), projection

    def test_an_adapter_is_saved_loaded_and_generates(self, adapted, tmp_path):
        self.train(adapted)
        adapted.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(small_model(), tmp_path)
        inputs = {"input_ids": row(5, "image", 6), "pixel_values": pixels(1)}
        settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        assert torch.equal(
            loaded.eval().generate(**inputs, **settings),
            adapted.eval().generate(**inputs, **settings),
        )

    def test_with_gradient_checkpointing_over_a_frozen_base(self, adapted):
        adapted.enable_input_require_grads()
        adapted.gradient_checkpointing_enable()
        adapted.train()
        self.train(adapted)
        trained = [p for n, p in adapted.named_parameters() if "lora_B" in n]
        assert all(p.abs().max() > 0 for p in trained)


def test_the_stages_of_the_paper_by_freezing_parts():
    model = small_model(small_config()).train()
    model.requires_grad_(False)
    model.model.connector.requires_grad_(True)
    model(**collate([Samples()[0]])).loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {
        f"model.connector.{name}" for name, _ in model.model.connector.named_parameters()
    }
