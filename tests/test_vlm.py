"""Asking: a picture, several, none, or a state; alone or in a batch; and conversations that go back and forth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import vlmamba
from vlmamba import VLM, Conversation, Sampling, State
from vlmamba.checkpoints import save_model
from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.engine import GREEDY
from vlmamba.model import VLMamba
from vlmamba.pictures import PictureError
from vlmamba.processing import ImageSettings, Processor, QuestionError
from vlmamba.template import Template, Turn

SHORT = Sampling(max_new_tokens=12)


def byte_tokenizer() -> Tokenizer:
    """Every byte a token, behind three special ones."""
    specials = ["<|endoftext|>", "<|padding|>", "<image>"]
    symbols = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer


def random_vlm(template: Template | None = None, dtype: torch.dtype = torch.float64) -> VLM:
    torch.manual_seed(5)
    vision = VisionConfig(
        layout="siglip", hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    text = MambaConfig(d_model=20, n_layer=2, vocab_size=259, d_state=5, tie_embeddings=False)
    config = ModelConfig(vision, ConnectorConfig(d_state=3), text, image_token_id=2)
    model = VLMamba(config).to(dtype)
    with torch.no_grad():  # a long memory: what was read first still changes the next token
        model.lm_head.weight.normal_()
        model.model.connector.linear_2.weight.mul_(20)
        model.model.language_model.embeddings.weight.normal_(std=0.3)
        for layer in model.model.language_model.layers:
            layer.mixer.A_log.fill_(-3)
            layer.mixer.D.zero_()
            layer.mixer.dt_proj.bias.zero_()
            layer.mixer.conv1d.weight.mul_(4)
            layer.mixer.x_proj.weight.mul_(5)
            layer.mixer.out_proj.weight.mul_(4)
        model.lm_head.weight[0] *= 1.5  # some answers are to end by themselves
    processor = Processor(byte_tokenizer(), ImageSettings(8), 4, template, image_token_id=2)
    return VLM(model, processor)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (7 + seed, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


RED, BLUE = picture(1), picture(2)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return random_vlm()


def likeliest(logits: torch.Tensor) -> int:
    """The next token, which may be any but the image token."""
    logits[..., 2] = -torch.inf
    return int(logits[0, -1].argmax())


@torch.no_grad()
def by_forward(vlm: VLM, pictures: list[Image.Image], turns: list[Turn], count: int) -> list[int]:
    """The definition: the whole prompt through the model, again for every token."""
    ids = vlm.processor.prompt_ids(turns)
    prompt, pixels = len(ids), vlm.processor.pixel_values(pictures) if pictures else None
    while len(ids) < prompt + count and ids[-1] != vlm.model.config.eos_token_id:
        ids.append(likeliest(vlm.model(torch.tensor([ids]), pixels).logits))
    return ids[prompt:]


@pytest.mark.parametrize("pictures", [[], [RED], [BLUE, RED]])
def test_an_answer_is_what_the_forward_pass_says(vlm, pictures):
    answer = vlm.answer(pictures, "What is this?", SHORT)
    turns = [Turn("user", "What is this?", len(pictures))]
    assert answer.token_ids == by_forward(vlm, pictures, turns, 12)
    assert answer.text == vlm.processor.decode(answer.token_ids)
    assert answer.num_prompt_tokens == len(vlm.processor.prompt_ids(turns))
    assert answer.finish_reason == ("eos" if answer.token_ids[-1] == 0 else "length")
    assert answer.timings.first_token_s > 0
    assert answer.timings.tokens_per_s > 0


def test_pieces_join_to_the_answer(vlm):
    assert "".join(vlm.stream(RED, "Why?", SHORT)) == vlm.ask(RED, "Why?", SHORT)


def test_different_pictures_and_orders_are_told_apart(vlm):
    subjects = [None, RED, BLUE, [RED, BLUE], [BLUE, RED]]
    answers = [tuple(vlm.answer(s, "What?", SHORT).token_ids) for s in subjects]
    assert len(set(answers)) == 5


def test_a_picture_may_come_in_any_form(vlm, tmp_path):
    path = tmp_path / "a picture.png"
    RED.save(path)
    expected = vlm.ask(RED, "What?", SHORT)
    for form in (path, str(path), path.read_bytes(), np.asarray(RED), [RED]):
        assert vlm.ask(form, "What?", SHORT) == expected


def test_asking_a_state_equals_asking_the_picture_and_leaves_it_as_it_was(vlm, tmp_path):
    state = vlm.read([RED, BLUE])
    before = state.clone()
    vlm.read(RED).save(tmp_path / "red.state")
    for question in ("What?", "How many are there?"):
        expected = vlm.answer([RED, BLUE], question, SHORT)
        answer = vlm.answer(state, question, SHORT)
        assert answer.token_ids == expected.token_ids
        assert answer.num_prompt_tokens == expected.num_prompt_tokens
        loaded = State.load(tmp_path / "red.state")
        assert vlm.ask(loaded, question, SHORT) == vlm.ask(RED, question, SHORT)
    assert state.difference(before) == 0
    assert vlm.ask(vlm.read(None), "What?", SHORT) == vlm.ask(None, "What?", SHORT)


def test_forks_of_a_state_are_independent(vlm):
    fork = vlm.read(RED).fork(3)
    with pytest.raises(ValueError, match="the state holds 3 sequences"):
        vlm.ask(fork, "What?")
    siblings = [fork.select(torch.tensor([row])) for row in range(3)]
    sampling = replace(SHORT, temperature=1.0, seed=4)
    answers = vlm.ask_many([(state, "What?") for state in siblings], sampling)
    expected = [vlm.ask(RED, "What?", replace(sampling, seed=4 + row)) for row in range(3)]
    assert answers == expected
    assert len(set(answers)) == 3


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("sampling", [SHORT, replace(SHORT, temperature=1.2, top_p=0.9, seed=2)])
def test_many_are_answered_as_each_alone(vlm, batch_size, sampling):
    pairs = [
        (RED, "What is this?"),
        (None, "Hm?"),
        ([RED, BLUE], "Which of the two pictures has more blue?"),
        (vlm.read(BLUE), "What?"),
        (RED, "And why?"),
        (BLUE, "What?"),
        ([RED, BLUE], "x"),
    ]
    expected = [
        vlm.ask(s, q, sampling if sampling.seed is None else replace(sampling, seed=2 + i))
        for i, (s, q) in enumerate(pairs)
    ]
    assert vlm.ask_many(pairs, sampling, batch_size=batch_size) == expected
    assert vlm.ask_many([]) == []


def test_a_shared_picture_is_read_once(vlm, monkeypatch, tmp_path):
    RED.save(tmp_path / "red.png")
    seen = []
    see = vlm.model.model.image_embeds
    monkeypatch.setattr(vlm.model.model, "image_embeds", lambda p: seen.append(len(p)) or see(p))
    path = str(tmp_path / "red.png")
    vlm.ask_many([(path, "a"), (path, "b"), (BLUE, "c"), (BLUE, "d"), ([path, BLUE], "e")], SHORT)
    assert seen == [4]
    vlm.ask(RED, "a", SHORT)
    assert seen == [4, 1]


def test_a_stop_text_ends_the_answer_alone_and_in_a_batch(vlm):
    whole = vlm.ask(RED, "What?", replace(SHORT, max_new_tokens=30))
    stop = whole[4:6]
    sampling = replace(SHORT, max_new_tokens=30, stop=(stop,))
    answer = vlm.answer(RED, "What?", sampling)
    assert answer.text == whole[: whole.index(stop)].rstrip()
    assert answer.finish_reason == "stop"
    other = vlm.ask(BLUE, "Why?", sampling)
    assert vlm.ask_many([(RED, "What?"), (BLUE, "Why?")], sampling) == [answer.text, other]


def test_what_cannot_be_asked_is_one_clear_error(vlm, tmp_path):
    with pytest.raises(QuestionError, match="the question is empty"):
        vlm.ask(RED, " \n")
    with pytest.raises(QuestionError, match="at most"):
        vlm.ask_many([(RED, "x" * 100_000)])
    with pytest.raises(PictureError, match="no such picture"):
        vlm.ask(tmp_path / "nothing.png", "What?")
    with pytest.raises(ValueError, match="another model made it"):
        vlm.ask(State.allocate(MambaConfig(d_model=8, n_layer=1, vocab_size=9), 1), "What?")
    with pytest.raises(ValueError, match="batch_size"):
        vlm.ask_many([(RED, "What?")], batch_size=0)


# conversations


def spoken(conversation: Conversation, question: str, sampling: Sampling = SHORT) -> str:
    return "".join(conversation.stream(question, sampling))


@torch.no_grad()
def test_a_conversation_equals_its_whole_prompt_read_again(vlm):
    """Answers ended by the model, by their length and by their reader all lead to the next turn."""
    conversation, processor, eos = Conversation(vlm, RED), vlm.processor, vlm.processor.eos_token_id
    pictures, reasons = [RED], []
    ids = processor.prompt_ids([Turn("user", "What is it?", 1)])
    for question, shown, length in TALK:
        if shown is not None:
            conversation.show(shown)
            pictures.append(shown)
        if conversation.turns:
            ids += processor.next_turn_ids(question, int(shown is not None))
        pixels, answer = processor.pixel_values(pictures), []
        while len(answer) < length and eos not in answer:
            answer.append(likeliest(vlm.model(torch.tensor([ids + answer]), pixels).logits))
        assert spoken(conversation, question, Sampling(length)) == processor.decode(answer)
        reasons.append("eos" if answer[-1] == eos else "length")
        ids += answer if answer[-1] == eos else [*answer, eos]
        assert conversation.turns[-2:] == (
            Turn("user", question, int(shown is not None or len(reasons) == 1)),
            Turn("assistant", processor.decode(answer)),
        )
    assert set(reasons) == {"eos", "length"}


TALK = [
    ("What is it?", None, 5),
    ("And why?", None, 60),
    ("And this?", BLUE, 60),
    ("So?", None, 7),
    ("Really?", None, 3),
]


def test_a_template_may_end_its_answers_with_words():
    whole = random_vlm().ask(RED, "What?", SHORT)
    end = whole[3:5]
    vlm = random_vlm(Template(end=end))
    conversation = Conversation(vlm, RED)
    assert spoken(conversation, "What?") == whole[: whole.index(end)].rstrip()
    assert conversation.turns[-1].text == whole[: whole.index(end)].rstrip()
    assert len(conversation.turns) == 2
    spoken(conversation, "And?")
    assert len(conversation.turns) == 4


def test_undo_takes_back_one_turn_at_a_time(vlm):
    conversation = Conversation(vlm, RED)
    first, second = spoken(conversation, "What?"), spoken(conversation, "Why?")
    assert conversation.undo() == Turn("user", "Why?")
    assert spoken(conversation, "Why?") == second
    conversation.undo()
    assert conversation.undo() == Turn("user", "What?", 1)
    assert conversation.turns == ()
    assert spoken(conversation, "What?") == first
    conversation.undo()
    with pytest.raises(ValueError, match="nothing to take back"):
        conversation.undo()


def test_branches_share_their_past_alone(vlm):
    conversation = Conversation(vlm, RED)
    spoken(conversation, "What?")
    twin = conversation.branch()
    expected = spoken(conversation, "Why?")
    spoken(twin, "How many?")
    spoken(twin, "Where?")
    assert len(conversation.turns) == 4
    twin.undo()
    twin.undo()
    assert spoken(twin, "Why?") == expected


def test_a_reader_who_stops_keeps_what_was_said(vlm):
    conversation, again = Conversation(vlm, RED), Conversation(vlm, RED)
    pieces = conversation.stream("What?", SHORT)
    said = next(pieces) + next(pieces)
    pieces.close()
    assert conversation.turns == (Turn("user", "What?", 1), Turn("assistant", said))
    tokens = len(vlm.stream(RED, "What?", SHORT).answer.token_ids)
    assert tokens == 0
    count = next(n for n in range(1, 12) if vlm.ask(RED, "What?", Sampling(n)) == said)
    spoken(again, "What?", Sampling(count))
    assert spoken(conversation, "Why?") == spoken(again, "Why?")


def test_an_answer_that_failed_is_forgotten(vlm, monkeypatch):
    conversation = Conversation(vlm, RED)
    expected = [spoken(conversation, "What?"), spoken(conversation.branch(), "Why?")]
    turns = conversation.turns
    with monkeypatch.context() as broken:
        broken.setattr("vlmamba.engine.rows.decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            spoken(conversation, "Why?")
    assert conversation.turns == turns
    assert spoken(conversation, "Why?") == expected[1]


def test_a_saved_conversation_goes_on_elsewhere(vlm, tmp_path):
    conversation = Conversation(vlm, RED)
    spoken(conversation, "What?")
    conversation.save(tmp_path / "talk")
    loaded = Conversation.load(vlm, tmp_path / "talk")
    assert loaded.turns == conversation.turns
    assert spoken(loaded, "Why?") == spoken(conversation, "Why?")
    vlm.read(RED).save(tmp_path / "red")
    begun = Conversation.load(vlm, tmp_path / "red")
    assert spoken(begun, "What?") == vlm.ask(RED, "What?", SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["red", "talk"]


def test_what_a_conversation_cannot_do_is_one_clear_error(vlm, tmp_path):
    conversation = Conversation(vlm, RED)
    with pytest.raises(ValueError, match="nothing to save yet"):
        conversation.save(tmp_path / "talk")
    spoken(conversation, "What?")
    conversation.save(tmp_path / "talk")
    vlm.read(RED).save(tmp_path / "red")
    (tmp_path / "text").write_text("hello")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no such state file"):
        Conversation.load(vlm, tmp_path / "nothing")
    with pytest.raises(ValueError, match="not a readable state file"):
        Conversation.load(vlm, tmp_path / "text")
    with pytest.raises(ValueError, match="not a vlmamba-state-1 file"):
        Conversation.load(vlm, tmp_path / "other")
    with pytest.raises(ValueError, match="not a vlmamba-state-1 file"):
        State.load(tmp_path / "talk")
    with pytest.raises(ValueError, match="already holds its pictures"):
        Conversation.load(vlm, tmp_path / "red").show(BLUE)


# loading


def test_load_reads_a_model_directory(vlm, tmp_path):
    save_model(tmp_path / "model", vlm.model, vlm.processor)
    loaded = vlmamba.load(tmp_path / "model", device="cpu", dtype="float64")
    assert loaded.ask(RED, "What?", SHORT) == vlm.ask(RED, "What?", SHORT)
    assert vlmamba.load(str(tmp_path / "model"), device="cpu").model.dtype == torch.float32
    assert vlmamba.load(tmp_path / "model", "cpu", torch.bfloat16).ask(RED, "What?", SHORT)


def test_load_says_what_is_wrong(tmp_path):
    for model, device, dtype, message in (
        (tmp_path / "nothing", None, None, "no such model directory"),
        (tmp_path, None, None, "config.json is missing"),
        (tmp_path, "gpu", None, "device 'gpu' cannot be used here"),
        (tmp_path, "meta", None, "device 'meta' cannot be used here"),
        (tmp_path, "cuda:7", None, "device 'cuda:7' cannot be used here"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            vlmamba.load(model, device, dtype)


def test_a_state_of_another_dtype_is_taken(vlm, tmp_path):
    save_model(tmp_path / "model", vlm.model, vlm.processor)
    half = vlmamba.load(tmp_path / "model", device="cpu", dtype="bfloat16")
    state = vlm.read(RED)
    assert half.ask(State(state.conv_state, state.ssm_state.float(), state.length), "What?", GREEDY)
