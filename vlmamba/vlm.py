"""A model, its processor and the engine in one object: ask questions about pictures."""

import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from vlmamba.checkpoints import load_model
from vlmamba.engine import GREEDY, Answer, AnswerText, Generation, Reply, Sampling, generate
from vlmamba.engine.forward import embed
from vlmamba.engine.graphs import Graphs, graphs_of
from vlmamba.engine.rows import put_rows
from vlmamba.model import VLMamba
from vlmamba.pictures import Picture, open_picture
from vlmamba.processing import Processor, check_question
from vlmamba.state import State
from vlmamba.template import Turn
from vlmamba.upload import upload

Pictures: TypeAlias = Picture | Sequence[Picture] | None
Subject: TypeAlias = Pictures | State


def load(
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> "VLM":
    """A model ready to be asked: a directory or hub id, or the embedded mini model when None is named.

    device: "cuda" where there is one, else "cpu"; dtype: bfloat16 on cuda, else float32.
    Raises FileNotFoundError or ValueError in one line when there is no such model, device or dtype, or
    the model's files are broken.
    """
    chosen = choose_device(device)
    if dtype is None and chosen.type == "cuda":
        dtype = torch.bfloat16
    loaded, processor = load_model(model or embedded_model(), device=chosen, dtype=dtype)
    return VLM(loaded, processor)


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device that was named, or the best there is. Raises ValueError when it cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"device {str(name)!r} cannot be used here: use 'cpu' or leave it out"
        ) from None
    return device


def embedded_model() -> Path:
    """The directory of the model that comes with the package."""
    directory = Path(str(files("vlmamba"))) / "mini"
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            "no model comes with this installation: name a model directory or hub id"
        )
    return directory


