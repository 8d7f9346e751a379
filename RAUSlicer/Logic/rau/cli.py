"""The command `rau`. Exit status: 0 done, 2 input or call wrong, 3 nothing found, 4 model missing or damaged,
130 cancelled; 1 an error of ours. Every failure is one line on stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import rau
from rau.commands.bank import app as bank_app
from rau.commands.dataset import app as dataset
from rau.commands.options import with_settings
from rau.settings import BANK_REFERENCES, SegmentSettings

CANCELLED, USAGE = 130, 2

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
models = typer.Typer(rich_markup_mode=None, help="The models on this computer.")
app.add_typer(models, name="models")
app.add_typer(bank_app, name="bank")
app.add_typer(dataset, name="dataset")


class TrainGroup(TyperGroup):
    """The commands of `rau.commands.train`, imported (with torch) only when one of them is wanted."""

    def _commands(self) -> Any:
        from rau.commands.train import app as training

        return typer.main.get_command(training)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._commands().list_commands(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._commands().get_command(ctx, cmd_name)


app.add_typer(
    typer.Typer(cls=TrainGroup, rich_markup_mode=None, help="Train the parts of a model, and pack them."), name="train"
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rau {rau.__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Segment a medical image from annotated reference images."""


@app.command()
@with_settings()
def segment(
    target: Annotated[
        Path, typer.Option(help="Image to segment: a file, or the folder of a DICOM series", metavar="IMG")
    ],
    output: Annotated[
        Path, typer.Option(help="Label map to write: .nii.gz .nrrd .mha .seg.nrrd .dcm .png", metavar="OUT")
    ],
    settings: SegmentSettings,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Annotated image; repeat for more", metavar="IMG", show_default=False)
    ] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="Its label map or segmentation; one for each --reference", metavar="SEG")
    ] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Reference bank to take references from, beside or instead", metavar="DIR")
    ] = None,
    bank_references: Annotated[int, typer.Option(help="How many of the bank's best", min=1, max=20)] = BANK_REFERENCES,
    bank_ids: Annotated[str, typer.Option(help="These entries of the bank, whatever their looks", metavar="A,B")] = "",
    bank_mismatch: Annotated[
        str,
        typer.Option(help="What to do with a poor match or another modality", metavar="warn|refuse"),
    ] = "warn",
    corrections: Annotated[
        Path | None, typer.Option(help="Segmentation of the target in which some slices were put right", metavar="SEG")
    ] = None,
    corrected_slices: Annotated[
        str, typer.Option(help="Which slices of --corrections are right: places in the file, from 0", metavar="N,N")
    ] = "",
    series: Annotated[
        str | None, typer.Option(help="Which series of the target's DICOM folder: its number or UID", metavar="ID")
    ] = None,
    reference_series: Annotated[
        list[str] | None, typer.Option(help="The same for DICOM references; one for each --reference", metavar="ID")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write what was found, how, and with what", metavar="OUT.json")
    ] = None,
) -> None:
    """Segment the structures of annotated references in a target image.

    The target is never altered. Label values, names, colours and codes are the reference's. A structure that is not
    found in the target is left out; when none is found nothing is written, and the exit status is 3.
    """
    from rau.commands.segment import Files, FromBank, corrected_from, run
    from rau.commands.tables import print_result

    ids = tuple(one.strip() for one in bank_ids.split(",") if one.strip())
    banked = None if bank is None else FromBank(bank, bank_references, ids, bank_mismatch)
    pairs = tuple(reference or ()), tuple(labels or ())
    corrected = corrected_from(corrections, corrected_slices)
    files = Files(*pairs, target, output, report, series, tuple(reference_series or ()), banked, corrected)
    result = run(files, settings)
    print_result(result)
    print(f"{files.output.name} written, {result.seconds:.1f} s")


@app.command()
@with_settings(leave_out=("structures", "prompt", "window"))
def demo(
    settings: SegmentSettings,
    output: Annotated[Path, typer.Option(help="Folder for the files", metavar="DIR")] = Path("demo-output"),
) -> None:
    """Segment a synthetic patient from another one with the bundled model, and measure it."""
    from rau.demo import run

    run(output, settings)


