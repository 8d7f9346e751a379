"""Command-line options made from `SegmentSettings`: names, defaults and help are the type's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rau.errors import InputError
from rau.settings import SegmentSettings

LISTS = {"structures": "A,B", "window": "LOW,HIGH"}  # fields that are written with commas
METAVARS = {"adapter": "FILE", "model": "auto|rau-mini|rau-7b|DIR", "prompt": "TEXT", "seed": "N", "threads": "N"}


def flag_of(name: str) -> str:
    """ "references_per_slice" to "--references-per-slice"."""
    return "--" + name.replace("_", "-")


def help_of(field: FieldInfo) -> str:
    """The description, and the range where there is one."""
    low, high = (next((getattr(m, a) for m in field.metadata if hasattr(m, a)), None) for a in ("ge", "le"))
    if low is None or high is None:
        return field.description or ""
    return f"{field.description} [{low:g} to {high:g}]"


def parameter_of(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option of a field as a parameter for typer. Ranges and choices are checked by the type itself."""
    kind: Any = field.annotation
    default: Any = field.default
    metavar = LISTS.get(name) or METAVARS.get(name)
    if name in LISTS:
        kind, default = str | None, None
    elif get_origin(kind) is Literal:
        metavar, kind = "|".join(get_args(kind)), str
    option = typer.Option(flag_of(name), help=help_of(field), metavar=metavar, show_default=default not in (None, ""))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def settings_from(values: dict[str, Any]) -> SegmentSettings:
    """Options as typer gave them to settings. Raises InputError that names the option."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in LISTS.keys() & given.keys():
        given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
    try:
        return SegmentSettings.model_validate(given)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        name = str(first["loc"][0])
        said = f"{LISTS[name]} is expected" if name == "window" else first["msg"]
        raise InputError(f"The option {flag_of(name)} is not usable: {said}", "See rau segment --help") from None


def with_settings(*, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command, instead of its parameter `settings`, one option for each field."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names = [name for name in SegmentSettings.model_fields if name not in leave_out]

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            settings = settings_from({name: values.pop(name) for name in names})
            return command(**values, settings=settings)

        own = inspect.signature(command, eval_str=True).parameters
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values() if p.name != "settings"]
        added = [parameter_of(name, SegmentSettings.model_fields[name]) for name in names]
        run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*kept, *added]}
        del run.__wrapped__
        return run

    return decorate
