"""Errors with a type, one line for the user and an exit status (the contract of the command line)."""

import errno


class RauError(Exception):
    """Something the user can act on: `message` says what is wrong, `hint` what to do. Both are one line.

    `exit_code` is what `rau` exits with; `kind` is what the worker sends to the panel.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    @property
    def kind(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}".strip() if self.hint else self.message


class InputError(RauError):
    """The input or the call is wrong."""

    exit_code = 2


class NothingFoundError(RauError):
    """The run went well, and no structure of the reference was found in the target."""

    exit_code = 3


class NotHelpfulError(RauError):
    """A training went well, and what it made does not help: it was not kept."""

    exit_code = 3


class ModelError(RauError):
    """The model is missing or damaged."""

    exit_code = 4


class Cancelled(RauError):
    """The user stopped the run."""

    exit_code = 130

    def __init__(self, message: str = "Cancelled", hint: str = "") -> None:
        super().__init__(message, hint)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of the GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    words = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate memory", "bad_alloc")
    return any(word in text for word in words)


def disk_full(error: BaseException) -> bool:
    """Whether there was no room: on the disk, for this user, or in one file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
