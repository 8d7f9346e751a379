"""SAM2 led by a prototype alone, without memory: points, then two refinement passes (papers.md B9, D4).

Works with plain SAM2.1 weights: nothing of it was trained on references. Axes: K rows (a structure in a slice), S
pixels a side of the network's square, S' = S / 4 of its masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rau.adaptation.prototype import adapted, attended, biased, boxes_of, on_grid, points, similarity
from rau.sam.injection import CORNERS
from rau.sam.segmenter import Features, Masks

if TYPE_CHECKING:
    import torch

    from rau.sam.segmenter import Segmenter

PASSES = 3  # points; then with the first mask; then with the box of the second


def changed(
    features: Features,
    likeness: torch.Tensor,
    place: torch.Tensor | None,
    there: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Features:
    """Features, their top level as the prototype wants it. there: (reference features, masks), the first version."""
    top = features.levels[-1]
    top = adapted(top, likeness, place) if there is None else attended(top, *there, place)
    return Features((*features.levels[:-1], top), features.positions)


def prompted(
    segmenter: Segmenter,
    features: Features,
    where: torch.Tensor,
    labels: torch.Tensor,
    logits: torch.Tensor | None = None,
) -> Masks:
    """SAM2 as it works on a single picture: K masks from points, one mask a row, no memory.

    where: (K, N, 2) x, y in pixels of the square; labels: (K, N), 1 inside, 0 outside, 2 and 3 corners of a box;
    logits: (K, 1, S', S') of an earlier pass.
    """
    import torch.nn.functional as F

    model = segmenter.model
    if logits is not None:
        logits = F.interpolate(logits, size=model.sam_prompt_encoder.mask_input_size, mode="bilinear")
    sparse, dense = model.sam_prompt_encoder(points=(where, labels), boxes=None, masks=logits)
    top = features.levels[-1] + model.no_mem_embed.reshape(1, -1, 1, 1)
    masks, iou, _, presence = model.sam_mask_decoder(
        image_embeddings=top,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=list(features.levels[:-1]),
    )
    return Masks(masks.float(), presence[:, 0].float(), iou[:, 0].float())


def led(
    segmenter: Segmenter,
    features: Features,
    known: torch.Tensor,
    place: torch.Tensor | None,
    there: tuple[torch.Tensor, torch.Tensor] | None = None,
    passes: int = PASSES,
) -> Masks:
    """K masks from prototypes. features: K rows; known: (K, C) prototypes; place: (K, 1, any, any) in 0 to 1, or None.

    The positive point is the most alike position where the structure is expected, the negative one the least alike.
    there: see `changed`. After each pass the logits are raised by the place.
    """
    import torch

    likeness = similarity(known, features.levels[-1])
    expected = likeness if place is None else likeness * on_grid(place, likeness.shape[-1])
    where, labels = points(expected, segmenter.size)
    where[:, 1] = points(likeness, segmenter.size)[0][:, 1]
    features = changed(features, likeness, place, there)
    found = prompted(segmenter, features, where, labels)
    for number in range(1, passes):
        logits = found.logits if place is None else biased(found.logits, place)
        told, kinds = where, labels
        if number > 1:
            boxes = boxes_of(logits > 0, segmenter.size)
            boxed = boxes.isfinite().all(1, keepdim=True)
            corners = boxes.nan_to_num(0.0).reshape(-1, 2, 2)
            marks = torch.tensor(CORNERS, dtype=labels.dtype, device=labels.device).expand(len(boxes), 2)
            told = torch.cat([where, corners], 1)
            kinds = torch.cat([labels, torch.where(boxed, marks, torch.full_like(marks, -1))], 1)
        found = prompted(segmenter, features, told, kinds, logits)
    return found if place is None else Masks(biased(found.logits, place), found.presence, found.iou)
