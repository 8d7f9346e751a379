"""Tables of figures: for the terminal and for a Markdown file, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence

Cell = str | float | int | None


def shown(cell: Cell) -> str:
    """Numbers with three digits behind the point, whole numbers as they are, a dash for what has no value."""
    if cell is None:
        return "–"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table; columns but the first are set to the right."""
    lines = [list(columns), ["---"] + ["---:"] * (len(columns) - 1), *([shown(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table on standard output; plain when that is no terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
