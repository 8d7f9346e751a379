"""`rau models`: which models are here, and whether they are whole."""

from __future__ import annotations

from pathlib import Path

from rau.errors import ModelError


def list_models() -> None:
    """One line a model: name, version, licence, size, where it came from."""
    from rich.console import Console
    from rich.table import Table

    from rau.models.store import bundled_folders, known_models, open_model

    models = known_models()
    if not models:
        raise ModelError("No model is on this computer", "Install RAUSlicer again")
    table = Table(box=None, pad_edge=False)
    for name in ("model", "version", "licence", "size", "from"):
        table.add_column(name, no_wrap=True)
    bundled = [folder.resolve() for folder in bundled_folders()]
    for name, folder in models.items():
        origin = "bundled" if folder.parent.resolve() in bundled else "user"
        try:
            manifest = open_model(folder, verify=False).manifest
        except ModelError as problem:
            table.add_row(name, "damaged", "", "", f"{origin}: {problem.message}")
            continue
        size = sum((folder / file).stat().st_size for file in manifest.files if (folder / file).is_file())
        table.add_row(name, manifest.version, manifest.licence, f"{size / 1e6:.1f} MB", origin)
    Console(highlight=False, markup=False).print(table)


def verify_models(names: list[str]) -> None:
    """Check every file of these models (all, when none is named) against its SHA-256. Raises ModelError."""
    from rau.models.store import find_model, known_models, open_model

    folders = [(Path(name).name, find_model(name)) for name in names] or list(known_models().items())
    if not folders:
        raise ModelError("No model is on this computer", "Install RAUSlicer again")
    problems = []
    for name, folder in folders:
        try:
            model = open_model(folder)
        except ModelError as problem:
            problems.append(problem)
            continue
        print(f"{name} {model.manifest.version}: {len(model.manifest.files)} files as they should be")
    if problems:
        others = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ModelError(problems[0].message + others, problems[0].hint)
