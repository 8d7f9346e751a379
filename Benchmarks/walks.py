"""The same slices walked by `sam2`'s own video predictor and by RAUSlicer: same configuration, same seeded weights.

Slice 0 carries the masks: for the predictor a mask prompt, for RAUSlicer the reference. Weights are random, the work is
that of trained ones.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rau.references.encoded import EncodedReference
from rau.sam.build import build_sam2
from rau.sam.pixels import Frame, normalise, to_square
from rau.sam.propagation import Match, Recipe, SliceMasks, segment_plane
from rau.sam.reading import Economy
from rau.sam.segmenter import POINTERS, Memory, Segmenter
from rau.volume.planes import Planes

CONFIG = "sam2.1_hiera_t"


@dataclass(frozen=True)
class Scene:
    """slices: (T, rows, columns) uint8, T may be on disk; labels: (rows, columns) of slice 0, values 1 to K."""

    slices: np.ndarray
    labels: np.ndarray

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(1, int(self.labels.max()) + 1))


def scene(count: int, side: int, structures: int, seed: int = 0, folder: Path | None = None) -> Scene:
    """Smooth random slices that change slowly, and `structures` discs in the first. folder: slices on disk."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count // 8 + 3, side // 16, side // 16))
    place = None if folder is None else str(folder / "slices.npy")
    shape = (count, side, side)
    slices = (
        np.zeros(shape, np.uint8)
        if place is None
        else np.lib.format.open_memmap(place, mode="w+", dtype=np.uint8, shape=shape)
    )
    for t in range(count):
        share = (t % 8) / 8
        mixed = (1 - share) * coarse[t // 8] + share * coarse[t // 8 + 1]
        grown = torch.nn.functional.interpolate(torch.from_numpy(mixed)[None, None], size=(side, side), mode="bicubic")
        slices[t] = np.clip(128 + 60 * grown[0, 0].numpy() + rng.normal(scale=6, size=(side, side)), 0, 255)
    rows, columns = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint16)
    across = int(np.ceil(np.sqrt(structures)))
    for k in range(structures):
        middle = ((np.array(divmod(k, across)) + 0.5) / across) * side
        labels[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < (0.3 * side / across) ** 2] = k + 1
    return Scene(slices, labels)


def models(size: int, seed: int = 0) -> tuple[Segmenter, Any]:
    """RAUSlicer's segmenter and the predictor of `sam2`, with the same weights."""
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(seed)
    ours = build_sam2(CONFIG, {"image_size": size}).eval().requires_grad_(False)
    extra = [f"++model.image_size={size}"]
    theirs = build_sam2_video_predictor(
        f"configs/sam2.1/{CONFIG}.yaml", None, device="cpu", hydra_overrides_extra=extra
    )
    theirs.load_state_dict(ours.state_dict())
    return Segmenter(ours), theirs


def square(one: Scene, t: int, size: int) -> torch.Tensor:
    """Slice t as both networks see it: (3, size, size)."""
    frame = Frame.of(one.labels.shape, (1.0, 1.0))
    return normalise(to_square(np.asarray(one.slices[t])[None], frame, size))[0].expand(3, -1, -1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the predictor's bars and warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def predictor_state(predictor: Any, one: Scene) -> dict[str, Any]:
    """The predictor's state with all slices read, and a mask prompt for every structure on slice 0."""
    from PIL import Image

    size = int(predictor.image_size)
    with tempfile.TemporaryDirectory() as folder, quiet():
        for t in range(len(one.slices)):
            Image.fromarray(np.asarray(one.slices[t])).convert("RGB").save(Path(folder) / f"{t:05d}.jpg", quality=95)
        state = predictor.init_state(folder)
    # the very pixels that RAUSlicer sees, in the predictor's own store
    state["images"] = torch.stack([square(one, t, size) for t in range(len(one.slices))])
    state["cached_features"].clear()
    for value in one.values:
        predictor.add_new_mask(state, 0, value, one.labels == value)
    return state


def predictor_walk(predictor: Any, state: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Mask logits (K, 1, rows, columns) of slice 0, 1, ..."""
    walk = predictor.propagate_in_video(state)
    while True:
        with quiet():
            found = next(walk, None)
        if found is None:
            return
        yield found[2]


@dataclass(frozen=True)
class Mode:
    """How RAUSlicer reads its memory. neighbours: slices of the walk in memory with their positions."""

    name: str
    economy: Economy = Economy()
    neighbours: int = 6


def our_walk(segmenter: Segmenter, one: Scene, mode: Mode) -> Iterator[SliceMasks]:
    """Slice 1, 2, ... from slice 0 as the reference."""
    spacing = (1.0, 1.0, 1.0)
    reference = EncodedReference(
        Planes(np.asarray(one.slices[:1]), 0, spacing),
        Planes(one.labels[None], 0, spacing),
        one.values,
        np.ones((1, 1), np.float32),
    )
    count = len(one.slices) - 1
    match = Match(reference, 0, np.zeros(count, np.int64), np.ones(count))
    pointers = POINTERS if mode.neighbours == segmenter.max_neighbours else mode.neighbours
    recipe = Recipe(references=1, neighbours=mode.neighbours, pointers=pointers)
    walk = segment_plane(segmenter, Planes(one.slices[1:], 0, spacing), [match], recipe)
    while True:
        segmenter.model.memory_attention.economy = mode.economy
        found = next(walk, None)
        if found is None:
            return
        yield found


def memories_of(predictor: Any, state: dict[str, Any], t: int) -> tuple[list[Memory], list[Memory]]:
    """What the predictor will attend to in slice t, of all structures in one batch: reference, neighbours."""
    per_object = state["output_dict_per_obj"]

    def stacked(kind: str, frame: int) -> Memory:
        rows = [per_object[k][kind][frame] for k in range(len(per_object))]
        return Memory(
            torch.cat([row["maskmem_features"].float() for row in rows]),
            torch.cat([row["maskmem_pos_enc"][-1] for row in rows]),
            torch.cat([row["obj_ptr"] for row in rows]),
        )

    near = [stacked("non_cond_frame_outputs", s) for s in range(t - 1, max(0, t - POINTERS - 1), -1)]
    return [stacked("cond_frame_outputs", 0)], near


def difference(segmenter: Segmenter, predictor: Any, one: Scene, slices: int) -> float:
    """Largest difference of mask logits, RAUSlicer batched with a ring against the predictor object by object with all.

    The last of `slices` slices; both attend to the same memories. Rows that SAM2's gate closes are -1024 in the
    predictor's answer, and are compared by their gate alone.
    """
    state = predictor_state(predictor, one)
    walk = predictor_walk(predictor, state)
    for _ in range(slices):
        next(walk)
    references, near = memories_of(predictor, state, slices)
    next(walk)
    outputs = [state["output_dict_per_obj"][k]["non_cond_frame_outputs"][slices] for k in range(len(one.values))]
    with torch.inference_mode():
        features = segmenter.encode(square(one, slices, segmenter.size)[None]).expand(len(one.values))
        ours = segmenter.decode(features, references, near, distances=[slices])
    gates = torch.cat([row["object_score_logits"][:, 0] for row in outputs])
    theirs = torch.cat([row["pred_masks"] for row in outputs])
    shown = gates > 0
    gap = (ours.presence - gates).abs().max()
    if shown.any():
        gap = torch.maximum(gap, (ours.logits[shown] - theirs[shown]).abs().max())
    return float(gap)


if __name__ == "__main__":
    sys.exit("This file holds what throughput.py and memory.py share")
