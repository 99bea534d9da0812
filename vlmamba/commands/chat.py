"""`vlmamba chat`: a conversation about pictures, line by line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmamba.commands import options
from vlmamba.commands.dropped import split_paths
from vlmamba.commands.failure import BAD_USAGE, CommandError, failing_with
from vlmamba.commands.interrupt import stoppable
from vlmamba.commands.notes import noted

if TYPE_CHECKING:
    from vlmamba.conversation import Conversation
    from vlmamba.engine import Sampling
    from vlmamba.vlm import VLM

HELP = """\
Write a question and press Enter. Drop a picture on the window, or begin the line with its path, to show it.
  /image PATH      show a picture; the next question is about it
  /undo            take the last question and its answer back
  /branch [NAME]   go on in a branch called NAME, or go back to it; without NAME, list the branches
  /save FILE       write the conversation to a file
  /load FILE       go on with a saved conversation or picture state
  /help            show this
  /quit            leave; so does Ctrl-D
Ctrl-C stops an answer."""


def chat(
    picture: Annotated[
        Path | None, typer.Argument(metavar="PICTURE", help="What to talk about first.")
    ] = None,
    model: options.Model = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    device: options.Device = None,
) -> None:
    """Talk about pictures; /help lists what can be done.

    \b
    vlmamba chat cat.jpg
    """
    with noted():
        shown = []
        if picture is not None:
            from vlmamba.pictures import open_picture

            with failing_with(BAD_USAGE):
                shown = [open_picture(picture)]
        sampling = options.sampling(max_new_tokens, temperature, top_p, seed)
        talk = Chat(options.load(model, device), sampling)
        talk.conversation.show(shown)
        if sys.stdin.isatty():
            print("/help lists the commands, /quit leaves.")
        talk.run(_lines())


class Chat:
    """What a conversation on a terminal keeps: its branches, and which of them is being talked in."""

    def __init__(self, vlm: "VLM", sampling: "Sampling") -> None:
        from vlmamba.conversation import Conversation

        self.vlm = vlm
        self.sampling = sampling
        self.branches: dict[str, Conversation] = {"main": Conversation(vlm)}
        self.branch = "main"
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/undo": self._undo,
            "/branch": self._branch,
            "/save": self._save,
            "/load": self._load,
            "/help": lambda _: print(HELP),
        }

    @property
    def conversation(self) -> "Conversation":
        return self.branches[self.branch]

    def run(self, lines: Iterator[str]) -> None:
        """Takes lines until they end or one of them says /quit; what is wrong with a line is said, and no more."""
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                with failing_with(BAD_USAGE):
                    self._take(line.strip())
            except CommandError as failure:
                print(failure, file=sys.stderr)

    def _take(self, line: str) -> None:
        paths, rest = split_paths(line)
        for path in paths:
            self._image(str(path))
        name, _, argument = rest.partition(" ")
        if name in self.commands:
            self.commands[name](argument.strip())
        elif name.startswith("/"):
            raise ValueError(f"there is no command {name}: /help lists what there is")
        elif rest:
            self._ask(rest)

    def _ask(self, question: str) -> None:
        with stoppable() as stopped:
            pieces = self.conversation.stream(question, self.sampling)
            try:
                for piece in pieces:
                    print(piece, end="", flush=True)
                    if stopped():
                        pieces.close()
                print()
            except KeyboardInterrupt:
                print("\n(stopped; the question is forgotten)")

    def _image(self, argument: str) -> None:
        paths, rest = split_paths(argument)
        if rest or not paths:
            raise ValueError(f"/image needs the path of a picture, got {argument or 'nothing'}")
        for path in paths:
            self.conversation.show(path)
            print(f"(showing {path.name})")

    def _undo(self, argument: str) -> None:
        question = self.conversation.undo()
        print(f"(took back: {question.text})")

    def _branch(self, argument: str) -> None:
        if not argument:
            for name, conversation in self.branches.items():
                here = "*" if name == self.branch else " "
                print(f"{here} {name}: {len(conversation.turns) // 2} questions")
            return
        if argument not in self.branches:
            self.branches[argument] = self.conversation.branch()
        self.branch = argument
        print(f"(in branch {argument})")

    def _save(self, argument: str) -> None:
        if not argument:
            raise ValueError("/save needs the name of a file")
        if Path(argument).exists():
            raise ValueError(f"{argument} exists already: choose another name")
        self.conversation.save(argument)
        print(f"(saved to {argument})")

    def _load(self, argument: str) -> None:
        from vlmamba.conversation import Conversation

        if not argument:
            raise ValueError("/load needs the name of a file")
        self.branches[self.branch] = Conversation.load(self.vlm, argument)
        for turn in self.conversation.turns:
            print(f"> {turn.text}" if turn.role == "user" else turn.text)
        print(f"(loaded {argument})")


def _lines() -> Iterator[str]:
    """Lines of standard input, with a prompt and line editing where a person writes them."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history, where the system has them
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D leaves)")
