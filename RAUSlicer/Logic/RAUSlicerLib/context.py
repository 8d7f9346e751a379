"""What the parts of the panel share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from RAUSlicerLib.errand import Answer, ErrandInputs
from RAUSlicerLib.message_area import MessageArea
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.wording import Notice, problem_notice


@dataclass(frozen=True)
class Context:
    """ui: the widgets of the .ui file by name. logic: a `Session`. node: the parameter node; None while there is none.
    update: show the parameter node anew. python: the Python that the user chose for the worker. doing, idle: show that
    the worker is at work on something, and that it no longer is."""

    ui: Any
    logic: Any
    message: MessageArea
    node: Callable[[], Any]
    update: Callable[[], None]
    python: Callable[[], str]
    doing: Callable[[str], None]
    idle: Callable[[], None]

    def ask(self, op: str, inputs: ErrandInputs, doing: str, then: Callable[[Answer], None]) -> None:
        """Have the worker do something, with `doing` in the progress line. Raises Problem.

        then: gets the answer; what it raises as Problem is told in the message area.
        """

        def end(answer: Answer) -> None:
            self.idle()
            if self.node() is None:
                return
            self.attempt(lambda: then(answer))()
            self.update()

        self.logic.ask(op, inputs, self.python(), end)
        if self.logic.busy():
            self.doing(doing)

    def tell(self, kind: str, title: str, *lines: str) -> None:
        self.message.show(Notice(kind, title, lines))

    def attempt(self, function: Callable[[], None]) -> Callable[[], None]:
        """The function as an answer to a click: what goes wrong is one line in the message area."""

        def answer(*_arguments: Any) -> None:
            if self.node() is None:
                return
            try:
                function()
            except Problem as problem:
                self.message.show(problem_notice(problem))

        return answer
