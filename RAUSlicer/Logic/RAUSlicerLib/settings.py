"""The panel's choices, and what becomes of them in the engine's `SegmentSettings` (a test holds both equal)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from RAUSlicerLib.i18n import tr as _

MODELS = (
    ("auto", _("Automatic")),
    ("rau-mini", _("rau-mini (bundled)")),
    ("rau-7b", _("rau-7b (needs a GPU)")),
)
DEVICES = (("auto", _("Automatic")), ("cpu", _("CPU")), ("cuda", _("GPU (CUDA)")))
PLANES = (
    ("auto", _("Automatic: by the shape of the voxels")),
    ("acquisition", _("Acquisition plane: fastest")),
    ("all", _("All three: slower, smoother")),
)
REFERENCES_PER_SLICE = (1, 7, 3)  # least, most, default


@dataclass(frozen=True)
class Choices:
    """structures: names that are wanted; all: every one of the references is."""

    structures: tuple[str, ...]
    all: bool
    model: str = "auto"
    model_folder: str = ""
    device: str = "auto"
    planes: str = "auto"
    references_per_slice: int = REFERENCES_PER_SLICE[2]

    def settings(self) -> dict[str, Any]:
        """Fields of `rau.settings.SegmentSettings`; those that the panel does not show keep their defaults."""
        return {
            "structures": [] if self.all else list(self.structures),
            "model": self.model_folder.strip() or self.model,
            "device": self.device,
            "planes": self.planes,
            "references_per_slice": int(self.references_per_slice),
        }


def choices_of(node: Any, wanted: Sequence[str], every: int) -> Choices:
    """Of a parameter node. wanted: the names that are checked, of `every` that there are."""
    return Choices(
        structures=tuple(wanted),
        all=len(wanted) == every,
        model=node.model,
        model_folder=node.modelFolder,
        device=node.device,
        planes=node.planes,
        references_per_slice=node.referencesPerSlice,
    )
