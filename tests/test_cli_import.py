"""`vlmamba import`: what it prints, and one line with an exit code for what cannot be done."""

import json
import subprocess
import sys

import published
import pytest
import torch
from PIL import Image

from vlmamba.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command where checkpoints lie; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    published.state_spaces(tmp_path / "mamba")
    published.save_tokenizer(tmp_path / "tokens")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_import_prints_a_table(run, tmp_path):
    code, out, err = run("import", "mamba", "--tokenizer", "tokens", "-o", "new/out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "new/out: a language model alone"
    assert lines[2].split() == ["part", "from", "layout", "tensors", "numbers"]
    assert lines[3].split()[-2:] == ["22", "9,328"]
    assert "tied to the embeddings: 1, such as lm_head.weight" in lines
    assert (tmp_path / "new" / "out" / "tokenizer.json").is_file()


def test_import_prints_json(run, tmp_path):
    published.tower(tmp_path / "siglip", "siglip")
    code, out, _ = run(
        "import", "mamba", "--vision", "siglip", "--tokenizer", "tokens", "--kind", "mlp",
        "--seed", "5", "--dtype", "bfloat16", "--json", "-o", "out",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert {tensor["fate"] for tensor in report["tensors"]} == {"used", "tied", "drawn"}
    assert len(report["tensors"]) == 22 + 1 + 35 + 4
    assert report["missing"] == []
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["connector_config"]["kind"] == "mlp"
    assert settings["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["import"], 2, "Missing argument"),
        (["import", "mamba"], 2, "Missing option '--output'"),
        (["import", "nowhere", "-o", "out"], 1, "no such file or directory"),
        (["import", "mamba", "-o", "mamba"], 2, "mamba exists already: choose another -o"),
        (["import", "mamba", "-o", "out", "--dtype", "int8"], 2, "Invalid value for '--dtype'"),
        (["import", "mamba", "-o", "out", "--kind", "magic"], 2, "Invalid value for '--kind'"),
        (["import", "mamba", "-o", "out", "--tokenizer", "none"], 1, "with --tokenizer"),
        (["import", "p.bin", "-o", "out"], 1, "p.bin is not a plain file of weights"),
        (["import", "mamba", "--vision", "p.bin", "-o", "out"], 1, "is not a plain file"),
    ],
)
def test_wrong_inputs_are_one_line(run, tmp_path, arguments, code, reason):
    (tmp_path / "p.bin").write_text("not weights")
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert reason in err
    assert err.startswith("vlmamba: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_hub_offline_is_one_line(run, monkeypatch):
    """The real client, told that there is no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = run("import", "someone/no-such-model", "-o", "out")
    assert code == 1
    assert err.startswith("vlmamba: someone/no-such-model is neither here nor does the hub give it")
    assert err.count("\n") == 1


def test_an_imported_model_answers(run, tmp_path):
    published.tower(tmp_path / "siglip", "siglip")
    run("import", "mamba", "--vision", "siglip", "--tokenizer", "tokens", "-o", "out")
    Image.new("RGB", (20, 30), "red").save("red.png")
    code, out, _ = run(
        "ask", "red.png", "What?", "--model", "out", "--max-new-tokens", "3", "--json"
    )
    assert code == 0
    assert json.loads(out)["tokens"]["answer"] <= 3


def test_training_starts_from_what_was_imported(run, tmp_path):
    from vlmamba.config import ConnectorConfig, ModelConfig
    from vlmamba.exchange.configs import vision_config
    from vlmamba.exchange.sources import open_checkpoint
    from vlmamba.parts import PublicParts

    published.tower(tmp_path / "siglip", "siglip")
    run("import", "mamba", "--vision", "siglip", "--tokenizer", "tokens", "-o", "out")
    vision = vision_config(open_checkpoint("siglip"))
    assert vision is not None
    config = ModelConfig(vision, ConnectorConfig(), published.TEXT, image_token_id=2)
    a, b = (PublicParts(*names).model(config, seed=1).state_dict() for names in
            (("siglip", "mamba"), ("out", "out")))  # fmt: skip
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_export_writes_each_layout(run, tmp_path):
    run("import", "mamba", "--tokenizer", "tokens", "-o", "model")
    for layout, output in {"transformers": "a", "state-spaces": "b", "gguf": "c.gguf"}.items():
        code, out, err = run("export", "model", "--format", layout, "-o", output)
        assert (code, err) == (0, "")
        assert out.startswith(f"{output}: a language model")
        assert (tmp_path / output).exists()
    code, out, _ = run("export", "model", "--format", "gguf", "--json", "-o", "d.gguf")
    assert len(json.loads(out)["tensors"]) == 22


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["export", "mamba", "-o", "out"], 2, "Missing option '--format'"),
        (["export", "mamba", "--format", "onnx", "-o", "out"], 2, "Invalid value for '--format'"),
        (["export", "mamba", "--format", "gguf", "-o", "mamba"], 2, "mamba exists already"),
        (["export", "nowhere", "--format", "gguf", "-o", "out"], 1, "no such file"),
        (["export", "mamba", "--format", "gguf", "--part", "vision", "-o", "out"], 1, "no layout"),
    ],
)
def test_wrong_exports_are_one_line(run, tmp_path, arguments, code, reason):
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


FULL_DISK = """
import resource, signal
from vlmamba.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # smaller than the weights
for command in (
    "import mamba --tokenizer tokens -o out",
    "export mamba --format state-spaces -o out",
    "export mamba --format state-spaces --safetensors -o out",
    "export mamba --format gguf --tokenizer tokens -o out",
):
    print(main(command.split()))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"] * 4
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all("could not be written" in line for line in lines)
    assert sorted(tmp_path.rglob("*")) == before