class VLM:
    """A vision-language model to talk to.

    A subject is what a question is about: a picture (a path, encoded bytes, a PIL picture, an array), a
    list of pictures, None, or a State that `read` returned. Pictures that cannot be opened raise
    PictureError, questions that cannot be asked QuestionError, both with one line that says what to do.
    """

    def __init__(self, model: VLMamba, processor: Processor) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    def ask(self, subject: Subject, question: str, sampling: Sampling = GREEDY) -> str:
        """The answer to a question. A State is left as it was, and `ask(read(x), q)` equals `ask(x, q)`."""
        return self.answer(subject, question, sampling).text

    def answer(self, subject: Subject, question: str, sampling: Sampling = GREEDY) -> Answer:
        """As `ask`, with the answer's tokens, the reason for its end, and timings."""
        reply = self.stream(subject, question, sampling)
        for _ in reply:
            pass
        return reply.answer

    def stream(self, subject: Subject, question: str, sampling: Sampling = GREEDY) -> Reply:
        """The answer as an iterator of pieces of text, which end at whole characters."""
        start = time.perf_counter()
        generation = self._begin([subject], [question], sampling)
        return Reply(generation, self._text(sampling), time.perf_counter() - start)

    def ask_many(
        self,
        pairs: Iterable[tuple[Subject, str]],
        sampling: Sampling = GREEDY,
        batch_size: int = 16,
    ) -> list[str]:
        """The answers to many (subject, question) pairs, `batch_size` at a time.

        A subject that several questions of a batch share, as the same object or path, is read once. With a
        seed, pair i is answered as `ask` answers it with `seed + i`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        pairs = list(pairs)
        answers: list[str] = []
        for start in range(0, len(pairs), batch_size):
            subjects, questions = zip(*pairs[start : start + batch_size], strict=True)
            seed = None if sampling.seed is None else sampling.seed + start
            answers += self._answers(subjects, questions, replace(sampling, seed=seed))
        return answers

    def _answers(
        self, subjects: Sequence[Subject], questions: Sequence[str], sampling: Sampling
    ) -> list[str]:
        generation = self._begin(subjects, questions, sampling)
        texts = [self._text(sampling) for _ in questions]
        pieces: list[list[str]] = [[] for _ in questions]
        for step in generation:
            for row, token in zip(step.rows, step.tokens, strict=True):
                pieces[row].append(texts[row].push(token))
                if texts[row].stopped:
                    generation.finish(row)
        return ["".join([*row, text.end()]) for row, text in zip(pieces, texts, strict=True)]

    def read(self, pictures: Pictures) -> State:
        """What the model remembers of pictures: ask it as often as wanted, keep it, or send it away."""
        return self._read([open_all(pictures)], graphs_of(self.model))

    def write(
        self, state: State, ids: Sequence[int], pictures: Pictures, sampling: Sampling = GREEDY
    ) -> Reply:
        """Reads ids, with pictures in the places of their image tokens, into `state` and writes on from there."""
        start = time.perf_counter()
        pixel_values = self._pixel_values(open_all(pictures))
        input_ids = torch.tensor([list(ids)])
        generation = generate(self.model, input_ids, pixel_values, state=state, sampling=sampling)
        return Reply(generation, self._text(sampling), time.perf_counter() - start)

    def _begin(
        self, subjects: Sequence[Subject], questions: Sequence[str], sampling: Sampling
    ) -> Generation:
        for question in questions:
            check_question(question)
        graphs = graphs_of(self.model)
        state, begun = self._states(subjects, graphs)
        processor = self.processor
        prompts = [
            processor.continue_ids(question)
            if goes_on
            else processor.prompt_ids([Turn("user", question)])
            for question, goes_on in zip(questions, begun, strict=True)
        ]
        input_ids, mask = self._batch(prompts)
        return generate(
            self.model, input_ids,
            attention_mask=mask, state=state, sampling=sampling, graphs=graphs,
        )  # fmt: skip

    def _states(
        self, subjects: Sequence[Subject], graphs: Graphs | None
    ) -> tuple[State, list[bool]]:
        """A new state with one row for every subject, and whether it has read anything; equal ones are read once."""
        keys = [_key(subject) for subject in subjects]
        different = dict(zip(keys, subjects, strict=True))
        parts: list[State] = []
        places: dict[Hashable, int] = {}
        begun: dict[Hashable, bool] = {}
        for key, subject in different.items():
            if isinstance(subject, State):
                places[key] = len(places)
                parts.append(self._fitted(subject))
                begun[key] = bool(subject.length.any())
        albums = {k: open_all(s) for k, s in different.items() if not isinstance(s, State)}
        for key, album in albums.items():
            places[key] = len(places)
            begun[key] = bool(album)
        if albums:
            parts.append(self._read(list(albums.values()), graphs))
        rows = upload(torch.tensor([places[key] for key in keys]), self.model.device)
        state = State(
            torch.cat([part.conv_state for part in parts], 1),
            torch.cat([part.ssm_state for part in parts], 1),
            torch.cat([part.length for part in parts]),
        ).select(rows)
        return state, [begun[key] for key in keys]

    def _fitted(self, state: State) -> State:
        """A one-row state where the model is, in its dtype; ValueError when another model made it."""
        state.check_fits(self.model.config.text)
        if state.batch_size != 1:
            raise ValueError(
                f"the state holds {state.batch_size} sequences: ask about one of them, state.select(rows)"
            )
        state = state.to(self.model.device)
        return State(state.conv_state.to(self.model.dtype), state.ssm_state, state.length)

    @torch.no_grad()
    def _read(self, albums: Sequence[Sequence[Image.Image]], graphs: Graphs | None) -> State:
        """The state after the pictures of each album; an empty album leaves an empty state.

        A GPU is busy enough with one, and its numbers then do not depend on those read beside it; elsewhere
        they are read as a batch.
        """
        state = self.model.allocate_state(len(albums))
        if graphs is not None:
            for row, album in enumerate(albums):
                if album:
                    input_ids, _ = self._batch([self.processor.prefix_ids(len(album))])
                    alone = self.model.allocate_state(1)
                    embeds = embed(self.model, input_ids, self._pixel_values(album), graphs=graphs)
                    graphs.read(embeds, None, alone)
                    put_rows(state, upload(torch.tensor([row]), self.model.device), alone)
        elif any(albums):
            input_ids, mask = self._batch(
                [self.processor.prefix_ids(len(album)) if album else [] for album in albums]
            )
            pixel_values = self._pixel_values([picture for album in albums for picture in album])
            mask = mask.to(self.model.device)
            self.model.model(input_ids, pixel_values, attention_mask=mask, state=state)
        return state

    def _batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids of unequal length -> input_ids (b, l) padded on the right, attention_mask (b, l), both on the CPU."""
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        pad = self.processor.pad_token_id
        padded = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.arange(longest) < lengths[:, None]
        return padded, mask

    def _pixel_values(self, pictures: Sequence[Image.Image]) -> Tensor | None:
        if not pictures:
            return None
        return self.processor.pixel_values(pictures).to(self.model.device)

    def _text(self, sampling: Sampling) -> AnswerText:
        """Text that ends at the template's own end, too, where that is words and not a token."""
        end, tokenizer = self.processor.template.end, self.processor.tokenizer
        stop = sampling.stop if end is None else (*sampling.stop, end)
        return AnswerText(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), stop)


def open_all(pictures: Pictures) -> list[Image.Image]:
    """One picture, several or none -> a list of opened pictures."""
    if pictures is None:
        return []
    if isinstance(pictures, Picture):
        return [open_picture(pictures)]
    return [open_picture(picture) for picture in pictures]


def _key(subject: object) -> Hashable:
    """Equal for subjects that are the same object, path, or list of such."""
    if isinstance(subject, str | Path):
        return str(subject)
    if isinstance(subject, list | tuple):
        return tuple(_key(item) for item in subject)
    return id(subject)
