"""DICOM SEG through highdicom, with or without the DICOM series that was segmented."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rau
from rau.errors import InputError
from rau.volume.dicom import read_header
from rau.volume.labels import values_of
from rau.volume.terminology import ANATOMICAL_STRUCTURE, TISSUE, Code, Terminology, parsed
from rau.volume.volume import LabelMap, Structure, Volume

_NEEDED = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
_PARAMETERS_LIMIT = 8000


def seg_writer(
    labels: LabelMap, image: Volume | None, provenance: dict[str, Any], source: Sequence[Path]
) -> Callable[[Path], None]:
    """What writes the SEG to a path; everything that can fail for the user's input fails here. Raises InputError."""
    present = values_of(labels.array)
    if not present:
        raise InputError("An empty segmentation cannot be written as DICOM SEG", "Write .seg.nrrd or .nii.gz instead")
    headers = _source_headers(source)
    standalone = not headers
    if standalone:
        headers = [_header_of_nothing(labels, image)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = _segmentation(labels, present, provenance, headers)
        except (ValueError, TypeError, AttributeError) as error:  # whose text may quote the header, the patient's name
            raise InputError(
                f"No DICOM SEG can be made for this series: its headers are unusual ({type(error).__name__})",
                "Write .seg.nrrd or .nii.gz instead",
            ) from None
    if standalone:
        _forget_source(dataset)

    def write(temporary: Path) -> None:
        dataset.save_as(temporary)

    return write


def _segmentation(labels: LabelMap, present: list[int], provenance: dict[str, Any], headers: list[Any]) -> Any:
    import highdicom as hd

    number_of = np.zeros(max(present) + 1, dtype=np.uint8 if len(present) < 256 else np.uint16)
    number_of[present] = np.arange(1, len(present) + 1)
    volume = hd.Volume(
        number_of[labels.array],
        labels.geometry.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=headers[0].FrameOfReferenceUID,
    )
    algorithm = _algorithm(provenance)
    return hd.seg.Segmentation(
        source_images=headers,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, labels.structure(value), algorithm) for number, value in enumerate(present, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=900,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="RAUSlicer",
        manufacturer_model_name="RAUSlicer",
        software_versions=rau.__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Segmented from a reference",
        series_description="Segmentation from reference",
    )


def _algorithm(provenance: dict[str, Any]) -> Any:
    import highdicom as hd
    from pydicom.sr.coding import Code as DicomCode

    plain = {key: str(value) for key, value in provenance.items() if isinstance(value, (str, int, float, bool))}
    kept: dict[str, str] = {}
    for key, value in plain.items():
        if sum(len(k) + len(v) + 2 for k, v in kept.items()) + len(key) + len(value) < _PARAMETERS_LIMIT:
            kept[key] = value
    return hd.AlgorithmIdentificationSequence(
        name="RAUSlicer",
        family=DicomCode("123110", "DCM", "Artificial Intelligence"),
        version=rau.__version__,
        parameters=kept or None,
    )


def _description(number: int, structure: Structure, algorithm: Any) -> Any:
    import highdicom as hd
    from highdicom.color import CIELabColor

    codes = parsed(structure.terminology) or Terminology(ANATOMICAL_STRUCTURE, TISSUE)
    red, green, blue = (round(255 * min(max(channel, 0.0), 1.0)) for channel in structure.color)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:64],
        segmented_property_category=_coded(codes.category),
        segmented_property_type=_coded(codes.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[_coded(codes.region)] if codes.region else None,
        display_color=CIELabColor.from_rgb(red, green, blue),
        tracking_id=f"RAUSlicer segment {number}",
        tracking_uid=hd.UID(),
    )
    if codes.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(codes.modifier)]
    if codes.region and codes.region_modifier:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_coded(codes.region_modifier)]
    return description


def _coded(code: Code) -> Any:
    from highdicom.sr.coding import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning[:64])


def _source_headers(source: Sequence[Path]) -> list[Any]:
    """Headers of the series, or none when it does not carry the identifiers that a reference to it needs."""
    headers: list[Any] = [header for header in map(read_header, source) if header is not None]
    if len(headers) < len(source):
        raise InputError("The DICOM series of the target cannot be read any more", "Check that its files are in place")
    if not all(header.get(keyword) for header in headers for keyword in _NEEDED):
        return []
    for header in headers:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
    return headers


def _header_of_nothing(labels: LabelMap, image: Volume | None) -> Any:
    """An image header that is never written: highdicom needs one; the SEG does not refer to it."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage, generate_uid

    geometry = labels.geometry
    header = Dataset()
    for keyword in _NEEDED:
        setattr(header, keyword, generate_uid())
    for keyword in _MAY_BE_EMPTY:
        setattr(header, keyword, "")
    header.SOPClassUID = CTImageStorage
    header.Modality = "CT" if image is None or not image.modality else image.modality
    header.Rows, header.Columns = geometry.shape[1], geometry.shape[2]
    header.PixelSpacing = [geometry.spacing[1], geometry.spacing[2]]
    header.SliceThickness = geometry.spacing[0]
    direction = np.asarray(geometry.direction)
    header.ImageOrientationPatient = [*direction[:, 2].tolist(), *direction[:, 1].tolist()]
    header.ImagePositionPatient = list(geometry.origin)
    return header


def _forget_source(dataset: Any) -> None:
    """Take out every reference to the header of `_header_of_nothing`."""
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in dataset.get(keyword) or ():
            if "DerivationImageSequence" in group:
                del group.DerivationImageSequence
