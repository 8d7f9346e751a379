"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rau.results import SegmentResult


def print_result(result: SegmentResult) -> None:
    """One line a structure: found or not, how sure, how large, how far to be trusted; then the slices to review."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("structure", "found", "score", "volume"):
        table.add_column(name, justify="right" if name in ("score", "volume") else "left", no_wrap=True)
    if result.quality:
        table.add_column("trust", no_wrap=True)
    for one in result.structures:
        size = f"{one.volume_ml:.1f} ml" if one.volume_ml is not None else f"{one.voxels} voxels"
        shown = ("yes", f"{one.score:.2f}", size) if one.present else ("no", "", "")
        table.add_row(one.structure.name, *shown, *trust(result, one.structure.value))
    console = Console(highlight=False, markup=False)
    console.print(table)
    if result.quality.get("review"):
        slices = ", ".join(str(one["index"]) for one in result.quality["review"])
        console.print(f"Slices to review, the worst first: {slices}")


def trust(result: SegmentResult, value: int) -> list[str]:
    """The last column: the light, and the Dice to be expected with its interval; nothing where it was not judged."""
    if not result.quality:
        return []
    one = next(one for one in result.quality["structures"] if one["value"] == value)
    if one["expected_dice"] is None:
        return [""]
    low, high = one["interval"]
    return [f"{one['light']}: Dice of about {one['expected_dice']:.2f} ({low:.2f} to {high:.2f})"]
