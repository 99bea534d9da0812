"""What cannot be imported is one line that says why, and leaves nothing behind."""

import json
import pickle
import sys
import types
from pathlib import Path

import published
import pytest
import torch
from safetensors.torch import save_file

from vlmamba.exchange import sources
from vlmamba.exchange.importing import import_model
from vlmamba.exchange.sources import locate
from vlmamba.weight_files import CheckpointError


@pytest.fixture
def place(tmp_path) -> Path:
    """mamba, siglip, clip and tokens, in their published layouts."""
    published.state_spaces(tmp_path / "mamba")
    published.tower(tmp_path / "siglip", "siglip")
    published.save_tokenizer(tmp_path / "tokens")
    return tmp_path


def refused(place: Path, error=CheckpointError, source: str = "mamba", **options) -> str:
    before = sorted(place.rglob("*"))
    named = {k: str(place / v) for k, v in options.items() if isinstance(v, str)}
    arguments = {"tokenizer": str(place / "tokens")} | options | named
    with pytest.raises(error) as caught:
        import_model(str(place / source), place / "out", **arguments)
    assert type(caught.value) is error
    assert sorted(place.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_pickle(file: Path, change) -> None:
    tensors = torch.load(file, weights_only=True)
    change(tensors)
    torch.save(tensors, file)


def change_config(directory: Path, **changes) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


D = "backbone.layers.1.mixer.D"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(D), "lacks model.language_model.layers.1.mixer.D: the model needs it"),
        (lambda t: t.update({D: torch.ones(7)}), f"{D} is (7,), the model needs (32,)"),
        (lambda t: t.update({D: torch.ones(32, dtype=torch.int8)}), "is of torch.int8"),
        (lambda t: t[D][3:4].fill_(float("nan")), f"{D} holds numbers that are not finite"),
        (lambda t: t["lm_head.weight"].mul_(2), "differs from backbone.embedding.weight"),
        (lambda t: t.update({"backbone.embedding.weight": torch.zeros(400, 16)}), "differs from"),
    ],
)
def test_tensors_that_do_not_fit(place, change, reason):
    change_pickle(place / "mamba" / "pytorch_model.bin", change)
    assert reason in refused(place)


def test_tensors_without_a_place_are_reported(place):
    ghost = {"backbone.layers.0.mixer.ghost": torch.zeros(1)}
    change_pickle(place / "mamba" / "pytorch_model.bin", lambda tensors: tensors.update(ghost))
    report = import_model(str(place / "mamba"), place / "out", tokenizer=str(place / "tokens"))
    [unused] = report.plan.unused
    assert unused.published == "backbone.layers.0.mixer.ghost"
    assert "unknown" in unused.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "it is a Mamba2: only Mamba-1 exists here"),
        ({"ssm_cfg": {"depth": 3}}, "ssm_cfg has unknown keys ['depth']"),
        ({"rms_norm": False}, "only models with RMSNorm"),
        ({"attn_layer_idx": [3]}, "attention"),
        ({"d_model": "wide"}, "d_model must be a positive integer"),
        ({"n_layer": 3}, "lacks model.language_model.layers.2"),
        ({"model_type": "mamba2"}, "a checkpoint with"),
    ],
)
def test_configurations_that_do_not_fit(place, changes, reason):
    change_config(place / "mamba", **changes)
    if "model_type" in changes:
        config = place / "mamba" / "config.json"
        config.write_text(json.dumps({"model_type": "mamba2"}))
    assert reason in refused(place)


def test_parts_that_are_not_there(place):
    assert "holds no language model (CLIP or SigLIP): name one first" in refused(
        place, source="siglip"
    )
    assert "holds no vision tower (Mamba of state-spaces)" in refused(place, vision="mamba")
    assert "holds no connector" in refused(place, vision="siglip", connector="mamba")
    torch.save(published.projector(), place / "p.bin")
    assert "name one with --vision" in refused(place, connector="p.bin")
    (place / "siglip" / "config.json").unlink()
    assert "config.json cannot be used: it is missing" in refused(place, vision="siglip")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (published.projector(layers=3), "has model.mm_projector.4.bias: only LLaVA's mlp2x_gelu"),
        ({"model.mm_projector.weight": torch.zeros(16, 16)}, "only LLaVA's mlp2x_gelu"),
        (published.projector(d_vision=24), "is (16, 24), the model needs (16, 16)"),
        (published.projector(d_model=40), "is (40, 16), the model needs (16, 16)"),
        ({"some.weight": torch.zeros(3)}, "tensors such as some.weight is none that can be read"),
        ({}, "tensors such as none"),
    ],
)
def test_connectors_that_do_not_fit(place, tensors, reason):
    torch.save(tensors, place / "p.bin")
    assert reason in refused(place, vision="siglip", connector="p.bin")


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
@pytest.mark.parametrize("part", ["language", "connector"])
def test_a_pickle_runs_nothing(place, dump, part):
    mark = place / "it ran"
    file = place / ("mamba/pytorch_model.bin" if part == "language" else "p.bin")
    with file.open("wb") as handle:
        dump({"model.mm_projector.0.weight": Bomb(mark)}, handle)
    options = {} if part == "language" else {"vision": "siglip", "connector": "p.bin"}
    assert "holds objects that could run code" in refused(place, **options)
    assert not mark.exists()


