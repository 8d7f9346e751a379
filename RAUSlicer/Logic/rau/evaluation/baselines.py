"""What a result is measured against: copying the reference's mask, and registration by two programs that are not ours.

All begin alike: both images in the canonical orientation, 8 bit, the reference stretched onto the target's grid.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.references.reference import Reference
from rau.references.registration import one_thread
from rau.volume.orientation import Orientation, canonical
from rau.volume.volume import LabelMap, Volume
from rau.volume.window import to_uint8

if TYPE_CHECKING:
    import SimpleITK as sitk

SMALLEST = 24  # voxels an axis: ConvexAdam's coarse grid needs at least four cells of six
THINNEST = 8  # voxels an axis of a volume: what smoothing and cubic splines need
SEED = 1
CELLS = 8  # of the B-spline's grid along each axis at its finest level: spacing of an eighth of the extent
AFFINE_SAMPLES, SPLINE_SAMPLES = 20_000, 8_000  # positions where mutual information is taken, at random by a seed
AFFINE_BLUR, SPLINE_BLUR = (2.0, 1.0), (4.0, 2.0, 0.5)  # Gaussian sigma, voxels, a level each from coarse to fine


@dataclass(frozen=True)
class Baseline:
    """A way to a label map that needs no model.

    method: (reference, target) -> label map on the target's grid. edition: to be raised when the method changes.
    packages: what else decides its result. modules: imported by the method. volumes_only: grey 3-D images alone.
    """

    name: str
    title: str
    method: Callable[[Reference, Volume], LabelMap]
    edition: int = 1
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    volumes_only: bool = False

    @property
    def version(self) -> str:
        """Changes whenever results of the baseline may change: "bspline 1, SimpleITK 2.5.7"."""
        return ", ".join([f"{self.name} {self.edition}", *(f"{one} {_version(one)}" for one in self.packages)])

    def load(self) -> None:
        """Import what the method needs, so that a clock set after it times the work alone. Raises ImportError."""
        for one in self.modules:
            importlib.import_module(one)

    def takes(self, target: Volume) -> bool:
        """Whether the method is meant for such an image."""
        return not self.volumes_only or (target.array.shape[0] > 1 and not target.is_colour)


def copied(reference: Reference, target: Volume) -> LabelMap:
    """The reference's label map on the target's grid, each voxel at the same relative position in its volume.

    Both are brought to the canonical orientation first; nearest voxel.
    """
    labels, _, _ = canonical(reference.labels.array, reference.labels.geometry)
    _, grid, orientation = canonical(target.array, target.geometry)
    return _on_target(stretched(labels, grid.shape), target, orientation, reference)


def convex_adam(reference: Reference, target: Volume) -> LabelMap:
    """The reference's label map moved by ConvexAdam with MIND features (Siebert 2021), on the CPU, default settings.

    Grey volumes only; axes shorter than 24 voxels are padded by their border.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt
    from scipy.ndimage import map_coordinates

    both = _beginning(reference, target)
    shape = both.fixed.shape
    pad = [(0, max(0, SMALLEST - n)) for n in shape]
    pair = [np.pad(a, pad, mode="edge") for a in (both.fixed, both.moving)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shift = convex_adam_pt(*pair, dtype=torch.float32, device=torch.device("cpu"))
    inside = shift[tuple(slice(0, n) for n in shape)]
    where = np.indices(shape, dtype=np.float64) + np.moveaxis(inside, 3, 0)
    found = map_coordinates(both.labels, where, order=0, mode="nearest")
    return _on_target(found, target, both.orientation, reference)


def bspline(reference: Reference, target: Volume) -> LabelMap:
    """The reference's label map moved by SimpleITK: affine, then a B-spline from coarse to fine; nearest voxel.

    Mattes mutual information at random positions with a fixed seed. One thread: ITK adds up what several threads found
    in the order in which they end, and results would differ from run to run. 2-D or 3-D; colours as their grey mean.
    """
    import SimpleITK as sitk

    both = _beginning(reference, target)
    shape = both.fixed.shape
    pad = [(0, max(0, THINNEST - n) if shape[0] > 1 else 0) for n in shape]
    fixed, moving = (_image(np.pad(a, pad, mode="edge"), both.spacing) for a in (both.fixed, both.moving))
    labels = _image(np.pad(both.labels.astype(np.uint32), pad, mode="edge"), both.spacing)
    with one_thread():
        affine = _affine(fixed, moving)
        moved = sitk.CompositeTransform([affine, _spline(fixed, moving, affine)])
    found = sitk.GetArrayFromImage(sitk.Resample(labels, fixed, moved, sitk.sitkNearestNeighbor, 0))
    inside = found.reshape(np.add(shape, [more for _, more in pad]))[tuple(slice(0, n) for n in shape)]
    return _on_target(inside.astype(both.labels.dtype), target, both.orientation, reference)


def stretched(array: np.ndarray, shape: tuple[int, int, int], linear: bool = False) -> np.ndarray:
    """(S, R, C) resampled to `shape`, border on border; nearest voxel unless `linear`."""
    from scipy.ndimage import map_coordinates

    axes = [np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1) for n, m in zip(shape, array.shape, strict=True)]
    if not linear:
        return array[np.ix_(*(np.floor(axis + 0.5).astype(int).clip(0, m - 1) for axis, m in zip(axes, array.shape)))]
    return map_coordinates(array.astype(np.float32), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


@dataclass(frozen=True)
class _Beginning:
    """fixed, moving: target and stretched reference, (S, R, C) float32, 0 to 255. labels: the reference's, stretched.
    All canonical, on the target's grid. spacing: mm in array order."""

    fixed: np.ndarray
    moving: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]
    orientation: Orientation


