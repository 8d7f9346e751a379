"""SAM2 used with a reference: encode slices, remember masks, decode a target, all structures in one batch.

No SAM2 code is copied: every step calls `SAM2Base`. Names of axes: B slices, K rows (a row is one structure in one
slice), C = d_model, S = image size in pixels, T = S / 16 memory positions a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rau.sam.groups import bytes_of_row, in_groups, rows_that_fit
from rau.sam.injection import Guidance, Injection, corner_points, injected

if TYPE_CHECKING:
    import torch
    from sam2.modeling.sam2_base import SAM2Base

PROMPT_LOGIT = 4.0  # of a pixel that is surely inside
TARGET_FRAME = 16  # SAM2 numbers frames: references from 0, the target here, neighbours just before it
POINTERS = 15  # neighbours whose pointers SAM2 attends to, at most


@dataclass(frozen=True)
class Features:
    """Encoded slices. levels: (B, 32, S/4, S/4), (B, 64, S/8, S/8) [decoder widths], (B, C, T, T); positions alike."""

    levels: tuple[torch.Tensor, ...]
    positions: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return self.levels[0].shape[0]

    def rows(self, index: torch.Tensor) -> Features:
        """Features of slice index[k] for each row k. index: (K,) int64."""
        if len(self) > 1 and self.levels[0].stride(0) == 0:  # rows of one slice
            return self.expand(len(index))
        return Features(tuple(x[index] for x in self.levels), tuple(x[index] for x in self.positions))

    def expand(self, rows: int) -> Features:
        """One slice as `rows` rows, without copying it: work that is the same for all of them is then done once."""
        levels, positions = (
            tuple(x[:1].expand(rows, -1, -1, -1) for x in one) for one in (self.levels, self.positions)
        )
        return Features(levels, positions)


@dataclass(frozen=True)
class Memory:
    """What SAM2 keeps of K (slice, mask) rows. spatial, position: (K, C_mem, T, T); pointer: (K, C)."""

    spatial: torch.Tensor
    position: torch.Tensor
    pointer: torch.Tensor

    def rows(self, index: torch.Tensor) -> Memory:
        return Memory(self.spatial[index], self.position[index], self.pointer[index])

    def with_rows(self, index: Sequence[int], other: Memory) -> Memory:
        """The same with the rows `index` of another memory of as many rows."""
        import torch

        chosen = torch.zeros(len(self.pointer), dtype=torch.bool, device=self.pointer.device)
        chosen[list(index)] = True
        parts = []
        for mine, others in zip(vars(self).values(), vars(other).values(), strict=True):
            parts.append(torch.where(chosen.view(-1, *[1] * (mine.ndim - 1)), others.to(mine.dtype), mine))
        return Memory(*parts)

    @property
    def nbytes(self) -> int:
        return int(self.spatial.nbytes + self.position.nbytes + self.pointer.nbytes)

    def only_pointer(self) -> Memory:
        """What is kept of slices that are too far away for their positions to be attended to."""
        return Memory(self.spatial[:, :0], self.position[:, :0], self.pointer)

    @staticmethod
    def stack(rows: Sequence[Memory]) -> Memory:
        """One memory of all the rows, in that order."""
        import torch

        return Memory(
            *(torch.cat(parts) for parts in zip(*((m.spatial, m.position, m.pointer) for m in rows), strict=True))
        )


@dataclass(frozen=True)
class Masks:
    """logits: (K, 1, S/4, S/4) before the object-score gate; presence, iou: (K,), presence a logit, iou 0 to 1.

    memory: of these masks in their slice, as SAM2 makes it of its own answers; None where it was not asked for.
    """

    logits: torch.Tensor
    presence: torch.Tensor
    iou: torch.Tensor
    memory: Memory | None = None

    @staticmethod
    def interleave(parts: Sequence[tuple[torch.Tensor, Masks]]) -> Masks:
        """Rows decoded apart, in their own order. parts: (index, masks); row k of `masks` is row index[k] of all."""
        import torch

        order = torch.cat([index for index, _ in parts]).argsort()
        columns = zip(*((m.logits, m.presence, m.iou) for _, m in parts), strict=True)
        logits, presence, iou = (torch.cat(column)[order] for column in columns)
        kept = [m.memory for _, m in parts if m.memory is not None]
        return Masks(logits, presence, iou, Memory.stack(kept).rows(order) if kept else None)


@dataclass(frozen=True)
class Past:
    """What a slice is decoded with, see `Segmenter.decode`; all memories have the same K rows."""

    references: Sequence[Memory]
    neighbours: Sequence[Memory] = ()
    distances: Sequence[int] | None = None
    remember: bool = False

    def rows(self, index: torch.Tensor) -> Past:
        seen, near = ([memory.rows(index) for memory in group] for group in (self.references, self.neighbours))
        return replace(self, references=seen, neighbours=near)


class Segmenter:
    """A SAM2 with documented tensors. Holds the model; memories are values.

    rows_at_once: rows decoded together; 0: as many as free memory takes. It falls by itself where memory ran out.
    """

    def __init__(self, model: SAM2Base, rows_at_once: int = 0) -> None:
        self.model, self.rows_at_once = model, rows_at_once
        self._heads: Any = None
        model.sam_mask_decoder.register_forward_hook(self._catch)

    def _catch(self, module: Any, args: Any, output: Any) -> None:
        """Mask logits, IoU and object score as the decoder gives them.

        SAM2Base then writes -1024 over the logits of rows that its gate calls absent, which stops all gradient.
        """
        self._heads = output

    @property
    def size(self) -> int:
        return int(self.model.image_size)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_neighbours(self) -> int:
        return int(self.model.num_maskmem) - 1

    def set_size(self, size: int) -> None:
        """Work on `size` pixel slices (multiple of 64). No weight depends on it."""
        if size % 64:
            raise ValueError(f"the image size must be a multiple of 64, not {size}")
        grid = size // self.model.backbone_stride
        encoder = self.model.sam_prompt_encoder
        self.model.image_size, self.model.sam_image_embedding_size = size, grid
        encoder.input_image_size, encoder.image_embedding_size = (size, size), (grid, grid)
        encoder.mask_input_size = (4 * grid, 4 * grid)

    def encode(self, images: torch.Tensor) -> Features:
        """images: (B, 3, S, S) normalised (see `rau.sam.pixels.normalise`)."""
        out = self.model.forward_image(images)
        n = self.model.num_feature_levels
        return Features(tuple(out["backbone_fpn"][-n:]), tuple(out["vision_pos_enc"][-n:]))

    def _flat(self, features: Features) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[int, int]]]:
        out = {"backbone_fpn": list(features.levels), "vision_pos_enc": list(features.positions)}
        _, feats, positions, sizes = self.model._prepare_backbone_features(out)
        return feats, positions, sizes

    def remember(self, features: Features, masks: torch.Tensor) -> Memory:
        """Encode K (slice, mask) rows as memory. features: K rows; masks: (K, 1, S, S), 0 or 1; empty: "absent"."""
        feats, positions, sizes = self._flat(features)
        empty: dict[str, Any] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        out = self.model.track_step(
            0, True, feats, positions, sizes, None, masks.float(), empty, 1, run_mem_encoder=True
        )
        return Memory(out["maskmem_features"], out["maskmem_pos_enc"][-1], out["obj_ptr"])

    def _prompt(self, prompts: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Probabilities as what SAM2 takes for logits of an earlier answer, and the padding point that goes with it."""
        import torch
        import torch.nn.functional as F

        rows, side = len(prompts), self.model.sam_prompt_encoder.mask_input_size[0]
        logits = F.interpolate((prompts - 0.5) * 2 * PROMPT_LOGIT, size=(side, side), mode="area")
        nowhere = torch.zeros(rows, 1, 2, device=prompts.device)
        padding = -torch.ones(rows, 1, dtype=torch.int32, device=prompts.device)
        return {"point_coords": nowhere, "point_labels": padding}, logits

    def decode(
        self,
        features: Features,
        references: Sequence[Memory],
        neighbours: Sequence[Memory] = (),
        prompts: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        boxes: torch.Tensor | None = None,
        injection: Injection = "token",
        remember: bool = False,
        distances: Sequence[int] | None = None,
        fields: torch.Tensor | None = None,
    ) -> Masks:
        """Masks of K structures in K target rows. RAU's decoder (papers.md A3.6); memory alone: "SAM2-Memory".

        references: conditioning memories, each of K rows; row k of each is the structure of row k of `features`.
        distances: of the references from the target, in slices; None: far, as those of other volumes.
        neighbours: memories of target slices already segmented, nearest first: `max_neighbours` of them are attended to
        with their positions, those after them, up to `POINTERS`, with their pointers alone.
        prompts: (K, 1, any, any) probabilities, where each structure is expected: a mask prompt. None: memory alone.
        tokens: (K, C) fused `<Seg>` states, the z of `rau.sam.fusion`; injection: see `rau.sam.injection.injected`.
        boxes: (K, 4) x0, y0, x1, y1, pixels of the S square; a row with a NaN has no box, and comes out as without.
        fields: (K, C, any, any), what `rau.sam.two_way` adds to the image embedding.
        All may be combined. With any but prompts SAM2 gives one mask a row; else, of several, the best by its own IoU.
        remember: also the memory of the masks. Raises ValueError for shapes that differ.
        """
        import torch

        guidance = Guidance(prompts, tokens, boxes, injection, fields)
        guidance.check(len(features), self.model.hidden_dim)
        past = Past(references, neighbours, distances, remember)
        most = self.rows_at_once or self._rows_that_fit(past)

        def some(start: int, stop: int) -> Masks:
            if start == 0 and stop == len(features):
                return self._together(features, past, guidance)
            index = torch.arange(start, stop, device=self.device)
            return self._together(features.rows(index), past.rows(index), guidance.rows(index))

        done, fitted = in_groups(len(features), most, some)
        if fitted < most:
            self.rows_at_once = fitted
        if len(done) == 1:
            return done[0][1]
        return Masks.interleave([(torch.tensor(rows, device=self.device), one) for rows, one in done])

    def _rows_that_fit(self, past: Past) -> int:
        slots = len(past.references) + min(len(past.neighbours), self.max_neighbours)
        channels = int(self.model.hidden_dim)
        row = bytes_of_row(self.size, channels, int(self.model.mem_dim), slots, past.remember)
        return rows_that_fit(self.device, row)

    def _together(self, features: Features, past: Past, guidance: Guidance) -> Masks:
        """All rows at once. SAM2 pads a row without points once less than one with two, so such rows go apart."""
        boxed = guidance.boxed()
        if boxed is None or bool(boxed.all()):
            return self._decode(features, past, guidance)
        done: list[tuple[torch.Tensor, Masks]] = []
        for index, part in ((boxed.nonzero()[:, 0], guidance), ((~boxed).nonzero()[:, 0], guidance.without_boxes())):
            if len(index):
                done.append(
                    (index, self._decode(features.rows(index), past.rows(index), part.rows(index), single=True))
                )
        return Masks.interleave(done)

    def _decode(self, features: Features, past: Past, guidance: Guidance, single: bool = False) -> Masks:
        """Rows that all have a box, or none. single: one mask a row, whatever SAM2's settings are without a token."""
        points, logits = (None, None) if guidance.masks is None else self._prompt(guidance.masks)
        if guidance.boxes is not None:
            points = corner_points(guidance.boxes)
        feats, positions, sizes = self._flat(features)
        plain = guidance.tokens is None and guidance.boxes is None and guidance.fields is None and not single
        decoder = self.model.sam_mask_decoder
        told = (guidance.tokens, guidance.injection, guidance.fields)
        with nullcontext() if plain else injected(decoder, *told):
            out = self.model.track_step(
                TARGET_FRAME,
                False,
                feats,
                positions,
                sizes,
                points,
                None,
                self._frames(past),
                TARGET_FRAME + 1,
                run_mem_encoder=past.remember,
                prev_sam_mask_logits=logits,
            )
        logits, iou, _, presence = self._heads
        self._heads = None
        best = iou.argmax(1, keepdim=True)
        memory = None
        if past.remember:
            memory = Memory(out["maskmem_features"], out["maskmem_pos_enc"][-1], out["obj_ptr"])
        return Masks(
            logits.take_along_dim(best[:, :, None, None], 1).float(),
            presence[:, 0].float(),
            iou.take_along_dim(best, 1)[:, 0].float(),
            memory,
        )

    def _frames(self, past: Past) -> dict[str, Any]:
        """Memories as SAM2 keeps the outcome of earlier frames."""

        def output(memory: Memory) -> dict[str, Any]:
            return {
                "maskmem_features": memory.spatial,
                "maskmem_pos_enc": [memory.position],
                "obj_ptr": memory.pointer,
            }

        far = [TARGET_FRAME - i for i in range(len(past.references))]
        return {
            "cond_frame_outputs": {
                TARGET_FRAME - age: output(one) for age, one in zip(past.distances or far, past.references, strict=True)
            },
            "non_cond_frame_outputs": {
                TARGET_FRAME - 1 - i: output(one) for i, one in enumerate(past.neighbours[:POINTERS])
            },
        }
