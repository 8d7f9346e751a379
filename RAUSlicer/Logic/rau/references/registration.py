"""A reference laid onto the target by registration: the spatial prior, and slices that lie where the target's do.

Volumes in 3-D, pictures (one slice) in 2-D. Affine from centre on centre (Mattes mutual information, by SimpleITK),
then a deformation (`rau.references.deformation`). On canonical 8-bit volumes in index space times spacing: where two
patients lay in their scanners says nothing about their anatomy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.references.deformation import SMALLEST, coarse, deformation

if TYPE_CHECKING:
    import SimpleITK as sitk

SAMPLES, FLAT_SAMPLES = 40_000, 8_000  # of the affine metric, of volumes and of pictures
AFFINE_VOXELS, THICK_VOXELS = 200_000, 40_000  # at most, of volumes in the affine search; of thick slices fewer
THICK = 2.0  # spacing across the slices, of that in them, from which slices are thick
FEW = 24  # slices, below which cubes may be thick slices of unknown spacing: they stay as they are
PLACES = 64  # points along each axis at which `Registered.places` is asked for
SHIFT_PIXELS = 10_000  # at most, when one image is moved over the other
TURNS = (-15.0, 15.0, -30.0, 30.0, -45.0, 45.0)  # of volumes, degrees in the plane of the slices
TURNED = 0.1  # by which a turn must make two volumes more alike
NEAR = 0.04  # of the extent: a shift below is left to the affine search
ELSEWHERE = 0.05  # by which the correlation must grow for an image to lie elsewhere
KEPT = 128_000_000  # bytes of laid masks that one registration keeps
WORKED_OUT = 2_000_000  # voxels up to which the transform is kept as a field, of 24 bytes a voxel
STRETCH = (0.7, 1.4)  # extents this alike are stretched onto each other before the affine search begins


@dataclass(frozen=True)
class Registered:
    """transform: SimpleITK, target point -> reference point. image: (S, R, C) uint8, labels: (S, R, C) uint16, both on
    the target's canonical grid. before, after: correlation of target and reference, without and with it. _way: the
    transform as `on_grid` gives it."""

    transform: Any
    before: float
    after: float
    image: np.ndarray
    labels: np.ndarray
    _masks: Any
    _grid: Any
    _way: Any
    _laid: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def useful(self) -> bool:
        """Whether the registration made the two alike: better than before it, and alike at all."""
        return self.after > max(self.before, 0.3)

    def prior(self, value: int) -> np.ndarray:
        """(S, R, C) float32, 0 to 1: how much of each target voxel the registered structure covers. Not to be written
        to: it is kept for the next time, as long as all that is kept stays below `KEPT`.
        """
        if value in self._laid:
            return self._laid[value]
        laid = self._lay(value)
        if sum(one.nbytes for one in self._laid.values()) + laid.nbytes <= KEPT:
            laid.flags.writeable = False
            self._laid[value] = laid
        return laid

    def _lay(self, value: int) -> np.ndarray:
        import SimpleITK as sitk

        mask = soft_mask(self._masks, value)
        laid = sitk.GetArrayFromImage(sitk.Resample(mask, self._grid, self._way, sitk.sitkLinear, 0.0))
        return np.clip(laid, 0, 1).reshape(self.image.shape)  # the recursive filter overshoots by a thousandth

    def places(self) -> np.ndarray:
        """(s, r, c, 3) float32: where points of the target lie in the reference, mm from its middle, in array order.

        The points are evenly spaced from the first to the last voxel along each axis, at most PLACES of them.
        """
        import SimpleITK as sitk

        flat = 3 - self._grid.GetDimension()
        counts = [min(n, PLACES) for n in self.image.shape]
        ends = [(n - 1) * s for n, s in zip(self.image.shape[flat:], self._grid.GetSpacing()[::-1], strict=True)]
        steps = [end / (n - 1) if n > 1 else 1.0 for end, n in zip(ends, counts[flat:], strict=True)]
        field = sitk.TransformToDisplacementField(
            self.transform, sitk.sitkVectorFloat64, counts[flat:][::-1], [0.0] * len(steps), steps[::-1]
        )
        points = np.stack(np.meshgrid(*(np.arange(n) for n in counts[flat:]), indexing="ij"), -1) * steps
        moved = points + sitk.GetArrayFromImage(field).reshape(points.shape)[..., ::-1]
        size, spacing = self._masks.GetSize()[::-1], self._masks.GetSpacing()[::-1]
        middle = [(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)]
        found = np.zeros((*counts, 3), np.float32)
        found[..., flat:] = (moved - middle).reshape(*counts, len(steps))
        return found


def can_register(target: np.ndarray, reference: np.ndarray) -> bool:
    """3-D grey volumes of at least SMALLEST voxels along each axis; pictures of any kind, of at least that size."""
    flat = target.shape[0] == reference.shape[0] == 1
    shapes = (target.shape[1:3], reference.shape[1:3]) if flat else (target.shape, reference.shape)
    grey = target.ndim == reference.ndim == 3
    return (flat or grey) and min(*shapes[0], *shapes[1]) >= SMALLEST


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """All of ITK on one thread: it adds up what several threads found in the order in which they end, and results
    would differ from run to run. The method's own setting does not reach every filter that it runs."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def register(
    target: np.ndarray,
    target_spacing: tuple[float, float, float],
    reference: np.ndarray,
    labels: np.ndarray,
    reference_spacing: tuple[float, float, float],
    shift: tuple[float, float, float] | None = None,
) -> Registered:
    """Lay `reference` with its `labels` onto `target`. Arrays canonical (S, R, C), images uint8; spacing in mm.

    One slice is a picture, which may have colours (its grey mean is registered). shift: where to begin, mm in array
    order from centre on centre (reference minus target), when the volumes show different stretches of the body; None:
    centre on centre, stretched when their extents are alike.
    """
    import SimpleITK as sitk

    here, there = (a.mean(3) if a.ndim == 4 else a for a in (target, reference))
    fixed, moving = as_image(here, target_spacing), as_image(there, reference_spacing)
    masks = as_image(labels.astype(np.uint16), reference_spacing, sitk.sitkUInt16)
    start = beginning(fixed, moving, shift)
    with one_thread():
        affine = affine_search(fixed, moving, start)
        if fixed.GetDimension() == 3:  # a picture's deformation reaches as far by itself
            affine = elsewhere(fixed, moving, start, unless_worse(fixed, moving, start, affine))
    fields = deformation(fixed, sitk.Resample(moving, fixed, affine, sitk.sitkLinear, 0.0))
    both = sitk.CompositeTransform([affine, *map(sitk.DisplacementFieldTransform, fields)])
    way = on_grid(both, fixed)

    def laid(image: sitk.Image, transform: sitk.Transform, how: int) -> np.ndarray:
        found = sitk.GetArrayFromImage(sitk.Resample(image, fixed, transform, how, 0))
        return np.asarray(found).reshape(here.shape)

    image = laid(moving, way, sitk.sitkLinear)
    return Registered(
        both,
        correlation(here, laid(moving, start, sitk.sitkLinear)),
        correlation(here, image),
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        laid(masks, way, sitk.sitkNearestNeighbor),
        masks,
        fixed,
        way,
    )


