"""Model directories: whole ones come back equal, broken ones are one clear line."""

import json
import pickle
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_config, tiny_processor

from vlmamba import checkpoints
from vlmamba.checkpoints import (
    CheckpointError,
    assign_weights,
    empty_model,
    load_model,
    save_model,
)
from vlmamba.config import ConnectorConfig, ModelConfig, VisionConfig
from vlmamba.model import VLMamba

HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embeddings.weight"
NORM = "model.language_model.norm_f.weight"


def tiny_model(**text) -> VLMamba:
    torch.manual_seed(0)
    return VLMamba(tiny_config(**text))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    save_model(directory, tiny_model(), tiny_processor())
    return directory


@pytest.fixture
def directory(tmp_path, saved) -> Path:
    """A model directory of the test's own."""
    return shutil.copytree(saved, tmp_path / "model")


def edit_weights(directory: Path, change) -> None:
    """Loads the weights, lets `change` work on them, and writes them back."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(directory, error=CheckpointError) -> str:
    with pytest.raises(error) as caught:
        load_model(directory)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_weights(a: VLMamba, b: VLMamba) -> None:
    a_state, b_state = a.state_dict(), b.state_dict()
    assert a_state.keys() == b_state.keys()
    for name, tensor in a_state.items():
        assert torch.equal(tensor, b_state[name]), name


@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tmp_path, tied):
    model = tiny_model(tie_embeddings=tied)
    save_model(tmp_path / "model", model, tiny_processor())
    loaded, processor = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert_same_weights(loaded, model)
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.model.language_model.embeddings.weight) == tied
    assert (HEAD in load_file(tmp_path / "model" / "model.safetensors")) == (not tied)
    assert processor.num_patches == tiny_processor().num_patches


@pytest.mark.parametrize(
    ("vision", "connector"),
    [
        (VisionConfig("clip", 32, 64, 2, 2, 16, 8, 1e-5, "quick_gelu"), ConnectorConfig("mlp")),
        (
            VisionConfig("siglip", 32, 64, 2, 2, 16, 8, 1e-6, "gelu"),
            ConnectorConfig("vss-mlp", "csm", "projections", "sum", "layernorm"),
        ),
    ],
)
def test_every_kind_of_model(tmp_path, vision, connector):
    config = ModelConfig(vision, connector, tiny_config().text, image_token_id=2)
    model = VLMamba(config)
    save_model(tmp_path / "model", model, tiny_processor())
    loaded, _ = load_model(tmp_path / "model")
    assert loaded.config == config
    assert_same_weights(loaded, model)


def test_the_loaded_model_computes_the_same_and_trains(directory):
    model = tiny_model().eval()
    loaded, processor = load_model(directory)
    ids = torch.tensor([processor.prefix_ids(1) + processor.continue_ids("What is this?")])
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded(ids, pixels).logits, model(ids, pixels).logits)
    loaded(ids, pixels, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_names_of_the_weights(directory):
    names = load_file(directory / "model.safetensors").keys()
    parts = {name.rsplit(".layers.")[0].split(".")[0:2][-1] for name in names}
    assert parts == {"vision_tower", "connector", "language_model"}
    assert all(name.startswith("model.") for name in names)
    assert EMBEDDINGS in names
    assert NORM in names


@pytest.mark.parametrize("stored", ["float16", torch.bfloat16, "float32"])
def test_types(tmp_path, stored):
    save_model(tmp_path / "model", tiny_model(), tiny_processor(), storage_dtype=stored)
    stored = getattr(torch, stored) if isinstance(stored, str) else stored
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {stored}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == str(stored)[6:]
    assert load_model(tmp_path / "model")[0].dtype == torch.float32
    assert load_model(tmp_path / "model", dtype="bfloat16")[0].dtype == torch.bfloat16
    assert load_model(tmp_path / "model", dtype=torch.float64)[0].dtype == torch.float64
    loaded, _ = load_model(tmp_path / "model")
    for name, tensor in tensors.items():
        assert torch.equal(loaded.state_dict()[name], tensor.float())


def test_unknown_type(directory):
    with pytest.raises(ValueError, match="dtype 'int8' is unknown: use float32"):
        load_model(directory, dtype="int8")
    with pytest.raises(ValueError, match="dtype 'int4' is unknown"):
        save_model(directory, tiny_model(), tiny_processor(), storage_dtype="int4")


def test_empty_model_is_left_as_it_was_allocated(monkeypatch):
    """No initialisation runs: all of the parameters are then assigned."""
    monkeypatch.setattr(torch, "empty", torch.zeros)
    model = empty_model(tiny_config())
    linear = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert linear
    assert not any(weight.any() for weight in linear)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()
    model = empty_model(tiny_config(tie_embeddings=False))
    assign_weights(model, tiny_model(tie_embeddings=False).state_dict(), "cpu", torch.float32)
    assert_same_weights(model, tiny_model(tie_embeddings=False))


def test_initialisation_comes_back_after_empty_model():
    empty_model(tiny_config())
    torch.manual_seed(0)
    assert torch.nn.Linear(4, 4).weight.abs().sum() > 0
    assert torch.zeros(3).fill_(2.0).sum() == 6


def test_shards(directory):
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    places = {name: file for file, part in halves.items() for name in part}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / "model.safetensors").unlink()
    assert_same_weights(load_model(directory)[0], tiny_model())

    def broken(weight_map) -> str:
        index.write_text(json.dumps({"weight_map": weight_map}))
        return refused(directory)

    assert "no weight_map" in broken(None)
    assert "no weight_map" in broken({NORM: 5})
    assert "shards lie beside their index" in broken(places | {NORM: "../model-1.safetensors"})
    assert "names ghost, but the shards lack it" in broken(
        places | {"ghost": "model-1.safetensors"}
    )
    del places[NORM]
    assert f"does not place {NORM}" in broken(places)
    (directory / "model-2.safetensors").unlink()
    assert "model-2.safetensors is missing" in refused(directory, FileNotFoundError)


def test_large_models_are_saved_in_shards(tmp_path):
    directory = tmp_path / "model"
    save_model(directory, tiny_model(), tiny_processor(), max_shard=20_000)
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(sum(t.nbytes for t in load_file(shard).values()) <= 20_480 for shard in shards)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for shard in shards for t in load_file(shard).values()
    )
    assert_same_weights(load_model(directory)[0], tiny_model())
    save_model(directory, tiny_model(), tiny_processor())
    assert [file.name for file in directory.glob("*.safetensors*")] == ["model.safetensors"]
    save_model(directory, tiny_model(), tiny_processor(), max_shard=20_000)
    assert_same_weights(load_model(directory)[0], tiny_model())


def test_pickled_weights_are_read_as_weights_only(directory):
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    torch.save(tensors, path)
    assert_same_weights(load_model(directory)[0], tiny_model())
    torch.save([1, 2], path)
    assert "not a plain mapping" in refused(directory)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_runs_nothing(directory, tmp_path, name, dump):
    mark = tmp_path / "it ran"
    (directory / "model.safetensors").unlink()
    with (directory / name).open("wb") as file:
        dump({NORM: Bomb(mark)}, file)
    assert str(directory / name) in refused(directory)
    assert not mark.exists()


def test_code_beside_the_weights_is_never_run(directory, tmp_path):
    mark = tmp_path / "it ran"
    (directory / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit_json(directory / "config.json", lambda data: data.update(auto_map=auto_map))
    load_model(directory)
    assert not mark.exists()


def test_missing_tensor(directory):
    edit_weights(directory, lambda tensors: tensors.pop(NORM))
    assert refused(directory) == f"{directory}: the weights lack {NORM}: the model needs it"


def test_many_missing_tensors_are_one_line(directory):
    edit_weights(directory, lambda tensors: [tensors.pop(name) for name in list(tensors)[5:]])
    assert "more: the model needs it" in refused(directory)


@pytest.mark.parametrize("name", ["ghost", HEAD])
def test_extra_tensor(directory, name):
    edit_weights(directory, lambda tensors: tensors.update({name: torch.zeros(320, 16)}))
    assert (
        refused(directory)
        == f"{directory}: the weights hold {name}, which the model has no place for"
    )


def test_wrongly_shaped_tensor(directory):
    edit_weights(directory, lambda tensors: tensors.update({NORM: torch.ones(17)}))
    assert (
        refused(directory)
        == f"{directory}: the weight {NORM} has shape (17,), the model needs (16,)"
    )


def test_tensor_of_integers(directory):
    edit_weights(
        directory, lambda tensors: tensors.update({NORM: torch.ones(16, dtype=torch.int8)})
    )
    assert f"the weight {NORM} is of torch.int8" in refused(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_tensor_that_is_not_finite(directory, value, stored):
    def spoil(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(stored)
        tensors[EMBEDDINGS][7, 3] = value

    edit_weights(directory, spoil)
    assert (
        refused(directory)
        == f"{directory}: the weight {EMBEDDINGS} holds numbers that are not finite"
    )


def test_opposite_infinities_do_not_cancel(directory):
    edit_weights(
        directory, lambda tensors: tensors[NORM][:2].copy_(torch.tensor([1, -1]) * torch.inf)
    )
    assert "not finite" in refused(directory)


def test_large_numbers_are_finite(directory):
    edit_weights(directory, lambda tensors: tensors[NORM].fill_(3e38))
    load_model(directory)


def test_numbers_that_overflow_the_asked_type(directory):
    edit_weights(directory, lambda tensors: tensors[NORM].fill_(1e6))
    with pytest.raises(CheckpointError, match=f"{NORM} holds numbers that are not finite"):
        load_model(directory, dtype="float16")


@pytest.mark.parametrize("part", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(directory, part):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part) if isinstance(part, float) else part])
    assert f"{path} is not a whole safetensors file" in refused(directory)


def test_missing_weights(directory):
    (directory / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(directory, FileNotFoundError)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model_type": "vlmamba"', "\x00\xff"])
def test_config_that_is_not_json(directory, content):
    (directory / "config.json").write_bytes(content.encode("latin-1"))
    assert str(directory / "config.json") in refused(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
def test_missing_files(directory, name):
    (directory / name).unlink()
    assert f"{name} is missing" in refused(directory, FileNotFoundError)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(model_type="llava"), "model_type 'llava', expected 'vlmamba'"),
        (lambda c: c.pop("connector_config"), "lacks the key 'connector_config'"),
        (lambda c: c["connector_config"].update(kind="magic"), "connector kind 'magic' is unknown"),
        (
            lambda c: c["connector_config"].update(scan="zigzag"),
            "connector scan 'zigzag' is unknown",
        ),
        (lambda c: c["connector_config"].update(depth=3), "unknown keys ['depth']"),
        (lambda c: c["vision_config"].update(hidden_act="relu"), "hidden_act 'relu' is unknown"),
        (
            lambda c: c["vision_config"].update(patch_size=0),
            "patch_size must be a positive integer",
        ),
        (
            lambda c: c["text_config"].update(hidden_size="wide"),
            "d_model must be a positive integer",
        ),
        (
            lambda c: c["text_config"].update(hidden_act="relu"),
            "hidden_act 'relu' is not supported",
        ),
        (lambda c: c.update(text_config=[1]), "cannot be used"),
        (lambda c: c.update(vision_config=None), "cannot be used"),
        (lambda c: c.update(pad_token_id=0), "they must differ"),
        (lambda c: c.update(image_token_id="two"), "cannot be used"),
        (lambda c: c.update(image_token_id=3), "image token is 2, the model's 3"),
        (lambda c: c["vision_config"].update(image_size=24), "image size is 16, the model's 24"),
        (lambda c: c["vision_config"].update(patch_size=4), "patches is 4, the model's 16"),
        (
            lambda c: c["text_config"].update(vocab_size=290),
            "the tokenizer has 296 tokens, the model 290",
        ),
        (lambda c: c["text_config"].update(state_size=8), "A_log has shape"),
        (lambda c: c["text_config"].update(num_hidden_layers=3), "the weights lack"),
        (
            lambda c: c["text_config"].update(num_hidden_layers=1),
            "which the model has no place for",
        ),
    ],
)
def test_configurations_that_do_not_fit(directory, change, reason):
    edit_json(directory / "config.json", change)
    text = refused(directory)
    assert reason in text
    assert str(directory) in text


def test_neither_directory_nor_hub_id(tmp_path):
    assert "no such model directory" in refused(tmp_path / "nowhere", FileNotFoundError)
    file = tmp_path / "file"
    file.touch()
    assert "is a file: name the model's directory" in refused(file, FileNotFoundError)
    assert "OWNER/NAME" in refused("nonsense", FileNotFoundError)


def test_hub_id(directory, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options["allow_patterns"]))
        return str(directory)

    hub = types.SimpleNamespace(snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_same_weights(load_model("someone/vl-mamba-tiny")[0], tiny_model())
    [(name, patterns)] = asked
    assert name == "someone/vl-mamba-tiny"
    assert "*.py" not in patterns

    def fail(name, **options):
        raise OSError("404: not found\nmore than one line")

    hub.snapshot_download = fail
    assert "a model that the hub gives: 404: not found" in refused(
        "someone/absent", FileNotFoundError
    )


@pytest.mark.parametrize(("part", "kind"), [("text_config", "zamba2"), ("vision_config", "dinov2")])
def test_other_backbones_and_towers_are_left_to_transformers(directory, part, kind):
    edit_json(directory / "config.json", lambda data: data[part].update(model_type=kind))
    text = refused(directory)
    assert f"its {part} is a '{kind}' of transformers" in text
    assert "vlmamba.integrations.transformers" in text


def test_saving_into_an_existing_directory_replaces_the_model_and_nothing_else(directory):
    (directory / "README.md").write_text("a model card")
    (directory / "model.safetensors.index.json").write_text("{}")
    (directory / "pytorch_model.bin").write_text("stale")
    other = VLMamba(tiny_config(n_layer=1))
    save_model(directory, other, tiny_processor(), {"max_new_tokens": 7})
    assert_same_weights(load_model(directory)[0], other)
    assert (directory / "README.md").read_text() == "a model card"
    assert not (directory / "pytorch_model.bin").exists()
    assert json.loads((directory / "generation_config.json").read_text()) == {
        "eos_token_id": 0,
        "pad_token_id": 1,
        "max_new_tokens": 7,
    }
    assert not list(directory.parent.rglob("*partial*"))


def test_saving_makes_parents_and_readable_files(tmp_path):
    directory = tmp_path / "a" / "b"
    save_model(directory, tiny_model(), tiny_processor())
    modes = {path.stat().st_mode for path in directory.iterdir()}
    assert len(modes) == 1
    load_model(directory)


def test_saving_into_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(".", tiny_model(), tiny_processor())
    assert_same_weights(load_model(".")[0], tiny_model())
    assert not list(tmp_path.rglob("*partial*"))


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(FileExistsError, match="name a directory to save the model in"):
        save_model(tmp_path / "model", tiny_model(), tiny_processor())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.language_model.norm_f.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"norm_f.weight does not fit into torch.float16"):
        save_model(tmp_path / "model", model, tiny_processor(), storage_dtype="float16")
    with torch.no_grad():
        model.model.language_model.norm_f.weight[0] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"norm_f.weight is not finite: the model was not saved"
    ):
        save_model(tmp_path / "model", model, tiny_processor())
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_old_model(directory, monkeypatch):
    def fail(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints.Processor, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_model(directory, VLMamba(tiny_config(n_layer=1)), tiny_processor())
    assert_same_weights(load_model(directory)[0], tiny_model())
    assert not list(directory.parent.rglob("*partial*"))


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"]
)
def test_a_crash_while_files_move_leaves_no_mixture(directory, monkeypatch, name):
    replace = Path.replace

    def crash(self, target):
        if self.name == name:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_model(directory, tiny_model(), tiny_processor())
    assert "config.json is missing" in refused(directory, FileNotFoundError)
