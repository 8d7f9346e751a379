"""A reference: an annotated volume."""

from __future__ import annotations

from dataclasses import dataclass

from rau.errors import InputError
from rau.volume.volume import LabelMap, Structure, Volume


@dataclass(frozen=True)
class Reference:
    """image and labels are on the same grid (see `rau.volume.resampling.labels_on_grid`); at least one structure."""

    image: Volume
    labels: LabelMap

    def __post_init__(self) -> None:
        if not self.image.geometry.matches(self.labels.geometry):
            raise InputError("The reference's label map lies on another grid than its image")
        if not self.structures:
            raise InputError("The reference segmentation is empty", "Pick a segmentation with at least one segment")

    @property
    def structures(self) -> tuple[Structure, ...]:
        return self.labels.structures
