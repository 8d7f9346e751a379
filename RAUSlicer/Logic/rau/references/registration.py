"""A reference laid onto the target by registration: the spatial prior, and slices that lie where the target's do.

Affine (Mattes mutual information) then symmetric demons, both by SimpleITK, from centre on centre. Works on canonical
8-bit volumes in index space times spacing: where two patients lay in their scanners says nothing about their anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

SMALLEST = 6  # voxels along each axis; below, a volume is not registered
LEVELS = ((12_000, 60), (80_000, 60), (300_000, 40))  # voxels at most, demons iterations
SAMPLES = 40_000  # of the affine metric
STRETCH = (0.7, 1.4)  # extents this alike are stretched onto each other before the affine search begins


@dataclass(frozen=True)
class Registered:
    """transform: SimpleITK, target point -> reference point. image: (S, R, C) uint8, labels: (S, R, C) uint16, both on
    the target's canonical grid. before, after: correlation of target and reference, without and with it."""

    transform: Any
    before: float
    after: float
    image: np.ndarray
    labels: np.ndarray
    _masks: Any
    _grid: Any

    @property
    def useful(self) -> bool:
        """Whether the registration made the two alike: better than before it, and alike at all."""
        return self.after > max(self.before, 0.3)

    def prior(self, value: int) -> np.ndarray:
        """(S, R, C) float32, 0 to 1: how much of each target voxel the registered structure covers."""
        import SimpleITK as sitk

        mask = soft_mask(self._masks, value)
        laid = sitk.GetArrayFromImage(sitk.Resample(mask, self._grid, self.transform, sitk.sitkLinear, 0.0))
        return np.clip(laid, 0, 1)  # the recursive filter overshoots by a thousandth


def can_register(target: np.ndarray, reference: np.ndarray) -> bool:
    """3-D grey volumes of at least SMALLEST voxels along each axis."""
    return target.ndim == reference.ndim == 3 and min(*target.shape, *reference.shape) >= SMALLEST


def register(
    target: np.ndarray,
    target_spacing: tuple[float, float, float],
    reference: np.ndarray,
    labels: np.ndarray,
    reference_spacing: tuple[float, float, float],
    shift: tuple[float, float, float] | None = None,
) -> Registered:
    """Lay `reference` with its `labels` onto `target`. Arrays canonical (S, R, C), images uint8; spacing in mm.

    shift: where to begin, mm in array order from centre on centre (reference minus target), when the volumes show
    different stretches of the body; None: centre on centre, stretched when their extents are alike.
    """
    import SimpleITK as sitk

    fixed, moving = as_image(target, target_spacing), as_image(reference, reference_spacing)
    masks = as_image(labels.astype(np.uint16), reference_spacing, sitk.sitkUInt16)
    start = beginning(fixed, moving, shift)
    affine = affine_search(fixed, moving, start)
    field = deformation(fixed, sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0))
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    image = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, both, sitk.sitkLinear, 0.0))
    plain = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, start, sitk.sitkLinear, 0.0))
    warped = sitk.GetArrayFromImage(sitk.Resample(masks, fixed, both, sitk.sitkNearestNeighbor, 0))
    return Registered(
        both,
        correlation(target, plain),
        correlation(target, image),
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        warped,
        masks,
        fixed,
    )


def as_image(array: np.ndarray, spacing: tuple[float, float, float], kind: int | None = None) -> sitk.Image:
    """(S, R, C) to a SimpleITK image at the origin, axes straight; float32 unless `kind` says otherwise."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(tuple(float(s) for s in spacing[::-1]))
    return sitk.Cast(image, sitk.sitkFloat32 if kind is None else kind)


def beginning(fixed: sitk.Image, moving: sitk.Image, shift: tuple[float, float, float] | None) -> sitk.AffineTransform:
    """Centre on centre; volumes of about the same extent are stretched onto each other, others moved by `shift`."""
    import SimpleITK as sitk

    begin = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    affine = sitk.AffineTransform(begin)
    extents = [
        (size * spacing, other_size * other_spacing)
        for size, spacing, other_size, other_spacing in zip(
            fixed.GetSize(), fixed.GetSpacing(), moving.GetSize(), moving.GetSpacing(), strict=True
        )
    ]
    ratios = [there / here for here, there in extents]
    if all(STRETCH[0] < ratio < STRETCH[1] for ratio in ratios):
        affine.SetMatrix(np.diag(ratios).ravel().tolist())
    elif shift is not None:
        affine.SetTranslation([t + float(s) for t, s in zip(affine.GetTranslation(), shift[::-1], strict=True)])
    return affine


def affine_search(fixed: sitk.Image, moving: sitk.Image, start: sitk.AffineTransform) -> sitk.AffineTransform:
    """The affine transform of most mutual information, from `start`. One thread and one seed: always the same."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, SAMPLES / fixed.GetNumberOfPixels()), 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    least = min(fixed.GetSize())
    method.SetShrinkFactorsPerLevel([min(4, max(1, least // 12)), min(2, max(1, least // 24))])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(sitk.AffineTransform(start), inPlace=False)
    try:
        return sitk.AffineTransform(sitk.CompositeTransform(method.Execute(fixed, moving)).GetNthTransform(0))
    except RuntimeError:  # ITK: too few samples overlap; the start is then as good as it gets
        return start


def deformation(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Displacements from coarse to fine by symmetric demons. Images on one grid. Returns a float64 vector image, mm."""
    import SimpleITK as sitk

    moving = sitk.HistogramMatching(moving, fixed)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetStandardDeviations(1.5)
    demons.SetSmoothUpdateField(True)
    demons.SetUpdateFieldStandardDeviations(1.0)
    field = None
    for voxels, iterations in LEVELS:
        here, there = coarse(fixed, voxels), coarse(moving, voxels)
        demons.SetNumberOfIterations(iterations)
        field = (
            demons.Execute(here, there) if field is None else demons.Execute(here, there, sitk.Resample(field, here))
        )
    return sitk.Cast(field, sitk.sitkVectorFloat64)


def coarse(image: sitk.Image, voxels: int) -> sitk.Image:
    """`image` smoothed and shrunk to at most about `voxels` voxels; no axis below SMALLEST."""
    import SimpleITK as sitk

    factors = [1, 1, 1]
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


def soft_mask(masks: sitk.Image, value: int) -> sitk.Image:
    """One structure as 0 to 1, its border softened over about a voxel."""
    import SimpleITK as sitk

    mask = sitk.Cast(sitk.Equal(masks, value), sitk.sitkFloat32)
    return sitk.SmoothingRecursiveGaussian(mask, [0.7 * s for s in masks.GetSpacing()])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation of two volumes; 0 where one is constant."""
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0
