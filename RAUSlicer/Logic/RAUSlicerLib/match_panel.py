"""*Match*: how much the references, and those of the bank, look like the target, before anything is segmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RAUSlicerLib import settings
from RAUSlicerLib.bank_panel import BankPanel
from RAUSlicerLib.context import Context
from RAUSlicerLib.errand import Answer
from RAUSlicerLib.exchange import write_array
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.nodes import image_message, pixels_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message
from RAUSlicerLib.reference_rows import ReferenceRows

POOR = 0.7  # similarity below which a match is called poor, as the engine has it


@dataclass
class MatchInputs:
    """`ErrandInputs`: target and reference images, nothing that names a volume."""

    target: Any
    references: Sequence[Any]
    bank: str
    settings: dict[str, Any]
    _message: Message = field(default_factory=dict)

    def write(self, folder: Path, job: int) -> Iterator[None]:
        told = []
        for number, volume in enumerate([self.target, *self.references]):
            message = {**image_message(volume, f"job{job}-match{number}.npy"), "source": ""}
            yield from write_array(folder / message["array"], pixels_of(volume))
            told.append(message)
        self._message = {"target": told[0], "references": told[1:], "settings": self.settings, "bank": self.bank}

    def message(self) -> Message:
        return self._message


class MatchPanel:
    """Scores stand in the rows of the references and in the table of the bank until the target is another one."""

    def __init__(self, context: Context, references: ReferenceRows, bank: BankPanel) -> None:
        self.context, self.references, self.bank = context, references, bank
        self._target: Any = None  # that the scores are of
        self._of_rows: dict[str, str] = {}
        context.ui.matchButton.connect("clicked(bool)", context.attempt(self.start))

    def start(self) -> None:
        """Raises Problem: no target, nothing to hold against it, no Python."""
        node = self.context.node()
        volumes = [one.volume for one in self.references.references()]
        bank = self.bank.listed_folder()
        if node.targetVolume is None or not (volumes or bank):
            raise Problem(_("There is nothing to compare"), _("Pick a target, and references or a bank"))
        chosen = settings.choices_of(node, (), 0).settings()
        inputs, target = MatchInputs(node.targetVolume, volumes, bank, chosen), node.targetVolume
        self.context.ask("match", inputs, _("Comparing"), lambda answer: self._end(answer, target, volumes))

    def show(self) -> None:
        """Follow the parameter node."""
        if self._target is not None and self.context.node().targetVolume is not self._target:
            self.forget()
        self.references.show_matches(self._of_rows)

    def forget(self) -> None:
        self._target, self._of_rows = None, {}
        self.bank.show_matches({})

    def _end(self, answer: Answer, target: Any, volumes: Sequence[Any]) -> None:
        if answer.problem is not None:
            raise answer.problem
        found = answer.report["references"]
        self._target = target
        self._of_rows = {volume.GetID(): match_text(score) for volume, score in zip(volumes, found)}
        self.bank.show_matches({str(one["id"]): one["similarity"] for one in answer.report["bank"]})
        scores = [one for one in (*found, *(row["similarity"] for row in answer.report["bank"])) if one is not None]
        if not scores:
            self.context.tell(
                "warning", _("Nothing can be compared"), _("The model, or the kind of image, has no match")
            )
        elif max(scores) < POOR:
            self.context.tell("warning", _("No reference looks much like the target"), _("Take another one"))
        else:
            text = _("The best match is {s}, of at most 1").format(s=f"{max(scores):.2f}")
            self.context.tell("info", text, *answer.warnings)


def match_text(score: float | None) -> str:
    """In the row of a reference."""
    if score is None:
        return _("no match: another kind of image")
    return (_("match {s}, poor") if score < POOR else _("match {s}")).format(s=f"{score:.2f}")
