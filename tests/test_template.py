"""The words around a conversation, ours and LLaVA's, as strings and as transformers' chat templates."""

import jinja2
import pytest

from vlmamba.template import LLAVA_PLAIN, LLAVA_V1, Piece, Template, Turn

TALK = [
    Turn("user", "What is this?", 1),
    Turn("assistant", "a cat"),
    Turn("user", "And these?", 2),
    Turn("assistant", "dogs"),
]


def test_ours():
    assert Template().render(TALK, "</s>") == (
        "User: <image>\nWhat is this?\nAssistant: a cat</s>\n"
        "User: <image>\n<image>\nAnd these?\nAssistant: dogs</s>"
    )
    assert Template().render(TALK[:1], "</s>").endswith("What is this?\nAssistant:")


def test_llava_v1():
    assert LLAVA_V1.render(TALK, "</s>") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhat is this? ASSISTANT: a cat</s>"
        "USER: <image>\n<image>\nAnd these? ASSISTANT: dogs</s>"
    )


def test_llava_plain_leaves_the_question_out():
    assert LLAVA_PLAIN.render(TALK[:2], "</s>") == "<image>a cat\n"
    assert LLAVA_PLAIN.pieces(TALK[:2])[-1] == Piece("text", "\n", learnt=True)


@pytest.mark.parametrize("template", [Template(), LLAVA_V1, LLAVA_PLAIN])
def test_learnt_are_answers_and_their_ends_alone(template):
    learnt = [piece for piece in template.pieces(TALK) if piece.learnt]
    assert learnt == template.answering("a cat") + template.answering("dogs")


def test_words_in_braces_are_left_alone():
    talk = [Turn("user", "{question} {answer} {0}?", 1), Turn("assistant", "{pictures}{answer}")]
    assert Template().render(talk, "</s>") == (
        "User: <image>\n{question} {answer} {0}?\nAssistant: {pictures}{answer}</s>"
    )


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([Turn("assistant", "a cat")], "turn 1 is the assistant's"),
        ([Turn("user", "a?"), Turn("user", "b?")], "turn 2 is the user's"),
        ([*TALK, Turn("assistant", "more")], "turn 5 is the assistant's"),
        ([Turn("user", "a?"), Turn("assistant", "b", 1)], "only a user shows pictures"),
    ],
)
def test_order_of_turns(turns, reason):
    with pytest.raises(ValueError, match=reason):
        Template().pieces(turns)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "{question}"},
        {"user": "{question}{pictures}"},
        {"user": "{pictures}{question}{question}"},
        {"picture": "<image>"},
        {"answer": ""},
    ],
)
def test_a_template_without_its_places_is_refused(fields):
    with pytest.raises(ValueError, match="must hold"):
        Template(**fields)


def chat(template: Template, messages: list, **options) -> str:
    """A chat template rendered as transformers renders it."""

    def raise_exception(text: str) -> None:
        raise ValueError(text)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.globals["raise_exception"] = raise_exception
    compiled = environment.from_string(template.to_jinja())
    return compiled.render(messages=messages, eos_token="</s>", **options)


def as_messages(turns: list[Turn]) -> list[dict]:
    """transformers' form; the words stand before the pictures on purpose."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": turn.text},
                *[{"type": "image"}] * turn.num_pictures,
            ],
        }
        for turn in turns
    ]


@pytest.mark.parametrize(
    "template", [Template(), LLAVA_V1, LLAVA_PLAIN, Template(end="\n## \"%}'\\", between="é")]
)
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_chat_template_says_the_same(template, length):
    turns = TALK[:length]
    ask = turns[-1].role == "user"
    assert chat(template, as_messages(turns), add_generation_prompt=ask) == template.render(
        turns, "</s>"
    )


def test_chat_template_takes_plain_strings():
    messages = [{"role": turn.role, "content": turn.text} for turn in TALK]
    turns = [Turn(turn.role, turn.text) for turn in TALK]
    assert chat(Template(), messages) == Template().render(turns, "</s>")


def test_chat_template_refuses_other_orders():
    with pytest.raises(ValueError, match="the user begins"):
        chat(Template(), [{"role": "system", "content": "be kind"}])
