"""`rau train`: options made from the dataclasses of `rau.training`, one line of scores at each validation."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rau.training import encoder, segmenter

app = typer.Typer(rich_markup_mode=None)


def option_of(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """A dataclass field as an option; fields without default are required."""
    option = typer.Option("--" + name.replace("_", "-"), show_default=default not in ("", inspect.Parameter.empty))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def trainer(settings: type[Any], train: Callable[[Any], Iterator[dict[str, float]]]) -> Callable[..., None]:
    """A command that trains with the settings made of its options."""

    def run(**values: Any) -> None:
        for scores in train(settings(**values)):
            print("  ".join(f"{name} {value:g}" for name, value in scores.items()), file=sys.stderr, flush=True)

    kinds = get_type_hints(settings)
    parameters = [
        option_of(one.name, kinds[one.name], inspect.Parameter.empty if one.default is MISSING else one.default)
        for one in fields(settings)
    ]
    command = functools.partial(run)
    command.__name__ = train.__name__  # type: ignore[attr-defined]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = settings.__doc__
    return command


app.command("segmenter", short_help="SAM2 of a preset learns, from scratch or from a model, to use a reference")(
    trainer(segmenter.SegmenterTraining, segmenter.train)
)
app.command("encoder", short_help="The encoder for retrieval learns which slices are alike")(
    trainer(encoder.EncoderTraining, encoder.train)
)


def later(name: str, settings: str, summary: str) -> None:
    """Add the command of `rau.training.<name>`, which is imported (with transformers and trl) when it is called."""

    def run(context: typer.Context) -> None:
        module = importlib.import_module(f"rau.training.{name}")
        whole = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        whole.command(name)(trainer(getattr(module, settings), module.train))
        command = typer.main.get_command(whole)
        command.main(context.args, prog_name=context.command_path, standalone_mode=False)

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name, short_help=summary, add_help_option=False, context_settings=anything)(run)


later("sft", "SftTraining", "The VLM learns to label, to box and to say where each structure lies")
later("grpo", "GrpoTraining", "The VLM learns from how good its own answers are")
later("fusion", "FusionTraining", "The states of the VLM learn to speak to SAM2's decoder")
later("pixels", "PixelTraining", "Features of a pixel, by which an expert of one reference is right in the target")
later("adapter", "AdapterTraining", "A small file of what a site's accepted cases teach, if that helps")


@app.command()
def pack(
    segmenter: Annotated[Path, typer.Option(help="Run of `rau train segmenter`, or a model folder")],
    output: Annotated[Path, typer.Option(help="Model folder to write")],
    version: Annotated[str, typer.Option(help="Version of the model")],
    encoder: Annotated[Path | None, typer.Option(help="Run of `rau train encoder`, or a model folder")] = None,
    pixels: Annotated[Path | None, typer.Option(help="Run of `rau train pixels`, or a model folder")] = None,
    vlm: Annotated[Path | None, typer.Option(help="Run of `rau train sft` or grpo, or a model folder")] = None,
    fusion: Annotated[Path | None, typer.Option(help="Run of `rau train fusion` with that VLM")] = None,
    uses: Annotated[str, typer.Option(help="What the default makes of the VLM: of presence,boxes,fusion,two-way")] = "",
    threshold: Annotated[float, typer.Option(help="Presence from which a structure is there, 0 to 1")] = 0.5,
    licence: Annotated[str, typer.Option(help="Licence of the weights")] = "Apache-2.0",
) -> None:
    """Make a model folder, for `rau segment --model`, of training runs."""
    from rau.training import pack as packing

    runs = packing.vlm_runs(vlm, fusion, uses, threshold)
    made = packing.pack(segmenter, encoder, output, version, licence, runs, pixels)
    print(f"{made.manifest.name} {version}: {len(made.manifest.files)} files")


@app.command()
def average(
    first: Annotated[Path, typer.Option(help="Model folder")],
    second: Annotated[Path, typer.Option(help="Model folder whose segmenter was trained on from the first's")],
    output: Annotated[Path, typer.Option(help="Model folder to write")],
    version: Annotated[str, typer.Option(help="Version of the model")],
    share: Annotated[float, typer.Option(help="Share of the second, 0 to 1")] = 0.5,
) -> None:
    """The mean of the segmenters of two models; all but the VLM is the first's."""
    from rau.training.average import average as mean

    made = mean(first, second, share, version, output)
    print(f"{made.manifest.name} {version}: {len(made.manifest.files)} files")
