"""What can be shown of how the VLM came to its answer: its thought, and what its `<Seg>` states attended to (Eq. 7).

Axes: N structures, K slots of memory (see `rau.sam.fusion.Slots`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NUMBERED = 12  # slots up to which the picture says the weights as numbers
TICKED = 40  # slots up to which each has its name below the picture


def thought_of(text: str) -> str:
    """What stands between the first `<think>` and the next `</think>`, without outer space; "" if there is none.

    A thought that was cut off ends with the text, or where the answer begins. Never raises.
    """
    _, tag, rest = text.partition("<think>")
    if not tag:
        return ""
    return rest.partition("</think>")[0].partition("<answer>")[0].strip()


def slot_names(references: int = 1, spatial_side: int = 0) -> tuple[str, ...]:
    """Names of the K = references * (2 + spatial_side ** 2) slots, in the order of `rau.sam.fusion.Slots.mask`."""
    cells = [f"memory {y},{x}" for y in range(spatial_side) for x in range(spatial_side)]
    kinds = ("prototype", "pointer", *cells)
    return tuple(kind if references == 1 else f"reference {r + 1}: {kind}" for r in range(references) for kind in kinds)


def checked(alpha: torch.Tensor, structures: Sequence[str], slots: Sequence[str]) -> None:
    """Raises ValueError unless alpha is (N, K) for N `structures` and K `slots`."""
    if tuple(alpha.shape) != (len(structures), len(slots)):
        raise ValueError(f"{len(structures)} structures and {len(slots)} slots, but weights of {tuple(alpha.shape)}")


def summary(
    alpha: torch.Tensor, structures: Sequence[str], slots: Sequence[str], mask: torch.Tensor | None = None
) -> dict[str, Any]:
    """Of the attention, for the report. alpha, mask: (N, K) as of `rau.sam.fusion.entropy_of`. Raises ValueError.

    "entropy": mean over structures, 0 one-hot, 1 uniform (0 without structures). "warning": text of a collapse, or "".
    "attended": for each structure, in order, its name, its strongest slot ("" if none takes part), the weight of that.
    """
    from rau.sam.fusion import collapsed, entropy_of

    checked(alpha, structures, slots)
    alpha = alpha.detach().float()
    entropy = float(entropy_of(alpha, mask).mean()) if len(structures) else 0.0
    attended = []
    for name, row in zip(structures, alpha):
        weight, slot = (float(row.max()), int(row.argmax())) if len(slots) else (0.0, 0)
        attended.append({"structure": name, "slot": slots[slot] if weight > 0 else "", "weight": round(weight, 4)})
    return {"entropy": round(entropy, 4), "warning": collapsed(alpha, mask), "attended": attended}


def draw_attention(
    path: Path,
    alpha: torch.Tensor,
    structures: Sequence[str],
    slots: Sequence[str],
    mask: torch.Tensor | None = None,
    title: str = "Attention over memory slots",
) -> Path:
    """A picture (PNG, or what the path's ending says) of alpha, structures as rows, slots as columns; gives the path.

    alpha: (N, K), 0 to 1, N and K at least 1; mask: (N, K) bool, slots that take no part are left blank. ValueError for
    shapes that differ. No display is needed, and pyplot's state stays as it is.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    checked(alpha, structures, slots)
    if not alpha.numel():
        raise ValueError("there is no attention to draw")
    weights = alpha.detach().float().cpu().numpy()
    if mask is not None:
        weights = np.ma.masked_where(~mask.cpu().numpy(), weights)
    rows, columns = weights.shape
    figure = Figure(figsize=(min(2.8 + 0.55 * columns, 14), min(1.6 + 0.32 * rows, 14)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = axes.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(rows), structures, fontsize=8)
    ticks = range(columns) if columns <= TICKED else []
    axes.set_xticks(ticks, [slots[i] for i in ticks], rotation=45, ha="right", fontsize=8)
    axes.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=axes, label="weight")
    if columns <= NUMBERED:
        for (y, x), value in np.ma.ndenumerate(weights):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else "k")
    figure.savefig(path, dpi=120)
    return path
