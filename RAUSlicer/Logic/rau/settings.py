"""The one type behind the command line, the panel's parameter node, the worker's message and the provenance record."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BANK_REFERENCES = 3  # of a bank, unless told: what `rau.bank.search.pick`, the commands and the panel take


class SegmentSettings(BaseModel):
    """How to segment. Every field: unit, range, default, help. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    structures: tuple[str, ...] = Field(
        (), description="Names of the structures to segment; empty: all of the reference"
    )
    prompt: str = Field(
        "", max_length=2000, description="Free text that narrows the structures, e.g. 'liver and spleen'"
    )
    model: str = Field("auto", description="auto, rau-mini, rau-7b, or the path of a model folder")
    adapter: str = Field(
        "", max_length=4096, description="File of `rau train adapter`: what the model learnt from accepted cases"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute")
    planes: Literal["auto", "acquisition", "all"] = Field(
        "auto",
        description="Planes to cut: the acquisition plane, all three (averaged; slower), or by the shape of the voxels "
        "(of cubes the acquisition plane and every second slice of the others)",
    )
    registration: Literal["auto", "off"] = Field(
        "auto",
        description="Lay references onto the target first (affine, then deformable), or leave them as they are",
    )
    region: Literal["auto", "off"] = Field(
        "off",
        description="Of volumes look at the part of the slices where registration expects structures, or at whole ones",
    )
    ends: Literal["presence", "signs"] = Field(
        "presence",
        description="Along the slices a structure is where the network says so, or where all signs do, the reference's "
        "own first and last slice among them (only where the slices surely match)",
    )
    adaptation: Literal["auto", "off"] = Field(
        "auto",
        description="Train a small expert on the references first (about a second each), or use the model as it is",
    )
    reasoning: Literal["auto", "on", "routed", "off"] = Field(
        "auto",
        description="Ask the vision-language model: for what was measured to help, for all it can give, for all of it "
        "in one routed answer (of a model trained for that), or not at all",
    )
    look: Literal["auto", "routed", "off"] = Field(
        "auto",
        description="Look again, in crops of the original pixels, at small structures, at those that the routed answer "
        "asks for (with reasoning routed), or at whole slices alone",
    )
    priors: Literal["flag", "correct"] = Field(
        "correct",
        description="Pieces that lie where no reference has their structure: say so, or also take them away",
    )
    quality: Literal["auto", "off"] = Field(
        "auto",
        description="Judge how far the result can be trusted (about a tenth of the time), or leave it unjudged",
    )
    speed: Literal["exact", "fast"] = Field(
        "exact",
        description="Read memory as SAM2 does, or with fewer numbers: in half precision where that is quick, "
        "pooled on large slices",
    )
    references_per_slice: int = Field(
        3, ge=1, le=7, description="Reference slices in memory for a target slice (count)"
    )
    neighbours: int = Field(0, ge=0, le=6, description="Neighbouring target slices kept in memory (count)")
    neighbour_iou: float = Field(
        0.9, ge=0.0, le=1.0, description="Predicted IoU from which a neighbouring slice's mask is relied on (0 to 1)"
    )
    presence_threshold: float = Field(
        0.5, ge=0.0, le=1.0, description="A structure is in a slice when its presence score is at least this (0 to 1)"
    )
    retrieval_warning: float = Field(
        0.6, ge=-1.0, le=1.0, description="Warn when the best reference slice is less similar than this (cosine)"
    )
    window: tuple[float, float] | None = Field(
        None, description="Intensity window (low, high) in the image's own units; none: CT in HU, others by percentiles"
    )
    threads: int = Field(0, ge=0, le=256, description="CPU threads; 0: one of two processors, else what there are")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of everything random")
