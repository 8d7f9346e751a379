"""The report of a case on one page of HTML: pictures, structures, trust, descriptions. No script, nothing from outside.

Of the patient it knows nothing: voxels, the grid, and the names, colours and codes of structures are all it is given.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import rau
from rau.errors import InputError
from rau.export.writing import check_writable, replaced
from rau.volume.labels import values_of
from rau.volume.volume import LabelMap, Structure, Volume

LIGHTS = {
    "green": ("\u25cf", "good"),
    "amber": ("\u25b2", "check"),
    "red": ("\u25a0", "doubtful"),
    "absent": ("\u2013", "not found"),
    "": ("\u00b7", "not judged"),
}
STYLE = """
@page { size: A4; margin: 14mm }
body { font: 10pt/1.4 system-ui, sans-serif; color: #1c1f24; max-width: 190mm; margin: 8mm auto; padding: 0 4mm }
h1 { font-size: 15pt; margin: 0 0 1mm } h2 { font-size: 11pt; margin: 5mm 0 1mm }
.limits { border: 1px solid #d0342c; color: #a1211b; padding: 1mm 3mm; font-weight: 600 }
img { max-width: 100%; max-height: 105mm; border-radius: 2mm } p { margin: 1mm 0 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 1mm 3mm 1mm 0;
border-bottom: 1px solid #d8dbe0; vertical-align: top } td.number, th.number { text-align: right }
.swatch { display: inline-block; width: 3mm; height: 3mm; margin-right: 2mm; border: 1px solid #888 }
.green { color: #1d7a43 } .amber { color: #9a5b00 } .red { color: #b3261e } .absent { color: #666 }
footer { margin-top: 5mm; color: #666; font-size: 8.5pt }
"""


@dataclass(frozen=True)
class Trusted:
    """What a run said of a structure, by name. light: "green", "amber", "red", "absent" or "" (not judged).

    expected, low, high: Dice, 0 to 1. broken: what is odd, in words. voxels: of the run's own result, by which later
    corrections are known; None: not known.
    """

    name: str
    light: str = ""
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    broken: Sequence[str] = ()
    voxels: int | None = None


def write_page(
    image: Volume,
    labels: LabelMap,
    path: str | os.PathLike[str],
    *,
    trust: Sequence[Trusted] = (),
    level: float | None = None,
    warnings: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report and return its path; whole or not at all.

    labels: on the grid of `image`, as they are now, corrections included. level: share of cases in which the truth lies
    between low and high. provenance: of the run; its versions are told. Raises InputError: an ending other than .html,
    a place that cannot be written, another grid.
    """
    output = Path(path).expanduser()
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"The report {output.name} is an HTML file", "Let its name end in .html")
    check_writable(output)
    text = page_of(image, labels, trust, level, warnings, provenance or {})
    with replaced(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def page_of(
    image: Volume,
    labels: LabelMap,
    trust: Sequence[Trusted],
    level: float | None,
    warnings: Sequence[str],
    provenance: Mapping[str, Any],
) -> str:
    """The page as text."""
    from rau.description import describe

    counts = np.bincount(labels.array.ravel(), minlength=1)
    known = {one.name.strip().lower(): one for one in trust}
    present = set(values_of(labels.array))
    rows = [
        _row(one, known.pop(one.name.strip().lower(), None), int(counts[one.value]), image)
        for one in labels.structures
        if one.value in present
    ]
    rows += [_absent_row(one) for one in known.values() if one.light == "absent"]
    said = "".join(f"<p>{escape(one.text)}</p>" for one in describe(image, labels))
    told = "".join(f"<li>{escape(one)}</li>" for one in warnings)
    interval = f"; in brackets where the truth lies in {round(100 * level)} of 100 cases" if level is not None else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Segmentation report</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{STYLE}</style></head><body>
<h1>Segmentation report</h1>
<p>{escape(_of_what(image))}</p>
<p class="limits">For research. Not for clinical use. Every slice has to be checked by a person.</p>
<h2>Pictures</h2>
<img alt="Slices with the structures outlined" src="data:image/png;base64,{_picture(image, labels)}">
<h2>Structures</h2>
<table><tr><th>Structure<th>Trust<th>Expected Dice<th class="number">Volume<th>Remarks</tr>
{"".join(rows)}</table>
<p>Expected Dice: agreement with a careful reader, 0 to 1, as the run estimated it{interval}.</p>
{f"<h2>Warnings</h2><ul>{told}</ul>" if told else ""}
<h2>Description</h2>
{said}
<footer>{escape(_made_by(provenance))}</footer>
</body></html>
"""


def _of_what(image: Volume) -> str:
    grid = image.geometry
    size = " x ".join(str(n) for n in grid.shape)
    unit = f", {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm" if image.spacing_known else ""
    return f"{image.modality or 'Image'}, {size} voxels (slices, rows, columns){unit}"


def _row(structure: Structure, known: Trusted | None, voxels: int, image: Volume) -> str:
    sign, word = LIGHTS[known.light] if known else ("\u00b7", "not of the run")
    light = known.light if known else ""
    remarks = [one.rstrip(".") for one in known.broken] if known else []
    if known is not None and known.voxels is not None and known.voxels != voxels:
        remarks.append("corrected since the run; trust and expected Dice are of the run's own result")
    swatch = "#" + "".join(f"{round(255 * min(1.0, max(0.0, c))):02x}" for c in structure.color)
    volume = f"{voxels} voxels"
    if image.spacing_known and min(image.geometry.shape) > 1:
        millilitres = voxels * float(np.prod(image.geometry.spacing)) / 1000
        volume = f"{millilitres:.3g} ml" if millilitres < 100 else f"{millilitres:.0f} ml"
    return (
        f'<tr><td><span class="swatch" style="background:{swatch}"></span>{escape(structure.name)}'
        f'<td class="{light}">{sign} {word}<td>{_expected(known)}<td class="number">{volume}'
        f"<td>{escape('; '.join(remarks))}</tr>\n"
    )


def _absent_row(known: Trusted) -> str:
    sign, word = LIGHTS["absent"]
    return f'<tr><td>{escape(known.name)}<td class="absent">{sign} {word}<td><td><td></tr>\n'


def _expected(known: Trusted | None) -> str:
    if known is None or known.expected is None:
        return ""
    if known.low is None or known.high is None:
        return f"{known.expected:.2f}"
    return f"{known.expected:.2f} ({known.low:.2f} to {known.high:.2f})"


def _made_by(provenance: Mapping[str, Any]) -> str:
    versions = provenance.get("versions")
    model = versions.get("model") if isinstance(versions, Mapping) else None
    name = str(model.get("name", "")) if isinstance(model, Mapping) else ""
    made = f"RAUSlicer {rau.__version__}, {date.today().isoformat()}"
    return f"{made}, model {name}" if name else made


def _picture(image: Volume, labels: LabelMap) -> str:
    """The overlay, base64."""
    from rau.export.overlay import overlay_png

    with tempfile.TemporaryDirectory(prefix="rau-page-") as folder:
        return base64.b64encode(overlay_png(image, labels, Path(folder) / "o.png").read_bytes()).decode()