def test_broken_files(place):
    file = place / "mamba" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    assert "is not a plain file of weights" in refused(place)
    torch.save({"a": {"b": 3}}, file)
    assert "is not a plain mapping from names to tensors" in refused(place)
    file.unlink()
    assert "holds no weights" in refused(place, FileNotFoundError)
    save_file({"a": torch.zeros(2)}, place / "mamba" / "model.safetensors")
    path = place / "mamba" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert "is not a whole safetensors file" in refused(place)


def test_numbers_that_do_not_fit_into_the_stored_type(place):
    change_pickle(place / "mamba" / "pytorch_model.bin", lambda tensors: tensors[D].fill_(1e6))
    assert f"{D} holds numbers that are not finite" in refused(place, dtype=torch.float16)


def test_tokenizers_that_do_not_fit(place):
    with pytest.raises(FileNotFoundError, match="name its directory with --tokenizer"):
        import_model(str(place / "mamba"), place / "out", tokenizer=str(place / "missing"))
    other = json.loads((place / "tokens" / "tokenizer.json").read_text())
    text = json.dumps(other).replace("<|endoftext|>", "<eos>")
    (place / "tokens" / "tokenizer.json").write_text(text)
    assert "has no <|endoftext|> and <|padding|>" in refused(place, vision="siglip")


def test_a_vocabulary_without_a_free_row(tmp_path):
    text = published.MambaConfig(d_model=16, n_layer=2, vocab_size=296, d_state=4)
    published.state_spaces(tmp_path / "mamba", text)
    published.tower(tmp_path / "siglip", "siglip")
    published.save_tokenizer(tmp_path / "tokens")
    file = tmp_path / "tokens" / "tokenizer.json"
    file.write_text(file.read_text().replace('"<image>"', '"<picture>"'))
    assert "has 296 rows of embeddings, too few" in refused(tmp_path, vision="siglip")


def test_what_is_there_already_stays(place):
    (place / "out").mkdir()
    (place / "out" / "precious").touch()
    assert "exists already" in refused(place, FileExistsError)
    (place / "out" / "precious").unlink()
    import_model(str(place / "mamba"), place / "out", tokenizer=str(place / "tokens"))
    assert (place / "out" / "config.json").exists()


def hub(monkeypatch, download) -> None:
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download)
    )


def test_hub_ids(place, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(place / {"state-spaces/mamba": "mamba", "google/siglip": "siglip"}[name])

    hub(monkeypatch, download)
    import_model(
        "state-spaces/mamba", place / "out", vision="google/siglip",
        tokenizer=str(place / "tokens"),
    )  # fmt: skip
    assert [name for name, _ in asked] == ["state-spaces/mamba"] * 2 + ["google/siglip"]
    assert not any("pytorch_model.bin" in patterns for _, patterns in asked[::2])
    assert all("*.py" not in patterns for _, patterns in asked)


def test_a_tokenizer_is_downloaded_without_the_weights_beside_it(place, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(place / "tokens")

    hub(monkeypatch, download)
    import_model(str(place / "mamba"), place / "out")
    assert [name for name, _ in asked] == ["EleutherAI/gpt-neox-20b"]
    assert not any("safetensors" in pattern or ".bin" in pattern for pattern in asked[0][1])


def test_a_file_on_the_hub(place, monkeypatch):
    torch.save(published.projector(), place / "mm_projector.bin")
    hub(monkeypatch, lambda name, allow_patterns: str(place))
    assert locate("someone/llava-pretrain/mm_projector.bin") == place / "mm_projector.bin"
    with pytest.raises(FileNotFoundError, match=r"has no other\.bin"):
        locate("someone/llava-pretrain/other.bin")


def test_a_hub_that_does_not_answer(monkeypatch):
    def download(name, allow_patterns):
        raise OSError("offline\nsecond line")

    hub(monkeypatch, download)
    with pytest.raises(FileNotFoundError, match="nor does the hub give it: offline") as caught:
        locate("someone/model")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        sources.open_checkpoint("nonsense")
