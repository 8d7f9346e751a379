"""What is read off the states of a routed answer: boxes at `<Det>`, masks at `<Seg>`, closer looks at `<Look>`.

The heads are those of `<Seg>` (`rau.vlm.heads`): the detection head takes the `<Det>` state, the profiles of the
structure's own coarse mask beside it come from its `<Seg>` state where the answer has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rau.vlm.dialogue import Encoded, spots_of, token_of
from rau.vlm.routing import END
from rau.vlm.vocabulary import DET, LOOK, SEG

if TYPE_CHECKING:
    import torch

    from rau.vlm.model import Reading, Reasoner
    from rau.vlm.store import Loaded

KINDS = {"det": DET, "seg": SEG, "look": LOOK}


@dataclass(frozen=True)
class RoutedTensors:
    """Of the K tokens of each kind in the answers. boxes: (K, 4) at `<Det>`; states: (K, H), masks: (K, GR, GR) logits
    at `<Seg>`; looks: (K,) logit of `<Look>` against the end of the structure. presence: (K,) logit of the first token
    of each structure (`<Det>`, or `<Seg>` where no box is asked) against "absent".
    """

    boxes: torch.Tensor
    states: torch.Tensor
    masks: torch.Tensor
    looks: torch.Tensor
    presence: torch.Tensor


def token_ids(tokenizer: Any) -> dict[str, int]:
    """Of `<Det>`, `<Seg>`, `<Look>` by kind, and of what ends a structure."""
    ids = {kind: int(tokenizer.convert_tokens_to_ids(token)) for kind, token in KINDS.items()}
    return {**ids, "end": token_of(tokenizer, END)}


def route_spots(encoded: Encoded, ids: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Positions of each kind of token and the dialogue of each, "det_spots", "det_of" and so on; both (K,)."""
    found = {}
    for kind in KINDS:
        found[f"{kind}_spots"], found[f"{kind}_of"] = spots_of(
            encoded.inputs["input_ids"].cpu(), encoded.answers, ids[kind]
        )
    return found


def routed_cues(
    reasoner: Reasoner, reading: Reading, rows: Mapping[str, torch.Tensor], ids: Mapping[str, int]
) -> RoutedTensors:
    """rows: of `route_spots`, and det_anchors (K, 4), det_shares, seg_shares (K, GR, GR) of the reference as in
    `Reasoner.cues`, mates (K,): of each `<Det>`, which `<Seg>` is the same structure's, -1 for none. ids: `token_ids`.
    """
    import torch

    heads, hidden = reasoner.heads, reading.hidden
    fields, places = heads.fields(reading.target), heads.places(reading.target, reading.reference)

    def masks(states: torch.Tensor, kind: str) -> torch.Tensor:
        shares = rows[f"{kind}_shares"]
        return heads.masks(states, fields, places, shares, rows[f"{kind}_of"]) if len(states) else shares

    dets, segs = (hidden[rows[f"{kind}_of"], rows[f"{kind}_spots"]] for kind in ("det", "seg"))
    shown = dets
    if len(segs) and len(dets):
        shown = torch.where((rows["mates"] >= 0)[:, None], segs[rows["mates"].clamp(min=0)], dets)
    boxes = heads.boxes(dets, rows["det_anchors"], masks(shown, "det")) if len(dets) else rows["det_anchors"]
    said = {
        kind: reasoner.logits(hidden[rows[f"{kind}_of"], rows[f"{kind}_spots"] - 1]) for kind in ("det", "seg", "look")
    }
    first = "det" if len(dets) else "seg"
    presence = said[first][:, ids[first]] - said[first][:, reasoner.absent]
    looks = said["look"][:, ids["look"]] - said["look"][:, ids["end"]]
    return RoutedTensors(boxes, segs, masks(segs, "seg"), looks, presence)


def open_routes(loaded: Loaded) -> Loaded:
    """A reasoner about to learn routing: the rows of `<Det>` and `<Look>`, which nothing trained, begin as `<Seg>`'s.

    In place; nothing changes where routing was trained before.
    """
    import torch

    if not loaded.routes:
        ids = token_ids(loaded.processor.tokenizer)
        base = loaded.reasoner.base
        with torch.no_grad():
            for table in (base.get_input_embeddings(), base.get_output_embeddings()):
                for kind in ("det", "look"):
                    table.weight[ids[kind]] = table.weight[ids["seg"]]
    return replace(loaded, routes=True)
