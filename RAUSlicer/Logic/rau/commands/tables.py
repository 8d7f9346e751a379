"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rau.results import SegmentResult


def print_result(result: SegmentResult) -> None:
    """One line a structure: found or not, how sure, how large."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, where in (("structure", "left"), ("found", "left"), ("score", "right"), ("volume", "right")):
        table.add_column(name, justify="right" if where == "right" else "left", no_wrap=True)
    for one in result.structures:
        size = f"{one.volume_ml:.1f} ml" if one.volume_ml is not None else f"{one.voxels} voxels"
        shown = ("yes", f"{one.score:.2f}", size) if one.present else ("no", "", "")
        table.add_row(one.structure.name, *shown)
    Console(highlight=False, markup=False).print(table)
