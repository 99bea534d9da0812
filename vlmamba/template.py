"""The words around a conversation, as data: which pieces a prompt is made of, and which of them are learnt.

A prompt is built turn by turn out of pieces; every piece is tokenised alone. So the ids of a conversation
never depend on where it is cut: after the pictures, or after a turn.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IMAGE_TOKEN = "<image>"

Role = Literal["user", "assistant"]

_JINJA = """\
{%- macro words(message) -%}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content if part.type == "text" -%}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- t.system -}}
{%- for message in messages -%}
  {%- if message.role != ("assistant" if loop.index0 % 2 else "user") -%}
    {{- raise_exception("turns alternate, and the user begins") -}}
  {%- elif message.role == "user" -%}
    {{- (t.between if loop.index0 else "") + t.before -}}
    {%- if message.content is not string -%}
      {%- for part in message.content if part.type == "image" -%}{{- t.picture -}}{%- endfor -%}
    {%- endif -%}
    {{- t.ask + (words(message) if t.keep_question else "") + t.rest -}}
    {%- if not loop.last or add_generation_prompt -%}{{- t.assistant -}}{%- endif -%}
  {%- else -%}
    {{- t.answer[0] + words(message) + t.answer[1] + (eos_token if t.keep_eos else t.end) -}}
  {%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class Turn:
    """What one side says. A user's pictures come before the words."""

    role: Role
    text: str
    num_pictures: int = 0


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt that is tokenised alone: words, one picture, or the end-of-text token."""

    kind: Literal["text", "picture", "eos"]
    text: str = ""
    learnt: bool = False


@dataclass(frozen=True)
class Template:
    """The words around a conversation.

    `user` holds {pictures}, where each picture becomes `picture` with {picture} in it, and {question}; without
    {question} the user's words are left out, as in LLaVA's first stage. `answer` holds {answer}; it is learnt
    together with `end`, and an `end` of None is the tokenizer's end-of-text token.
    """

    system: str = ""  # once, before the first turn
    user: str = "User: {pictures}{question}\n"
    picture: str = "{picture}\n"
    assistant: str = "Assistant:"  # the prompt ends with it
    answer: str = " {answer}"
    end: str | None = None
    between: str = "\n"  # before every user turn but the first

    def __post_init__(self) -> None:
        for name, slot in (
            ("user", "{pictures}"),
            ("picture", "{picture}"),
            ("answer", "{answer}"),
        ):
            if getattr(self, name).count(slot) != 1:
                raise ValueError(f"the template's {name!r} must hold {slot} once")
        before, after = self.user.split("{pictures}")
        if "{question}" in before or after.count("{question}") > 1:
            raise ValueError(
                "the template's 'user' must hold {question} at most once, after {pictures}"
            )

    def opening(self, num_pictures: int, first: bool = True) -> list[Piece]:
        """A user turn up to and with its last picture: what can be read before the question is known."""
        start = self.system if first else self.between
        before, after = self.picture.split("{picture}")
        text = start + self.user.split("{pictures}")[0]
        pieces: list[Piece] = []
        for _ in range(num_pictures):
            pieces += [Piece("text", text + before), Piece("picture")]
            text = after
        return [*pieces, Piece("text", text)]

    def asking(self, question: str) -> Piece:
        """The rest of a user turn, and the words that call for an answer."""
        rest = self.user.split("{pictures}")[1].split("{question}")
        return Piece("text", question.join(rest) + self.assistant)

    def user_turn(self, turn: Turn, first: bool) -> list[Piece]:
        """A whole user turn; without pictures there is nothing to read ahead, and it is one piece."""
        *opening, last = self.opening(turn.num_pictures, first)
        asking = self.asking(turn.text)
        if turn.num_pictures:
            return [*opening, last, asking]
        return [Piece("text", last.text + asking.text)]

    def answering(self, answer: str) -> list[Piece]:
        """An assistant turn: all of it is learnt."""
        text = answer.join(self.answer.split("{answer}"))
        return [Piece("text", text, learnt=True), self.ending()]

    def ending(self) -> Piece:
        """What ends an answer."""
        return Piece("eos" if self.end is None else "text", self.end or "", learnt=True)

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """A conversation, user first and in alternation. Raises ValueError for any other order."""
        pieces: list[Piece] = []
        for i, turn in enumerate(turns):
            expected: Role = "assistant" if i % 2 else "user"
            if turn.role != expected:
                raise ValueError(
                    f"turn {i + 1} is the {turn.role}'s: turns alternate, and the user begins"
                )
            if turn.role == "assistant":
                if turn.num_pictures:
                    raise ValueError(f"turn {i + 1} is the assistant's: only a user shows pictures")
                pieces += self.answering(turn.text)
            else:
                pieces += self.user_turn(turn, first=i == 0)
        return pieces

    def render(self, turns: Sequence[Turn], eos: str, image: str = IMAGE_TOKEN) -> str:
        """The conversation as a string, for reading and for comparing; ids are never made from it."""
        return "".join(as_text(piece, eos, image) for piece in self.pieces(turns))

    def to_jinja(self) -> str:
        """The same words as a chat template of transformers; a picture is one image token there."""
        before, after = self.user.split("{pictures}")
        ask, _, rest = after.partition("{question}")
        words = {
            "system": self.system,
            "between": self.between,
            "before": before,
            "picture": self.picture.replace("{picture}", IMAGE_TOKEN),
            "ask": ask,
            "rest": rest,
            "assistant": self.assistant,
            "answer": self.answer.split("{answer}"),
            "keep_question": "{question}" in after,
            "keep_eos": self.end is None,
            "end": self.end or "",
        }
        return f"{{%- set t = {json.dumps(words, ensure_ascii=False)} -%}}\n{_JINJA}"


def as_text(piece: Piece, eos: str, image: str = IMAGE_TOKEN) -> str:
    """A piece in words, with `eos` and `image` in the places of their tokens."""
    return {"text": piece.text, "eos": eos, "picture": image}[piece.kind]


LLAVA_V1 = Template(
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    user="USER: {pictures}{question} ",
    assistant="ASSISTANT:",
    between="",
)
LLAVA_PLAIN = Template(
    user="{pictures}", picture="{picture}", assistant="", answer="{answer}", end="\n", between=""
)