def on_grid(transform: sitk.Transform, grid: sitk.Image) -> sitk.Transform:
    """The same at the voxels of `grid`, worked out once, not for every mask; of large grids `transform` itself."""
    import SimpleITK as sitk

    if grid.GetNumberOfPixels() > WORKED_OUT:
        return transform
    frame = (grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection())
    return sitk.DisplacementFieldTransform(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *frame))


def as_image(array: np.ndarray, spacing: tuple[float, float, float], kind: int | None = None) -> sitk.Image:
    """(S, R, C) to a SimpleITK image at the origin, axes straight; one slice to a 2-D image; float32 unless `kind`."""
    import SimpleITK as sitk

    flat = array.shape[0] == 1
    image = sitk.GetImageFromArray(np.ascontiguousarray(array[0] if flat else array))
    image.SetSpacing(tuple(float(s) for s in (spacing[1:] if flat else spacing)[::-1]))
    return sitk.Cast(image, sitk.sitkFloat32 if kind is None else kind)


def beginning(fixed: sitk.Image, moving: sitk.Image, shift: tuple[float, float, float] | None) -> sitk.AffineTransform:
    """Centre on centre; pictures, and volumes of about the same extent, are stretched onto each other, others moved."""
    import SimpleITK as sitk

    begin = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(fixed.GetDimension()), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    affine = sitk.AffineTransform(begin)
    extents = [
        (size * spacing, other_size * other_spacing)
        for size, spacing, other_size, other_spacing in zip(
            fixed.GetSize(), fixed.GetSpacing(), moving.GetSize(), moving.GetSpacing(), strict=True
        )
    ]
    ratios = [there / here for here, there in extents]
    if len(ratios) == 2 or all(STRETCH[0] < ratio < STRETCH[1] for ratio in ratios):
        affine.SetMatrix(np.diag(ratios).ravel().tolist())
    elif shift is not None:
        affine.SetTranslation([t + float(s) for t, s in zip(affine.GetTranslation(), shift[::-1])])
    return affine


def affine_search(fixed: sitk.Image, moving: sitk.Image, start: sitk.AffineTransform) -> sitk.AffineTransform:
    """The affine transform of most mutual information, from `start`; on one thread always the same."""
    import SimpleITK as sitk

    fixed, moving = searched(fixed), searched(moving)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    samples = FLAT_SAMPLES if fixed.GetDimension() == 2 else SAMPLES
    method.SetMetricSamplingPercentage(min(1.0, samples / fixed.GetNumberOfPixels()), 1)
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


