"""A conversation about pictures: turns, and the state after each of them, so that going back costs nothing."""

import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open

from vlmamba.engine import GREEDY, Reply, Sampling
from vlmamba.state import State
from vlmamba.template import Turn
from vlmamba.vlm import VLM, Pictures, open_all

_FORM = "vlmamba-chat-1"


@dataclass(frozen=True)
class Point:
    """A moment between two turns. Nothing in it is ever changed, so points may be shared."""

    turns: tuple[Turn, ...] = ()
    state: State | None = None  # None: nothing has been read
    unread: tuple[int, ...] = ()  # the end of the last answer, which the state has not read yet
    pictures: tuple[Image.Image, ...] = ()  # shown, and waiting for the question about them


class Conversation:
    """Turns of questions and answers with a model; `turns` holds what was said."""

    def __init__(self, vlm: VLM, pictures: Pictures = None) -> None:
        self.vlm = vlm
        self._points = [Point(pictures=tuple(open_all(pictures)))]

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self._points[-1].turns

    def show(self, pictures: Pictures) -> None:
        """Adds pictures to the next question."""
        point = self._points[-1]
        if point.state is not None and not point.turns:
            raise ValueError("the state file already holds its pictures: ask about them first")
        self._points[-1] = replace(point, pictures=(*point.pictures, *open_all(pictures)))

    def stream(self, question: str, sampling: Sampling = GREEDY) -> Generator[str, None, None]:
        """The answer, piece by piece. A reader who closes the iterator early keeps what was said until then."""
        point = self._points[-1]
        reply = self._reply(point, question, sampling)
        try:
            yield from reply
        except GeneratorExit:
            if reply.answer.token_ids:
                self._points.append(self._after(point, question, reply))
            raise
        self._points.append(self._after(point, question, reply))

    def _reply(self, point: Point, question: str, sampling: Sampling) -> Reply:
        if point.state is None:
            return self.vlm.stream(list(point.pictures), question, sampling)
        if not point.turns:
            return self.vlm.stream(point.state, question, sampling)
        ids = self.vlm.processor.next_turn_ids(question, len(point.pictures))
        return self.vlm.write(
            point.state.clone(), [*point.unread, *ids], list(point.pictures), sampling
        )

    def _after(self, point: Point, question: str, reply: Reply) -> Point:
        answer = reply.answer
        unread = [answer.token_ids[-1]]
        if answer.finish_reason in (
            None,
            "length",
        ):  # the answer was cut: end it as the model would
            unread += self._end_ids()
        turns = (Turn("user", question, len(point.pictures)), Turn("assistant", answer.text))
        return Point((*point.turns, *turns), reply.state, tuple(unread))

    def _end_ids(self) -> list[int]:
        processor = self.vlm.processor
        if processor.template.end is None:
            return [processor.eos_token_id]
        return processor.tokenizer.encode(processor.template.end, add_special_tokens=False).ids

    def undo(self) -> Turn:
        """Takes the last question and its answer back, and returns the question."""
        if len(self._points) == 1:
            raise ValueError("there is nothing to take back")
        undone = self._points.pop()
        return undone.turns[-2]

    def branch(self) -> "Conversation":
        """A second conversation with the same past; what is said in one is unknown to the other."""
        twin = Conversation(self.vlm)
        twin._points = list(self._points)
        return twin

    def save(self, path: str | Path) -> None:
        """Writes words and state to a safetensors file; pictures are in it only as the model remembers them."""
        point = self._points[-1]
        if point.pictures or point.state is None:
            raise ValueError("there is nothing to save yet: ask a question first")
        notes = {
            "turns": json.dumps(
                [[turn.role, turn.text, turn.num_pictures] for turn in point.turns]
            ),
            "unread": json.dumps(point.unread),
        }
        point.state.save(path, _FORM, notes)

    @classmethod
    def load(cls, vlm: VLM, path: str | Path) -> "Conversation":
        """A conversation that `save` wrote, or one that begins with the pictures of a state file.

        Raises FileNotFoundError, or ValueError when the file is something else or another model wrote it.
        """
        path = Path(path)
        conversation = cls(vlm)
        notes = _notes(path)
        if "turns" in notes:
            state = State.load(path, vlm.model.device, _FORM)
            turns = tuple(Turn(*turn) for turn in json.loads(notes["turns"]))
            point = Point(turns, state, tuple(json.loads(notes["unread"])))
        else:
            state = State.load(path, vlm.model.device)
            point = Point(state=state)
        state.check_fits(vlm.model.config.text)
        conversation._points = [point]
        return conversation


def _notes(path: Path) -> dict[str, str]:
    """What stands beside the tensors of a file; empty where `State.load` will say what is wrong with it."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}
