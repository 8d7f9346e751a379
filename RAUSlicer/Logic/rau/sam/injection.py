"""What SAM2's mask decoder is told of a row beside its memory: mask prompt, fused `<Seg>` token, box, field.

SAM2 has no argument for a token or a field, so hooks put it in for the length of one call; none of its code is copied.
Axes: K rows (a structure in a slice), C = width of the decoder, S = image size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Injection = Literal["token", "target"]
INJECTIONS: tuple[Injection, ...] = ("token", "target")
CORNERS = (2, 3)  # SAM2's point labels of the top left and the bottom right corner of a box


@dataclass(frozen=True)
class Guidance:
    """What each of K rows is told; None: nothing of that kind.

    masks: (K, 1, any, any) probabilities. tokens: (K, C), the z of `rau.sam.fusion`. boxes: (K, 4) x0, y0, x1, y1 in
    pixels of the S square; a row with a NaN has no box. injection: how the tokens go in, see `injected`. fields: (K, C,
    any, any), of `rau.sam.two_way`, brought to the size of the image embedding and added to it.
    """

    masks: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    injection: Injection = "token"
    fields: torch.Tensor | None = None

    def check(self, rows: int, channels: int) -> None:
        """Raises ValueError where a shape does not fit `rows` (K) and `channels` (C), or the injection is unknown."""
        if self.injection not in INJECTIONS:
            raise ValueError(f"the injection must be one of {', '.join(INJECTIONS)}, not {self.injection!r}")
        for name, found, wanted in (("tokens", self.tokens, channels), ("boxes", self.boxes, 4)):
            if found is not None and tuple(found.shape) != (rows, wanted):
                raise ValueError(f"{name} must have the shape {(rows, wanted)}, not {tuple(found.shape)}")
        if self.fields is not None and (self.fields.dim() != 4 or tuple(self.fields.shape[:2]) != (rows, channels)):
            shape = f"({rows}, {channels}, any, any)"
            raise ValueError(f"fields must have the shape {shape}, not {tuple(self.fields.shape)}")

    def rows(self, index: torch.Tensor) -> Guidance:
        """Guidance of rows index[k]. index: (K',) int64."""
        masks, tokens, boxes, fields = (
            x if x is None else x[index] for x in (self.masks, self.tokens, self.boxes, self.fields)
        )
        return replace(self, masks=masks, tokens=tokens, boxes=boxes, fields=fields)

    def without_boxes(self) -> Guidance:
        return replace(self, boxes=None)

    def boxed(self) -> torch.Tensor | None:
        """(K,) bool: which rows have a box; None: no boxes were given."""
        return None if self.boxes is None else self.boxes.isfinite().all(1)


def corner_points(boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boxes as SAM2's point prompts. boxes: (K, 4), finite -> point_coords (K, 2, 2) as x, y; point_labels (K, 2)."""
    import torch

    labels = torch.tensor(CORNERS, dtype=torch.int32, device=boxes.device).expand(len(boxes), 2)
    return {"point_coords": boxes.float().reshape(-1, 2, 2), "point_labels": labels}


@contextmanager
def injected(
    decoder: Any, tokens: torch.Tensor | None, injection: Injection = "token", fields: torch.Tensor | None = None
) -> Iterator[None]:
    """Inside, SAM2's mask decoder gives one mask a row (multimask off) and sees the tokens; afterwards it is as before.

    decoder: `SAM2Base.sam_mask_decoder`. tokens: (K, C), or None: only multimask off.
    "token": one more sparse prompt, (K, n, C) -> (K, n + 1, C) (papers.md A3.6 step 4, D1: the place of Sa2VA's
    language embedding). "target": added to all queries before each two-way layer (A3.6 step 5), out of place, so that
    autograd holds and the queries' positions stay as they are (W6).
    fields: (K, C, any, any), E_lv of RCMed, up-sampled to the image embedding (K, C, T, T) and added to it, out of
    place (papers.md B3): the memory of the masks is made without them.
    """

    def prompts(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        import torch

        from rau.sam.two_way import grown

        kwargs = {**kwargs, "multimask_output": False}
        if tokens is not None and injection == "token":
            sparse = kwargs["sparse_prompt_embeddings"]
            kwargs["sparse_prompt_embeddings"] = torch.cat([sparse, tokens[:, None].to(sparse.dtype)], dim=1)
        if fields is not None:
            image = kwargs["image_embeddings"]
            kwargs["image_embeddings"] = image + grown(fields.to(image.dtype), image.shape[-1])
        return args, kwargs

    def queries(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        before = kwargs["queries"]
        return args, {**kwargs, "queries": before + tokens[:, None].to(before.dtype)}  # type: ignore[index]

    hooks = [decoder.register_forward_pre_hook(prompts, with_kwargs=True)]
    try:
        if tokens is not None and injection == "target":
            for layer in decoder.transformer.layers:
                hooks.append(layer.register_forward_pre_hook(queries, with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