def searched(image: sitk.Image) -> sitk.Image:
    """What the affine search sees: a picture as it is, a volume of so few voxels that they are about cubes.

    In thick slices of fine pixels the search follows the pixels, and stays where it began.
    """
    thick = max(image.GetSpacing()) >= THICK * min(image.GetSpacing())
    if image.GetDimension() == 2 or (not thick and min(image.GetSize()) < FEW):
        return image
    return coarse(image, THICK_VOXELS if thick else AFFINE_VOXELS)


def elsewhere(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.AffineTransform, affine: sitk.AffineTransform
) -> sitk.AffineTransform:
    """`affine`, or where the two lie apart or turned the affine found from where they fit best, turned and moved.

    That one must make them clearly more alike (ELSEWHERE): a search from centre on centre stays near it.
    """
    begin = best_start(fixed, moving, start)
    if begin is None:
        return affine
    other = affine_search(fixed, moving, begin)
    one, two = (likeness(fixed, moving, found) for found in (affine, other))
    return other if two > one + ELSEWHERE else affine


def unless_worse(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.AffineTransform, affine: sitk.AffineTransform
) -> sitk.AffineTransform:
    """`affine`, or `start` if that makes two volumes more alike: of narrow crops the search sees too little overlap.

    With opposite contrasts, which correlate below 0, the search is believed. Pictures lose by this (validation pairs).
    """
    return start if likeness(fixed, moving, start) > abs(likeness(fixed, moving, affine)) else affine


def likeness(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Correlation of `fixed` and `moving` laid onto it."""
    import SimpleITK as sitk

    laid = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)
    return correlation(sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(laid))


def best_start(fixed: sitk.Image, moving: sitk.Image, start: sitk.AffineTransform) -> sitk.AffineTransform | None:
    """`start` after the turn and shift by which two volumes correlate best; None: near `start` itself."""
    import SimpleITK as sitk

    here = coarse(fixed, SHIFT_PIXELS)
    middle = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    best: tuple[float, float, np.ndarray] = (-1.0, 0.0, np.zeros(len(middle)))
    for angle in (0.0, *TURNS):
        turned = after(start, turn(angle, len(middle)), middle, np.zeros(len(middle)))
        likeness, step = best_shift(here, sitk.Resample(coarse_like(moving, here), here, turned, sitk.sitkLinear, 0.0))
        if likeness > best[0] + (TURNED if angle else 0.0):
            best = (likeness, angle, step)
    _, angle, step = best
    away = max(abs(s) / (n * mm) for s, n, mm in zip(step, fixed.GetSize(), fixed.GetSpacing()))
    return after(start, turn(angle, len(middle)), middle, step) if angle or away >= NEAR else None


def turn(angle: float, dimension: int) -> np.ndarray:
    """A turn by `angle` degrees in the plane of the first two axes (columns and rows); (dimension, dimension)."""
    matrix, radians = np.eye(dimension), np.deg2rad(angle)
    matrix[:2, :2] = [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    return matrix


def after(
    start: sitk.AffineTransform, turned: np.ndarray, middle: np.ndarray, step: np.ndarray
) -> sitk.AffineTransform:
    """A point of the target goes back by `step`, is turned about `middle`, and goes where `start` sends it."""
    import SimpleITK as sitk

    found, centre = sitk.AffineTransform(start), np.array(start.GetCenter())
    size = len(middle)
    found.SetMatrix((np.array(start.GetMatrix()).reshape(size, size) @ turned).ravel().tolist())
    sent = np.array(start.TransformPoint((turned @ (centre - step - middle) + middle).tolist()))
    found.SetTranslation((sent - centre).tolist())
    return found


def coarse_like(image: sitk.Image, other: sitk.Image) -> sitk.Image:
    """`image`, smoothed as far as the voxels of `other` are larger than its own."""
    import SimpleITK as sitk

    for axis, (mine, theirs) in enumerate(zip(image.GetSpacing(), other.GetSpacing())):
        if theirs > 1.5 * mine and image.GetSize()[axis] >= SMALLEST:
            image = sitk.RecursiveGaussian(image, 0.5 * theirs, direction=axis)
    return image


def best_shift(fixed: sitk.Image, moving: sitk.Image) -> tuple[float, np.ndarray]:
    """(correlation, mm along x, y[, z]) by which the moving image is to be moved to correlate best with the fixed one.

    Both on one grid, of few pixels.
    """
    import SimpleITK as sitk
    from scipy import fft

    a, b = (array - array.mean() for array in map(sitk.GetArrayFromImage, (fixed, moving)))
    shape = [fft.next_fast_len(2 * n) for n in a.shape]
    product = fft.irfftn(fft.rfftn(a, shape) * np.conj(fft.rfftn(b, shape)), shape)
    peak = np.array(np.unravel_index(int(product.argmax()), product.shape))
    peak = np.where(peak > np.array(shape) / 2, peak - np.array(shape), peak)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(product.max()) / norm if norm else 0.0, np.asarray(peak[::-1] * np.array(fixed.GetSpacing()))


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
