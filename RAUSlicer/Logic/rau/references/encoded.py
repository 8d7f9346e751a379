"""A reference made ready for one plane: descriptors of its slices, SAM2 memories of its labelled ones, each once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rau.sam.pixels import masks_to_square, normalise, to_square
from rau.volume.planes import Planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rau.sam.fusion import Slots
    from rau.sam.segmenter import Memory, Segmenter

MOST_BYTES = 256_000_000  # of the memories that are kept of one reference


@dataclass
class EncodedReference:
    """images, labels: the reference's slices, canonical. values: label values wanted. descriptors: (N, D).

    where: for each value, the sorted indices of the slices that show it.
    """

    images: Planes
    labels: Planes
    values: tuple[int, ...]
    descriptors: np.ndarray
    where: dict[int, np.ndarray] = field(default_factory=dict)
    _memories: OrderedDict[int, tuple[Memory, dict[int, int]]] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        for value in self.values:
            others = tuple(i for i in range(3) if i != self.labels.axis)
            self.where[value] = np.nonzero((self.labels.array == value).any(axis=others))[0]

    def memory(self, segmenter: Segmenter, index: int) -> tuple[Memory, dict[int, int]]:
        """Memory of slice `index`, a row for each structure in it, and which row is which value.

        Encoded once, and kept while all that are kept take at most MOST_BYTES; then the oldest is let go.
        """
        import torch

        if index not in self._memories:
            labels = self.labels[index]
            here = [value for value in self.values if index in self.where[value]]
            size, device = segmenter.size, segmenter.device
            with torch.inference_mode():
                image = normalise(to_square(self.images[index][None], self.images.sight, size))
                features = segmenter.encode(image.to(device)).rows(
                    torch.zeros(len(here), dtype=torch.long, device=device)
                )
                masks = masks_to_square(np.stack([labels == v for v in here]), self.images.sight, size)
                memory = segmenter.remember(features, masks.to(device))
            self._memories[index] = (memory, {value: row for row, value in enumerate(here)})
            while len(self._memories) > 1 and sum(one.nbytes for one, _ in self._memories.values()) > MOST_BYTES:
                self._memories.popitem(last=False)
        self._memories.move_to_end(index)
        return self._memories[index]

    def forget(self) -> None:
        """Let all memories go: another segmenter, or another size of its square, makes others."""
        self._memories.clear()

    def slots(self, segmenter: Segmenter, index: int, values: Sequence[int], side: int = 0) -> Slots:
        """What the fusion attends to of slice `index`: a row for each of `values`, all of which it shows."""
        import torch

        from rau.sam.fusion import slots_of

        memory, row_of = self.memory(segmenter, index)
        rows = torch.tensor([row_of[value] for value in values], device=segmenter.device)
        image = normalise(to_square(self.images[index][None], self.images.sight, segmenter.size))
        features = segmenter.encode(image.to(segmenter.device)).rows(torch.zeros_like(rows))
        labels = self.labels[index]
        masks = masks_to_square(np.stack([labels == v for v in values]), self.images.sight, segmenter.size)
        return slots_of(features, masks.to(segmenter.device), memory.rows(rows), side)
