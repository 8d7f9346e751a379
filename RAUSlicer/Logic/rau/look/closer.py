"""The closer look: small structures once more, in crops of the original pixels of target and reference alike.

A crop of the target around what was found goes to the network with a crop of the reference of the same size around the
structure there, in memory with its mask. What it finds is pasted into the votes of the plane (papers.md C3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rau.look.crops import crop, crop_masks, paste
from rau.look.rules import Looks, finished, rejected
from rau.look.visits import Visit, Wanted, visits, window_of
from rau.look.window import Window, bounding
from rau.sam.pixels import normalise

if TYPE_CHECKING:
    import torch

    from rau.assembly.labels import PlaneVotes
    from rau.preparation import CasePlane
    from rau.sam.propagation import Candidates
    from rau.sam.segmenter import Masks, Segmenter
    from rau.volume.planes import Planes

BATCH = 16  # crops that are encoded and decoded together


@dataclass(frozen=True)
class Look:
    """A structure in a slice that was looked at again. taken: whether the result took it; reason: why not, else ""."""

    axis: int
    index: int
    value: int
    reason: str

    @property
    def taken(self) -> bool:
        return not self.reason


def references_of(some: Sequence[Visit], windows: Sequence[Window], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference's crops (K, 3, size, size), normalised, and its masks (K, 1, size, size)."""
    import torch

    images, masks = [], []
    for visit, window in zip(some, windows, strict=True):
        reference = visit.match.reference
        frame = reference.images.frame
        theirs = [replace(visit.there, side=min(1.0, window.side / visit.ratio)).within(frame)]
        images.append(normalise(crop(reference.images[visit.slice][None], frame, theirs, size)))
        masks.append(crop_masks(reference.labels[visit.slice][None] == visit.value, frame, theirs, size))
    return torch.cat(images), torch.cat(masks)


def seen(
    segmenter: Segmenter, planes: Planes, some: Sequence[Visit], windows: Sequence[Window], prompts: np.ndarray | None
) -> Masks:
    """What the network sees in the crops, a row each. prompts: (K, rows, columns) uint8 on the whole slice."""
    import torch

    size, device = segmenter.size, segmenter.device
    with torch.inference_mode():
        images, masks = references_of(some, windows, size)
        memory = segmenter.remember(segmenter.encode(images.to(device)), masks.to(device))
        here = normalise(crop(planes.stack([one.index for one in some]), planes.frame, windows, size))
        told = None if prompts is None else crop(prompts, planes.frame, windows, size).to(device)
        return segmenter.decode(segmenter.encode(here.to(device)), [memory], prompts=told)


def look_closer(
    segmenter: Segmenter,
    plane: CasePlane,
    vote: PlaneVotes,
    chosen: Sequence[Visit],
    looks: Looks,
    go_on: Callable[[], None],
) -> list[Look]:
    """Look at `chosen` again and put what is taken into `vote`, in place. go_on: called between batches, may raise."""
    done: list[Look] = []
    pending = list(chosen)
    for level in range(looks.crops):
        ahead: list[Visit] = []
        cut = [(visit, window_of(visit, plane.images, looks, level)) for visit in pending]
        known = [(visit, window) for visit, window in cut if window is not None]
        for start in range(0, len(known), BATCH):
            go_on()
            some, windows = zip(*known[start : start + BATCH], strict=True)
            prompts = np.stack([votes_at(vote, one) for one in some]) if looks.prompted or level else None
            masks = seen(segmenter, plane.images, some, windows, prompts)
            for row, (visit, window) in enumerate(zip(some, windows, strict=True)):
                reason, box = take(plane, vote, visit, window, masks, row, looks)
                if level == 0:
                    done.append(Look(plane.images.axis, visit.index, visit.value, reason))
                if box is not None and not finished(looks, window, visit.found, box):
                    ahead.append(replace(visit, found=box, mask=votes_at(vote, visit) > 127))
        pending = ahead
    return done


def votes_at(vote: PlaneVotes, visit: Visit) -> np.ndarray:
    """(rows, columns) uint8: the votes of the visit's structure in its slice, a view."""
    return np.moveaxis(vote.votes[visit.value], vote.axis, 0)[visit.index]


def take(
    plane: CasePlane, vote: PlaneVotes, visit: Visit, window: Window, masks: Masks, row: int, looks: Looks
) -> tuple[str, Window | None]:
    """Put row `row` of `masks` into the votes if the rules allow. Returns why not, else "", and the new box."""
    frame, column = plane.images.frame, vote.values.index(visit.value)
    coarse = votes_at(vote, visit)
    fine = paste(coarse / 255, masks.logits[row, 0].sigmoid().cpu(), window, frame, looks.feather)
    mask = fine > 0.5
    box = bounding(mask, frame)
    iou = float(vote.iou[visit.index, column]), float(masks.iou[row].clamp(0, 1))
    reason = rejected(looks, window, box, (visit.mask, mask), iou, float(masks.presence[row].sigmoid()))
    if reason:
        return reason, None
    coarse[:] = np.round(255 * fine)
    vote.iou[visit.index, column] = iou[1]
    return "", box


def look_again(
    segmenter: Segmenter,
    planes: Iterable[tuple[CasePlane, PlaneVotes]],
    labels: np.ndarray,
    candidates: Candidates | None,
    looks: Looks,
    go_on: Callable[[], None],
    wanted: Wanted | None = None,
) -> list[Look]:
    """All planes of a target, their votes changed in place. labels: (S, R, C), the first result. wanted: see `visits`.

    Nothing is looked at again where that would take more than `looks.most` crops; of a picture, the smallest are.
    """
    chosen = [(plane, vote, list(visits(plane, vote, labels, candidates, looks, wanted))) for plane, vote in planes]
    if len(labels) == 1:
        chosen = [
            (plane, vote, sorted(some, key=lambda one: one.size)[: looks.picture]) for plane, vote, some in chosen
        ]
    if sum(len(some) for _, _, some in chosen) > looks.most:
        return []
    found: list[Look] = []
    for plane, vote, some in chosen:
        found += look_closer(segmenter, plane, vote, some, looks, go_on)
    return found
