"""The commands as a user meets them: what they print, where, and the code they end with."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_vlm import BLUE, RED, random_vlm

import vlmamba
from vlmamba.checkpoints import save_model
from vlmamba.cli import main
from vlmamba.commands.dropped import split_paths
from vlmamba.engine import Sampling


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with a model and pictures; the commands are given relative paths."""
    directory = tmp_path_factory.mktemp("home")
    vlm = random_vlm()
    save_model(directory / "model", vlm.model.float(), vlm.processor)
    RED.save(directory / "red.png")
    BLUE.save(directory / "blue cat.png")
    (directory / "text.png").write_text("not a picture")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(directory / "glass.png")
    return directory


@pytest.fixture
def run(home, monkeypatch, capfd):
    """Runs a command in `home`; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(home)

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        text = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", text)
        code = main(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def vlm(home):
    return vlmamba.load(home / "model", device="cpu")


def expected(vlm, pictures, question: str, count: int = 128) -> str:
    return vlm.ask(pictures, question, Sampling(max_new_tokens=count))


ASK = ("ask", "--model", "model", "--device", "cpu")


@pytest.mark.parametrize("names", [["red.png"], ["red.png", "blue cat.png"], []])
def test_ask_prints_the_answer_alone(run, vlm, names, home):
    code, out, err = run(*ASK, *names, "What is this?")
    assert (code, err) == (0, "")
    assert out == expected(vlm, [home / name for name in names], "What is this?") + "\n"


def test_ask_reads_a_picture_from_standard_input(run, vlm, home):
    code, out, _ = run(*ASK, "-", "What?", stdin=(home / "red.png").read_bytes())
    assert (code, out) == (0, expected(vlm, RED, "What?") + "\n")


def test_ask_as_json(run, vlm, home):
    options = ("--json", "--max-new-tokens", "5")
    code, out, err = run(*ASK, *options, "glass.png", "What?")
    report = json.loads(out)
    answer = vlm.answer(home / "glass.png", "What?", Sampling(max_new_tokens=5))
    assert (code, err) == (0, "")
    assert report["answer"] == answer.text
    assert report["finish_reason"] == answer.finish_reason
    assert report["tokens"] == {
        "prompt": answer.num_prompt_tokens,
        "answer": len(answer.token_ids),
    }
    assert set(report["timings"]) == {"load_s", "first_token_s", "decode_s", "tokens_per_s"}
    assert report["timings"]["first_token_s"] > 0
    assert report["notes"] == ["glass.png is partly transparent: it is laid on white"]


def test_ask_says_notes_on_standard_error(run):
    code, _, err = run(*ASK, "--max-new-tokens", "2", "glass.png", "What?")
    assert (code, err) == (0, "note: glass.png is partly transparent: it is laid on white\n")


def test_ask_draws_by_its_seed(run, vlm, home):
    options = ("--temperature", "1.3", "--top-p", "0.9", "--max-new-tokens", "9")
    first = run(*ASK, *options, "--seed", "1", "red.png", "What?")
    assert run(*ASK, *options, "--seed", "1", "red.png", "What?") == first
    assert run(*ASK, *options, "--seed", "2", "red.png", "What?") != first
    sampling = Sampling(max_new_tokens=9, temperature=1.3, top_p=0.9, seed=1)
    assert first[1] == vlm.ask(home / "red.png", "What?", sampling) + "\n"


MISTAKES = {
    "no command": (["prey"], 2, "No such command 'prey'"),
    "no question": (["ask"], 2, "Missing argument 'QUESTION'"),
    "a picture and no question": (["ask", "red.png"], 2, "the question comes last"),
    "question first": (["ask", "What?", "red.png"], 2, "the question comes last"),
    "empty question": ([*ASK, "red.png", " "], 2, "the question is empty"),
    "long question": ([*ASK, "red.png", "x" * 99_999], 2, "99,999 characters long"),
    "no such picture": (["ask", "none.png", "What?"], 2, "none.png: no such picture"),
    "a directory": (["ask", "model", "What?"], 2, "model is a directory"),
    "not a picture": (["ask", "text.png", "What?"], 2, "text.png is not a picture"),
    "nothing piped": (["ask", "-", "What?"], 2, "the picture is empty"),
    "stdin twice": (["ask", "-", "-", "What?"], 2, "one picture only"),
    "unknown option": (["ask", "--hot", "red.png", "What?"], 2, "No such option: --hot"),
    "not a number": (["ask", "--temperature", "hot", "red.png", "What?"], 2, "--temperature"),
    "out of range": (["ask", "--temperature", "-1", "red.png", "What?"], 2, "temperature must"),
    "top-p": (["ask", "--top-p", "0", "red.png", "What?"], 2, "top_p must be"),
    "device": (["ask", "--device", "abacus", "red.png", "What?"], 2, "'abacus' cannot be used"),
    "no model": (["ask", "--model", "none", "red.png", "What?"], 1, "no such model directory"),
    "broken model": (["ask", "--model", ".", "red.png", "What?"], 1, "config.json is missing"),
    "chat": (["chat", "none.png", "--model", "model"], 2, "none.png: no such picture"),
    "recipe": (["train", "none"], 2, "there is no recipe 'none'"),
    "setting": (["train", "tiny", "--dry-run", "--set", "align.lt=1"], 2, "did you mean align.lr"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_helps(run, name):
    arguments, code, message = MISTAKES[name]
    found, out, err = run(*arguments)
    assert found == code
    assert out == ""
    assert message in err
    assert err.startswith("vlmamba: ")
    assert err.count("\n") == 1


def test_a_broken_model_is_one_line(run, home, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (home / "model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, err = run("ask", "--model", str(broken), "red.png", "What?")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "model.safetensors" in err


@pytest.mark.parametrize("command", ["", "ask", "chat", "train", "doctor"])
def test_help_has_an_example(run, command):
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert re.search(rf"^ +vlmamba {command}", out, re.MULTILINE)
    assert "\b" not in out


def test_without_a_command_there_is_help(run):
    assert run()[0] == 2
    assert run()[1] == run("--help")[1]


def test_version(run):
    assert run("--version") == (0, f"vlmamba {vlmamba.__version__}\n", "")


def test_doctor(run):
    code, out, err = run("doctor", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["versions"]["torch"].startswith("2.")
    assert report["devices"][0]["device"] == "cpu"
    assert report["devices"][0]["backend"] == "cpu"
    assert report["devices"][0]["threads"] >= 1
    assert report["self_test"]["passed"]
    assert 0 < report["self_test"]["op_errors"]["cpu"] < 1e-4
    code, out, _ = run("doctor")
    assert code == 0
    assert "backend cpu: the tensors are on the CPU" in out
    assert "answers module by module: no CUDA device" in out
    assert "self test: passed" in out


def test_doctor_reports_a_forced_backend_and_a_broken_one(run, monkeypatch):
    monkeypatch.setenv("VLMAMBA_BACKEND", "reference")
    assert "backend reference: forced by VLMAMBA_BACKEND" in run("doctor")[1]
    monkeypatch.setenv("VLMAMBA_BACKEND", "abacus")
    code, out, err = run("doctor")
    assert (code, out) == (2, "")
    assert "VLMAMBA_BACKEND='abacus' is unknown" in err
    monkeypatch.delenv("VLMAMBA_BACKEND")
    monkeypatch.setattr("vlmamba.ops.cpu.selective_scan", lambda *_, **__: 1 / 0)
    code, out, _ = run("doctor")
    assert code == 1
    assert "self test: FAILED" in out
    assert "ZeroDivisionError" in out


# chat


def talk(run, *lines: str, picture: str = "red.png") -> tuple[list[str], list[str]]:
    stdin = "".join(f"{line}\n" for line in lines).encode()
    options = ("--model", "model", "--device", "cpu", "--max-new-tokens", "4")
    code, out, err = run("chat", *filter(None, [picture]), *options, stdin=stdin)
    assert code == 0
    assert "Traceback" not in err
    return out.splitlines(), err.splitlines()


def test_chat_answers_line_by_line(run, vlm):
    conversation = vlmamba.Conversation(vlm, RED)
    said = ["".join(conversation.stream(q, Sampling(4))) for q in ("What?", "Why?")]
    out, err = talk(run, "What?", "", "Why?")
    assert "\n".join(out) == "\n".join(said)
    assert err == []


def test_chat_shows_pictures_in_every_way_they_arrive(run, home):
    question = "Which?"
    plain, _ = talk(run, "/image red.png", question, picture="")
    for line in ("red.png", "'red.png'", str(home / "red.png"), f"file://{home}/red.png"):
        out, _ = talk(run, line, question, picture="")
        assert out == plain
    assert talk(run, f"red.png {question}", picture="")[0] == plain
    escaped, _ = talk(run, r"blue\ cat.png", question, picture="")
    assert talk(run, "blue cat.png", question, picture="")[0] == escaped
    assert talk(run, "/image blue cat.png", question, picture="")[0] == escaped
    assert escaped[0] == "(showing blue cat.png)"
    assert escaped[1:] != plain[1:]


def test_chat_goes_back_and_branches(run):
    (first, second), _ = talk(run, "What?", "Why?")
    out, _ = talk(run, "What?", "Why?", "/undo", "Why?")
    assert out == [first, second, "(took back: Why?)", second]
    out, _ = talk(
        run, "What?", "/branch b", "How many?", "/branch main", "Why?", "/branch", "/branch b"
    )
    assert out[0] == first
    assert out[1] == "(in branch b)"
    assert out[3:] == [
        "(in branch main)",
        second,
        "* main: 2 questions",
        "  b: 2 questions",
        "(in branch b)",
    ]


def test_chat_is_saved_and_loaded(run, home):
    (first, second), _ = talk(run, "What?", "Why?")
    out, _ = talk(run, "What?", "/save talk", "/quit", "Why?")
    assert out == [first, "(saved to talk)"]
    out, _ = talk(run, "/load talk", "Why?", picture="")
    assert out == ["> What?", first, "(loaded talk)", second]
    _, err = talk(run, "What?", "/save talk")
    assert err == ["talk exists already: choose another name"]
    (home / "talk").unlink()


def test_chat_says_what_is_wrong_and_goes_on(run):
    (answer,), _ = talk(run, "What?")
    wrong = ["/fly", "/image", "/image none.png", "text.png", "/load none", "/load text.png"]
    out, err = talk(run, *wrong, "/save", "/save x", "/undo", "x" * 9999, "/help", "What?")
    assert out[-1] == answer
    assert any("/undo" in line for line in out)
    assert err == [
        "there is no command /fly: /help lists what there is",
        "/image needs the path of a picture, got nothing",
        "/image needs the path of a picture, got none.png",
        "text.png is not a picture that can be read: give a whole PNG, JPEG, GIF, BMP, PPM, WebP, "
        "TIFF, AVIF or ICO file",
        "none: no such state file",
        err[5],
        "/save needs the name of a file",
        "there is nothing to save yet: ask a question first",
        "there is nothing to take back",
        "the question is 9,999 characters long: at most 8,192 are read",
    ]
    assert "text.png is not a readable state file" in err[5]


def test_what_is_a_path_and_what_a_question(home, monkeypatch):
    monkeypatch.chdir(home)
    red, blue = Path("red.png"), Path("blue cat.png")
    for line, expected_split in {
        "What's this?": ([], "What's this?"),
        "red.png": ([red], ""),
        '  red.png what\'s "this"?': ([red], 'what\'s "this"?'),
        "blue cat.png": ([blue], ""),
        r"blue\ cat.png red.png": ([blue, red], ""),
        "'blue cat.png' \"red.png\" Which?": ([blue, red], "Which?"),
        "red.pngs": ([], "red.pngs"),
        "\0": ([], "\0"),
        "": ([], ""),
    }.items():
        assert split_paths(line) == expected_split


# processes


def spawn(home: Path, *arguments: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vlmamba", *arguments], cwd=home, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed_ctrl_c, **options,
    )  # fmt: skip


def _heed_ctrl_c() -> None:
    """A shell that runs the tests in its background has them, and all they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_closed_pipe_is_quiet(home):
    process = spawn(home, *ASK, "--json", "red.png", "What?")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_ctrl_c_stops_ask_quietly_and_chat_only_in_its_answer(home):
    process = spawn(
        home, "chat", "--model", "model", "--max-new-tokens", "1000000", stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"Say a lot.\n")
    process.stdin.flush()
    process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(b"/branch\n", timeout=30)
    assert out.endswith(b"\n* main: 1 questions\n")
    assert (process.returncode, err) == (0, b"")

    process = spawn(home, *ASK, "--max-new-tokens", "1000000", "Say a lot.")
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")


def test_help_and_import_do_not_wait_for_torch():
    """Asking for help, or for the version, never imports torch."""
    program = (
        "import sys, vlmamba, vlmamba.cli; vlmamba.cli.main(['ask', '--help']);"
        "print(sorted(m for m in ('torch', 'numpy', 'PIL', 'tokenizers') if m in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"
