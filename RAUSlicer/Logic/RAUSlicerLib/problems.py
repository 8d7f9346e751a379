"""What went wrong, for the panel: one line that says it and one that says what to do."""

from __future__ import annotations

NOT_CHOSEN = "NotChosen"  # kind: nothing is wrong, the user has not come that far


class Problem(Exception):
    """`message`: what is wrong; `hint`: what to do. `kind`: the engine's error type, where it has one."""

    def __init__(self, message: str, hint: str = "", kind: str = "InputError") -> None:
        super().__init__(message)
        self.message = " ".join(message.split()).rstrip(".")
        self.hint = " ".join(hint.split()).rstrip(".")
        self.kind = kind

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}." if self.hint else f"{self.message}."
