"""Each predicted box gets its structure, all at once (RAU Eq. 4; papers.md, A3.4).

Axes: N predicted boxes, M structures of the reference. Boxes are (N, 4) and (M, 4) as in `rau.vlm.boxes`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rau.matching.cost import FEWEST, cost_matrix, own_frames, shared_frames
from rau.vlm.boxes import Box, as_array, as_box, iou

Method = Literal["transport", "hungarian", "independent"]
TAU = 0.45  # cost of the dustbin, and the most that a match may cost
EPSILON, ITERATIONS = 0.05, 200  # entropic regularisation and steps of Sinkhorn
COLLAPSED = 0.9  # IoU from which two structures share a box
REFITS = 2  # of the frames to the pairs that were found
FORBIDDEN = 1e3


@dataclass(frozen=True)
class Assignment:
    """For each of M structures the index of its box and the cost of that match, or None.

    plan: (N + 1, M + 1) transport with the dustbins last, of the method "transport"; else None.
    """

    boxes: tuple[int | None, ...]
    costs: tuple[float | None, ...]
    plan: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Matched:
    """Of `match_until`: for each of M structures its box and cost, or None; how often the VLM was asked again."""

    boxes: tuple[Box | None, ...]
    costs: tuple[float | None, ...]
    asked_again: int

    @property
    def not_found(self) -> tuple[int, ...]:
        return tuple(j for j, box in enumerate(self.boxes) if box is None)


def transport_plan(cost: np.ndarray, tau: float = TAU) -> np.ndarray:
    """(N + 1, M + 1) Sinkhorn plan with a dustbin row and column of cost tau, marginals (1..1, M) and (1..1, N)."""
    import ot

    n, m = cost.shape
    if not cost.size:
        return np.pad(np.zeros((n, m)), ((0, 1), (0, 1)), constant_values=1.0) - np.pad([[1.0]], ((n, 0), (m, 0)))
    padded = np.full((n + 1, m + 1), tau)
    padded[:n, :m], padded[n, m] = cost, 0.0
    rows, columns = np.append(np.ones(n), m), np.append(np.ones(m), n)
    return np.asarray(
        ot.sinkhorn(rows, columns, padded, EPSILON, method="sinkhorn_log", numItermax=ITERATIONS, warn=False)
    )


def _pairs(cost: np.ndarray, bin_cost: float) -> list[tuple[int, int]]:
    """The pairs of the cheapest one-to-one assignment in which every row and column may go to a dustbin instead."""
    from scipy.optimize import linear_sum_assignment

    n, m = cost.shape
    padded = np.full((n + m, m + n), bin_cost)
    padded[:n, :m], padded[n:, m:] = cost, 0.0
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(padded)) if i < n and j < m]


def _named_pairs(probability: np.ndarray) -> list[tuple[int, int]]:
    """Every box keeps the label of its highest probability; of several boxes the most probable has the structure."""
    best: dict[int, int] = {}
    for i, j in enumerate(probability.argmax(axis=1)) if probability.size else ():
        if int(j) not in best or probability[i, j] > probability[best[int(j)], j]:
            best[int(j)] = i
    return [(i, j) for j, i in best.items()]


def assign(
    cost: np.ndarray, method: Method = "transport", tau: float = TAU, probability: np.ndarray | None = None
) -> Assignment:
    """One-to-one assignment of (N, M) costs, deterministic; at most tau a match.

    transport: Sinkhorn with dustbins, its plan rounded by the Hungarian method. hungarian: exact, on the matrix padded
    with dustbins. independent: every box keeps the label that the VLM gave it, by `probability` (N, M), or by the cost
    where that is None: what is left without global matching. It knows no geometry, and tau is not applied.
    """
    allowed, plan = cost <= tau, None
    if method == "independent":
        allowed, pairs = np.ones_like(allowed), _named_pairs(-cost if probability is None else np.asarray(probability))
    elif method == "hungarian":
        pairs = _pairs(np.where(allowed, cost, FORBIDDEN), tau)
    elif method == "transport":
        plan = transport_plan(np.where(allowed, cost, FORBIDDEN), tau)
        flow = plan[:-1, :-1] - 1e-6 * cost  # the cheaper one where the plan is even
        pairs = _pairs(np.where(allowed, -flow, FORBIDDEN), 1.0)
    else:
        raise ValueError(f"no such method: {method}")
    boxes: list[int | None] = [None] * cost.shape[1]
    for i, j in pairs:
        if allowed[i, j]:
            boxes[j] = i
    costs = tuple(None if i is None else float(cost[i, j]) for j, i in enumerate(boxes))
    return Assignment(tuple(boxes), costs, plan)


def fitted_cost(
    boxes: np.ndarray, probability: np.ndarray, reference_boxes: np.ndarray, tau: float = TAU
) -> np.ndarray:
    """(N, M) costs in the frames in which the boxes fit best.

    The medians of A3.4 mislead where structures are missing or boxes are surplus. So two beginnings are tried, each
    layout in its own frame (A3.4) and the picture as it is; from each the frames are fitted again to the pairs found;
    and the costs of the cheapest assignment are kept.
    """
    best, least = np.zeros((len(boxes), len(reference_boxes))), np.inf
    for frames in (own_frames(boxes, reference_boxes), shared_frames(reference_boxes)):
        earlier: tuple[int | None, ...] = ()
        for _ in range(1 + REFITS):
            cost = cost_matrix(boxes, probability, reference_boxes, frames)
            found = assign(cost, "hungarian", tau)
            price = [c for c in found.costs if c is not None]
            total = sum(price) + tau * (sum(cost.shape) - 2 * len(price))
            if total < least - 1e-9:
                best, least = cost, total
            if len(price) < FEWEST or found.boxes == earlier:
                break
            earlier = found.boxes
            having = [j for j, i in enumerate(found.boxes) if i is not None]
            frames = own_frames(boxes[[i for i in found.boxes if i is not None]], reference_boxes[having])
    return best


def match_boxes(
    boxes: np.ndarray,
    probability: np.ndarray,
    reference_boxes: np.ndarray,
    method: Method = "transport",
    tau: float = TAU,
) -> Assignment:
    """Which of (N, 4) predicted boxes belongs to each of M structures with (M, 4) reference boxes.

    probability: (N, M) that the VLM gives; see `rau.matching.cost.named_probability`. ValueError if the shapes do not
    agree.
    """
    cost = fitted_cost(as_array(boxes), probability, as_array(reference_boxes), tau)
    return assign(cost, method, tau, probability)


def unmatched(assignment: Assignment) -> list[int]:
    """The structures without a box."""
    return [j for j, i in enumerate(assignment.boxes) if i is None]


def collapsed(
    assignment: Assignment, boxes: np.ndarray, reference_boxes: np.ndarray | None = None, limit: float = COLLAPSED
) -> list[tuple[int, int]]:
    """Pairs of structures, the cheaper match first, whose boxes overlap by an IoU above `limit`.

    Pairs whose reference boxes overlap as much (a wall and its lumen) are left out.
    """
    having = [j for j, i in enumerate(assignment.boxes) if i is not None]
    chosen = as_array(boxes)[[i for i in assignment.boxes if i is not None]]
    close = iou(chosen, chosen) > limit
    if reference_boxes is not None:
        reference = as_array(reference_boxes)[having]
        close &= iou(reference, reference) <= limit
    pairs = [(having[a], having[b]) for a, b in zip(*np.nonzero(np.triu(close, 1)))]
    price = assignment.costs
    return [(b, a) if (price[b] or 0.0) < (price[a] or 0.0) else (a, b) for a, b in pairs]


def match_until(
    ask_again: Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]],
    boxes: np.ndarray,
    probability: np.ndarray,
    reference_boxes: np.ndarray,
    method: Method = "transport",
    tau: float = TAU,
    tries: int = 2,
    absent: Collection[int] = (),
) -> Matched:
    """Match, and ask again, at most `tries` times, for what is unmatched or collapsed; then it is "not found".

    ask_again(structures) -> (n, 4) more boxes and their (n, M) probabilities. The boxes of the other structures stay in
    play, and of two collapsed ones the cheaper. absent: structures that the VLM said are not there; not asked again.
    """
    boxes, probability = as_array(boxes), np.asarray(probability, np.float64)
    asked = 0
    while True:
        found = match_boxes(boxes, probability, reference_boxes, method, tau)
        pairs = collapsed(found, boxes, reference_boxes)
        lost = {dear for _, dear in pairs}
        again = sorted({*unmatched(found), *(j for pair in pairs for j in pair)} - set(absent))
        if not again or asked == tries:
            break
        kept = [i for j, i in enumerate(found.boxes) if i is not None and j not in lost]
        more, chances = ask_again(again)
        chances = np.asarray(chances, np.float64).reshape(-1, probability.shape[1])
        boxes, probability = np.vstack([boxes[kept], as_array(more)]), np.vstack([probability[kept], chances])
        asked += 1
    final = [None if j in lost else i for j, i in enumerate(found.boxes)]
    return Matched(
        tuple(None if i is None else as_box(boxes[i]) for i in final),
        tuple(None if i is None else found.costs[j] for j, i in enumerate(final)),
        asked,
    )
