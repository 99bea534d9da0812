"""How a command ends when something is wrong: one line on standard error and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

BAD_USAGE = 2  # the arguments, a file or a question cannot be used
FAILED = 1  # everything was asked for rightly, and yet it did not work


class CommandError(Exception):
    """Ends the command with a message of one line and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


@contextmanager
def failing_with(
    code: int, errors: tuple[type[Exception], ...] = (ValueError, OSError)
) -> Iterator[None]:
    """Turns errors that explain themselves into a CommandError with this code."""
    try:
        yield
    except errors as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(str(error), code) from error
