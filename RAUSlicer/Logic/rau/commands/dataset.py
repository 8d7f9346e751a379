"""`rau dataset`: items of masks, boxes, prompts and descriptions from labelled images, and their review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rau.errors import InputError

app = typer.Typer(rich_markup_mode=None, help="Data sets of masks, boxes, prompts and descriptions.")


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Folder for the data set, made if need be", metavar="DIR")],
    image: Annotated[list[Path], typer.Option(help="Image; repeat for more", metavar="IMG", show_default=False)],
    labels: Annotated[list[Path], typer.Option(help="Its label map; one for each --image", metavar="SEG")],
    every: Annotated[int, typer.Option(help="Of the slices, take each n-th", min=1, metavar="N")] = 1,
    fewest: Annotated[int, typer.Option(help="Fewest pixels of a structure in a slice", min=1, metavar="N")] = 16,
) -> None:
    """Make a data set of labelled images: an item for every structure of every slice.

    The slices themselves go into DIR/images. Look at them before you pass a data set on: names and paths of files are
    left out, what a picture shows is not.
    """
    from rau.commands.describe import read_pair
    from rau.description import dataset

    if len(image) != len(labels):
        raise InputError(
            f"There are {len(image)} --image and {len(labels)} --labels",
            "Give one --labels for each --image, in the same order",
        )
    pairs = [read_pair(one, other) for one, other in zip(image, labels, strict=True)]
    count = dataset.build(folder.expanduser(), pairs, dataset.Selection(every, fewest))
    print(f"{count} items in {folder.name}/{dataset.FILE}")


@app.command()
def review(
    file: Annotated[Path, typer.Argument(help="The data set: its folder or its file", metavar="FILE")],
    item: Annotated[str, typer.Option(help="Which item: its id", metavar="ID")],
    reviewer: Annotated[str, typer.Option(help="Who reviews; kept in the file", metavar="NAME")],
    accept: Annotated[bool, typer.Option("--accept", help="The item is right")] = False,
    correct: Annotated[
        Path | None, typer.Option(help="What it should be: a .txt, or a picture of the mask", metavar="FILE")
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="The item is of no use")] = False,
) -> None:
    """Accept, correct or reject an item; who, when and what it was before stay in the file."""
    from rau.description.review import Review, review_item, state_of

    if [accept, correct is not None, reject].count(True) != 1:
        raise InputError("A review is one of --accept, --correct FILE and --reject", "Give one of them")
    verdict = Review("accept" if accept else "reject" if reject else "correct", reviewer, correct)
    found, left = review_item(file.expanduser(), item, verdict)
    print(f"{item} ({found['structure']}): {state_of(found)}; {left} still open")