def _beginning(reference: Reference, target: Volume) -> _Beginning:
    fixed, grid, orientation = canonical(_grey(target), target.geometry)
    image, _, _ = canonical(_grey(reference.image), reference.image.geometry)
    labels, _, _ = canonical(reference.labels.array, reference.labels.geometry)
    moving = stretched(image, grid.shape, linear=True)
    return _Beginning(fixed, moving, stretched(labels, grid.shape), grid.spacing, orientation)


def _grey(volume: Volume) -> np.ndarray:
    """(S, R, C) float32, 0 to 255: the window of the engine; colours by their mean."""
    array = to_uint8(volume)
    return (array.mean(axis=3) if volume.is_colour else array).astype(np.float32)


def _image(array: np.ndarray, spacing: tuple[float, float, float]) -> sitk.Image:
    """A SimpleITK image at the origin, axes straight: of two axes where there is one slice."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array[0] if array.shape[0] == 1 else array))
    image.SetSpacing([float(s) for s in spacing[::-1]][: image.GetDimension()])
    return image


def _search(fixed: sitk.Image, blur: tuple[float, ...], samples: int) -> Any:
    """Mattes mutual information over a pyramid; no axis is shrunk below about 12 voxels."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    least, dims = min(fixed.GetSize()), fixed.GetDimension()
    shrink = [min(2**level, max(1, least // 12)) for level in reversed(range(len(blur)))]
    shares = [min(1.0, samples * factor**dims / fixed.GetNumberOfPixels()) for factor in shrink]
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(shares, SEED)
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel(blur)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """From centre on centre. Raises RuntimeError when ITK gives up."""
    import SimpleITK as sitk

    still = sitk.AffineTransform(fixed.GetDimension())
    centred = sitk.CenteredTransformInitializer(fixed, moving, still, sitk.CenteredTransformInitializerFilter.GEOMETRY)
    method = _search(fixed, AFFINE_BLUR, AFFINE_SAMPLES)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.AffineTransform(centred), inPlace=False)
    return method.Execute(fixed, moving)


def _spline(fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform) -> sitk.Transform:
    """Behind the affine: grids of 2, 4 and 8 cells an axis (fewer on thin ones). Raises RuntimeError: ITK gives up."""
    import SimpleITK as sitk

    factors = [2**level for level in range(len(SPLINE_BLUR))]
    cells = [max(1, min(CELLS, n // 4) // factors[-1]) for n in fixed.GetSize()]
    method = _search(fixed, SPLINE_BLUR, SPLINE_SAMPLES)
    method.SetMovingInitialTransform(affine)
    method.SetInitialTransformAsBSpline(sitk.BSplineTransformInitializer(fixed, cells, 3), True, factors)
    method.SetOptimizerAsGradientDescentLineSearch(5.0, 20, 1e-4, 5)
    return method.Execute(fixed, moving)


def _on_target(array: np.ndarray, target: Volume, orientation: Orientation, reference: Reference) -> LabelMap:
    return LabelMap(orientation.back(array), target.geometry, reference.structures)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


COPYING = Baseline("copying", "copying", copied)
BSPLINE = Baseline("bspline", "B-spline", bspline, 1, ("SimpleITK",), ("SimpleITK", "scipy.ndimage"))
CONVEX_ADAM = Baseline(
    "convex_adam",
    "ConvexAdam",
    convex_adam,
    1,
    ("convexAdam", "torch"),
    ("torch", "convexAdam.convex_adam_MIND", "scipy.ndimage"),
    volumes_only=True,
)
BASELINES = (COPYING, BSPLINE, CONVEX_ADAM)
