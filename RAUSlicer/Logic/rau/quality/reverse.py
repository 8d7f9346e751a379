"""Reverse classification: the result as reference, the reference as target, whose truth is known.

Valindria et al., Reverse Classification Accuracy (IEEE TMI 2017): a classifier trained on the target with the result's
labels is good on annotated images only if the result is. Here the classifier is the expert of `rau.adaptation`, and the
annotated image is the reference. Both sides speak of places in the reference, so that no registration is inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rau.adaptation.expert import Training, train_expert
from rau.adaptation.guide import Places, Square, sheets_of, square_for
from rau.adaptation.views import Sheets, doubt_of

if TYPE_CHECKING:
    from rau.preparation import Case
    from rau.sam.propagation import Match

LARGEST = 160  # pixels a side
LOOKED = 4  # slices of the reference on which the expert is tried, and of the target on which it is trained
# Of the expert's training: less of all than the forward expert's, at twice its rate.
VIEWS, SAMPLES, STEPS, BATCH, RATE = 4, 2500, 60, 512, 1e-2


def reverse_dice(case: Case, labels: np.ndarray, seed: int, go_on: Callable[[], None]) -> dict[int, float]:
    """Dice on the reference, by label value, of an expert trained on the target with the result's labels.

    labels: (S, R, C), canonical. Of several references the one that retrieval finds most alike. Structures that result
    or reference do not show have no entry. go_on is called between the steps, and raises to cancel.
    """
    plane = case.planes[0]
    match = max(plane.retrieved, key=lambda one: float(one.similarity.mean()))
    shown = set(np.unique(labels).tolist())
    values = [v for v in match.reference.values if v in shown and len(match.reference.where[v])]
    if not values:
        return {}
    square = square_for(plane, match)
    square = replace(square, size=min(square.size, LARGEST))
    registered = case.references[match.number].registered
    theirs = spread(sheets_of(match, values, square), len(values), LOOKED)
    ours = spread(target_sheets(case, labels, values, match, square), len(values), LOOKED)
    go_on()
    doubt = doubt_of(registered.after if registered is not None else 0.0)
    how = Training(max(VIEWS, len(ours)), SAMPLES, STEPS, BATCH, RATE, dropout=0.0, doubt=doubt, seed=seed)
    expert = train_expert(ours, len(values), how)
    go_on()
    found = expert.predict(theirs.images, theirs.places) > 0.5
    scores = {}
    for k, value in enumerate(values):
        truth = theirs.labels == k + 1
        total = int(found[:, k].sum() + truth.sum())
        if truth.any():
            scores[value] = float(2 * (found[:, k] & truth).sum() / total)
    return scores


def target_sheets(case: Case, labels: np.ndarray, values: Sequence[int], match: Match, square: Square) -> Sheets:
    """The target's slices with the result's labels; places in the reference, as the forward expert was told them."""
    import torch

    from rau.references.encoded import EncodedReference
    from rau.sam.propagation import Match
    from rau.volume.planes import Planes

    images = case.planes[0].images
    maps = Planes(labels, images.axis, images.spacing)
    result = EncodedReference(images, maps, tuple(values), np.zeros((len(images), 1), np.float32))
    swapped = Square(square.size, square.target, square.reference, square.colour)
    length = len(images)
    own = sheets_of(Match(result, 0, np.arange(length), np.ones(length)), values, swapped)
    step = images.spacing[images.axis] / (swapped.reference / 2)
    chosen = (own.places[:, 0, 0, 0] / step + (length - 1) / 2).round().long().tolist()
    places = Places(images, match, case.references[match.number].registered, square)
    return Sheets(own.images, own.labels, torch.stack([places.of(t) for t in chosen]))


def spread(sheets: Sheets, structures: int, most: int) -> Sheets:
    """`most` of the sheets that show a structure, evenly, and for a structure that none of them shows its largest."""
    import torch

    areas = torch.stack([(sheets.labels == k + 1).flatten(1).sum(1) for k in range(structures)], 1)
    shown = areas.any(1).nonzero().flatten()
    if len(shown) > most:
        shown = shown[torch.linspace(0, len(shown) - 1, most).round().long()]
    lacking = ~areas[shown].any(0) & areas.any(0)
    return sheets.pick(torch.cat([shown, areas.argmax(0)[lacking]]).unique())
