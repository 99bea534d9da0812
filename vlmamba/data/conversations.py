"""One sample in LLaVA's format, as parsed JSON -> its turns and the names of its pictures.

The rules are those of haotian-liu/LLaVA (llava/train/train.py): unknown keys are ignored; of a sample with a
picture every `<image>` mark is taken out of the turn it stands in and the picture put before the words; of a
sample without, the mark is text. A first turn that is not the human's is dropped. What LLaVA stops at or
learns wrongly from is a BadSampleError.
"""

from dataclasses import dataclass, replace
from typing import Any

from vlmamba.data.faults import BadSampleError
from vlmamba.template import IMAGE_TOKEN, Role, Turn

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """A sample as its file gives it: its id ("" if it has none), the names of its pictures, its turns."""

    id: str
    pictures: tuple[str, ...]
    turns: tuple[Turn, ...]


def parse(data: Any) -> Conversation:
    """A sample of a file as a conversation; raises BadSampleError."""
    if not isinstance(data, dict) or not isinstance(data.get("conversations"), list):
        raise BadSampleError("not-a-sample", "no list of conversations")
    pictures = _pictures(data.get("image"))
    turns = [_turn(turn, bool(pictures)) for turn in data["conversations"]]
    if turns and turns[0].role != "user":
        turns = turns[1:]
    if turns and turns[-1].role == "user":  # nothing answers it
        turns = turns[:-1]
    if any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise BadSampleError("roles")
    if not turns or any(turn.role == "assistant" and not turn.text.strip() for turn in turns):
        raise BadSampleError("no-answer")
    if len(pictures) == 1:  # several marks in a turn are one
        turns = [replace(turn, num_pictures=min(turn.num_pictures, 1)) for turn in turns]
    marks = sum(turn.num_pictures for turn in turns)
    if len(pictures) != marks:
        raise BadSampleError("image-marks", f"{marks} marks, {len(pictures)} pictures")
    id_ = data.get("id")
    return Conversation("" if id_ is None else str(id_), pictures, tuple(turns))


def _pictures(value: Any) -> tuple[str, ...]:
    """The key `image`: absent or null, a path, or a list of paths."""
    if value is None or value == "":
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadSampleError("not-a-sample", "image is neither a path nor a list of paths")
    return tuple(names)


def _turn(data: Any, has_pictures: bool) -> Turn:
    if not isinstance(data, dict) or not isinstance(data.get("value"), str):
        raise BadSampleError("not-a-sample", "a turn without a value")
    source = data.get("from")
    role = _ROLES.get(source) if isinstance(source, str) else None
    if role is None:
        raise BadSampleError("not-a-sample", "a turn that is neither from human nor from gpt")
    text = data["value"]
    if not has_pictures or IMAGE_TOKEN not in text:
        return Turn(role, text)
    if role == "assistant":
        raise BadSampleError("image-marks", "a mark in an answer")
    return Turn(role, text.replace(IMAGE_TOKEN, "").strip(), text.count(IMAGE_TOKEN))
