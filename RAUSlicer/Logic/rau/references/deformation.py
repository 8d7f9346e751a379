"""From affinely laid to laid: large displacements by a discrete search, then symmetric demons (SimpleITK).

The demons follow brightness and do not get past what lies between; the search tries displacements of a third of the
image and more, by self-similarity. Images on one grid, pictures (2-D) and volumes (3-D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

    from rau.references.discrete import Search

SMALLEST = 6  # voxels along each axis; below, a volume is not registered
LEVELS = ((80_000, 60), (300_000, 40))  # voxels at most, demons iterations
FLAT_LEVELS = ((4_000, 30), (16_000, 25), (66_000, 12))  # the same for pictures: pixels
SEARCHED, FLAT_SEARCHED = (100_000,), (4_000, 16_000)  # voxels and pixels at most, of the discrete searches


def deformation(fixed: sitk.Image, moving: sitk.Image) -> list[sitk.Image]:
    """Displacement fields (float64 vectors, mm): a point of the target goes through the last one first, and by all of
    them to where its like lies in the affinely laid reference. Images on one grid.
    """
    fields: list[sitk.Image] = []
    for voxels in FLAT_SEARCHED if fixed.GetDimension() == 2 else SEARCHED:
        fields.append(displaced(fixed, through(fields, moving), voxels))
    return [*fields, by_demons(fixed, through(fields, moving))]


def through(fields: list[sitk.Image], moving: sitk.Image) -> sitk.Image:
    """`moving` laid by the fields, on its own grid."""
    import SimpleITK as sitk

    steps = [sitk.DisplacementFieldTransform(sitk.Image(one)) for one in fields]
    return sitk.Resample(moving, moving, sitk.CompositeTransform(steps), sitk.sitkLinear, 0.0) if steps else moving


def displaced(fixed: sitk.Image, moving: sitk.Image, voxels: int) -> sitk.Image:
    """Displacements, mm, by `rau.references.discrete` on images of at most about `voxels` voxels.

    On that coarse grid and a voxel more on every side, so that those at the border go on beyond it.
    """
    import SimpleITK as sitk

    from rau.references.discrete import displacements

    here, there = coarse(fixed, voxels), coarse(moving, voxels)
    found = displacements(sitk.GetArrayFromImage(here), sitk.GetArrayFromImage(there), search_of(here))
    steps = found[..., ::-1].astype(np.float64) * here.GetSpacing()
    more = [(1, 1)] * here.GetDimension()
    field = sitk.GetImageFromArray(np.pad(steps, [*more, (0, 0)], mode="edge"), isVector=True)
    field.SetSpacing(here.GetSpacing())
    field.SetOrigin([o - s for o, s in zip(here.GetOrigin(), here.GetSpacing(), strict=True)])
    return field


def search_of(image: sitk.Image) -> Search:
    from rau.references.discrete import Search

    return Search(radius=2, brightness=0.5) if image.GetDimension() == 2 else Search(cell=6, reach=4)


def by_demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Displacements from coarse to fine by symmetric demons. Images on one grid. Returns a float64 vector image, mm."""
    import SimpleITK as sitk

    moving = sitk.HistogramMatching(moving, fixed)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetStandardDeviations(1.0)  # of the field; its changes are not smoothed besides
    field = None
    for voxels, iterations in FLAT_LEVELS if fixed.GetDimension() == 2 else LEVELS:
        here, there = coarse(fixed, voxels), coarse(moving, voxels)
        demons.SetNumberOfIterations(iterations)
        field = (
            demons.Execute(here, there) if field is None else demons.Execute(here, there, sitk.Resample(field, here))
        )
    return sitk.Cast(field, sitk.sitkVectorFloat64)


def coarse(image: sitk.Image, voxels: int) -> sitk.Image:
    """`image` smoothed and shrunk to at most about `voxels` voxels; no axis below SMALLEST."""
    import SimpleITK as sitk

    factors = [1] * image.GetDimension()
    size = list(image.GetSize())
    while np.prod([n // f for n, f in zip(size, factors, strict=True)]) > voxels:
        steps = zip(size, factors, image.GetSpacing(), strict=True)
        physical = [s * f if n // (f + 1) >= SMALLEST else np.inf for n, f, s in steps]
        finest = int(np.argmin(physical))
        if not np.isfinite(physical[finest]):
            break
        factors[finest] += 1
    for axis, factor in enumerate(factors):
        if factor > 1:
            image = sitk.RecursiveGaussian(image, 0.5 * factor * image.GetSpacing()[axis], direction=axis)
    return sitk.Shrink(image, factors)