@app.command()
@with_settings()
def batch(
    cases: Annotated[
        Path, typer.Argument(help="Table with a row a case: reference, labels, target; name, output", metavar="CASES")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the results and their table", metavar="DIR")],
    settings: SegmentSettings,
    workers: Annotated[
        int, typer.Option(help="Processes, each with the model; 0: this one, without Ray", min=0, max=64, metavar="N")
    ] = 1,
    bank: Annotated[
        Path | None, typer.Option(help="Reference bank to take references from, beside or instead", metavar="DIR")
    ] = None,
    bank_references: Annotated[int, typer.Option(help="How many of the bank's best", min=1, max=20)] = BANK_REFERENCES,
) -> None:
    """Segment the cases of a table (CSV or JSON). Cases that an earlier run did are not done again.

    A case that fails is told, and the others go on. Exit status: 0 all done, 3 nothing found in some, else the worst.
    """
    from rau.commands.batch import run
    from rau.commands.segment import FromBank

    banked = None if bank is None else FromBank(bank, bank_references)
    raise typer.Exit(run(cases, output, settings, workers, banked))


@app.command()
def evaluate(
    truth: Annotated[
        Path | None, typer.Option(help="Segmentation that is right", metavar="SEG", show_default=False)
    ] = None,
    result: Annotated[
        Path | None, typer.Option(help="Segmentation to measure, on the grid of the truth", metavar="SEG")
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="Table of cases instead of one pair", metavar="CASES.csv")] = None,
    truth_column: Annotated[
        str, typer.Option(help="Its column with the right segmentations", metavar="NAME")
    ] = "truth",
    result_column: Annotated[str, typer.Option(help="Its column with the results", metavar="NAME")] = "output",
    results: Annotated[
        Path | None, typer.Option(help="Folder of the results; the table's own unless given", metavar="DIR")
    ] = None,
    structures: Annotated[
        str, typer.Option(help="Names of the structures to measure; those of the truth unless given", metavar="A,B")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures", metavar="OUT.json")] = None,
) -> None:
    """Measure segmentations against the truth: Dice, IoU, distances between surfaces, volumes, by structure."""
    from rau.commands import evaluate as command
    from rau.errors import InputError

    names = [part.strip() for part in structures.split(",") if part.strip()]
    if cases is not None and truth is None and result is None:
        raise typer.Exit(command.table(cases, truth_column, result_column, results, names, json_file))
    if cases is not None or truth is None or result is None:
        raise InputError("rau evaluate needs --truth and --result, or --cases alone", "See rau evaluate --help")
    command.one(truth, result, names, json_file)


@app.command()
def describe(
    image: Annotated[Path, typer.Option(help="Image: a file, or the folder of a DICOM series", metavar="IMG")],
    labels: Annotated[Path, typer.Option(help="Its label map or segmentation", metavar="SEG")],
    structures: Annotated[
        str, typer.Option(help="Names of the structures to describe; all unless given", metavar="A,B")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="Also write facts and prose", metavar="OUT.json")] = None,
    series: Annotated[
        str | None, typer.Option(help="Which series of a DICOM folder: its number or UID", metavar="ID")
    ] = None,
) -> None:
    """Describe structures in words: size, place, shape, appearance, neighbours, all measured."""
    from rau.commands.describe import Described, run

    names = tuple(part.strip() for part in structures.split(",") if part.strip())
    run(Described(image, labels, output, names, series))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one", min=0, max=65535, metavar="N")] = 8417,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Where the token lies, made if need be; without it a new one is shown once", metavar="FILE"),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(help="Largest images of a run, together", min=1, metavar="N")] = 2048,
    keep_minutes: Annotated[
        float, typer.Option(help="How long a run that nobody asks for is kept", min=0.01, metavar="N")
    ] = 60.0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other computers send images here: pixels leave them")
    ] = False,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name by which they call this one; repeat for more", metavar="HOST")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, for https", metavar="PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key", metavar="PEM")] = None,
) -> None:
    """Segment for other programs over HTTP, with a token; for this computer alone unless told otherwise."""
    from rau.commands.serve import Serving, run

    names = tuple(name or ())
    run(Serving(host, port, token_file, max_upload_mb, keep_minutes, allow_remote, names, tls_cert, tls_key))


@app.command()
def worker() -> None:
    """Serve the panel over the standard streams: JSON messages, one a line."""
    from rau.worker.process import main as serve

    raise typer.Exit(serve())


@models.command("list")
def models_list() -> None:
    """Which models are here."""
    from rau.commands.models import list_models

    list_models()


@models.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or folders; all when none is given")] = None,
) -> None:
    """Check every file of a model against its checksum."""
    from rau.commands.models import verify_models

    verify_models(names or [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rau` and return its exit status; the command line's own arguments unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.simplefilter("ignore")  # of libraries: what the user should know comes as our own lines
    try:
        status = typer.main.get_command(app).main(given or ["--help"], prog_name="rau", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return _told(error)
    if status == CANCELLED:
        print("Cancelled", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _told(error: BaseException) -> int:
    """One line on stderr; the exit status."""
    from rau.worker.failure import failure_of

    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        print("Cancelled", file=sys.stderr)
        return CANCELLED
    if hasattr(error, "format_message"):  # the call is wrong: typer's own
        print(f"rau: {' '.join(error.format_message().split())} (see rau --help)", file=sys.stderr)
        return USAGE
    failure = failure_of(error)
    print(f"rau: {failure.line}", file=sys.stderr)
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
