"""Combo boxes for the settings of which one is chosen among few: model, device, planes."""

from __future__ import annotations

from typing import Any, Callable

from RAUSlicerLib import settings


class ChoiceBoxes:
    """node: gives the parameter node, None while there is none."""

    def __init__(self, ui: Any, node: Callable[[], Any]) -> None:
        self.node, self._quiet = node, False
        self.boxes = (
            (ui.modelBox, "model", settings.MODELS),
            (ui.deviceBox, "device", settings.DEVICES),
            (ui.planesBox, "planes", settings.PLANES),
        )
        for box, name, choices in self.boxes:
            for value, text in choices:
                box.addItem(text, value)
            box.connect("currentIndexChanged(int)", lambda index, b=box, n=name: self._chosen(b, n))

    def show(self) -> None:
        """Follow the parameter node."""
        self._quiet = True
        for box, name, _choices in self.boxes:
            box.setCurrentIndex(max(0, box.findData(getattr(self.node(), name))))
        self._quiet = False

    def _chosen(self, box: Any, name: str) -> None:
        if self.node() is not None and not self._quiet:
            setattr(self.node(), name, box.itemData(box.currentIndex))
