"""What RAUSlicer offers in Slicer's module Sample Data: synthetic patients, made here, and a real pair, downloaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import slicer

from RAUSlicerLib.problems import Problem
from RAUSlicerLib.try_it import sample_nodes

CATEGORY = "RAUSlicer"
SYNTHETIC, BRAINS = "Two synthetic patients (CT)", "Two brain tumours (MR)"
# Example data of PyRadiomics 3.0.1 (BSD-3-Clause, https://github.com/AIM-Harvard/pyradiomics): T1 with contrast of two
# people with a brain tumour, drawn by hand. Checksums: of the files in its published source package.
FOLDER = "https://raw.githubusercontent.com/AIM-Harvard/pyradiomics/v3.0.1/data/"
FILES = (
    ("brain1_image.nrrd", "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf"),
    ("brain1_label.nrrd", "ae6d8e6b84f7e99d68c210ee2fa6aaaefa0b2df0a84f55efca4feebe2b216059"),
    ("brain2_image.nrrd", "d35a1c6a3e1eb72bae97c5515472fbe057fb38ee8e1e199215d1c3c6f292332e"),
)
NODES = ("Brain 1", "Brain 1 tumour", "Brain 2")
KINDS = ("VolumeFile", "SegmentationFile", "VolumeFile")
TUMOUR = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^108369006^Neoplasm~^^~Anatomic codes - DICOM master list~SCT^12738006^Brain~^^"
)


def register(icons: str) -> None:
    """Offer the samples, where Slicer has the module. icons: the folder with their pictures."""
    try:
        from SampleData import SampleDataLogic
    except ImportError:
        return
    offer = SampleDataLogic.registerCustomSampleDataSource
    made_here = ["RAUSlicer:synthetic"] * 3  # no address: nothing is downloaded
    offer(
        category=CATEGORY,
        sampleName=SYNTHETIC,
        uris=made_here,
        fileNames=["patient-a.nrrd", "patient-a.seg.nrrd", "patient-b.nrrd"],
        nodeNames=["Sample patient A", "Sample patient A organs", "Sample patient B"],
        thumbnailFileName=str(Path(icons) / "SamplePatients.png"),
        customDownloader=patients,
    )
    offer(
        category=CATEGORY,
        sampleName=BRAINS,
        uris=[FOLDER + name for name, _digest in FILES],
        fileNames=[f"pyradiomics-{name}" for name, _digest in FILES],
        nodeNames=list(NODES),
        checksums=[f"SHA256:{digest}" for _name, digest in FILES],
        loadFileType=list(KINDS),
        thumbnailFileName=str(Path(icons) / "SampleBrains.png"),
        customDownloader=brains,
    )


def patients(source: Any = None) -> list[Any]:
    """Make the two patients, or take those that are there. What goes wrong stands in the status bar and in the log."""
    try:
        return sample_nodes()
    except Problem as problem:
        logging.error("RAUSlicer: %s", problem)
        slicer.util.showStatusMessage(str(problem), 10000)
        return []


def brains(source: Any) -> list[Any]:
    """Download the pair, checked by its checksums, and put reference and segmentation together."""
    from SampleData import SampleDataLogic

    nodes = SampleDataLogic().downloadFromURL(
        uris=source.uris,
        fileNames=source.fileNames,
        nodeNames=source.nodeNames,
        checksums=source.checksums,
        loadFileTypes=source.loadFileType,
    )
    reference, segmentation, target = nodes
    for volume in (reference, target):
        volume.SetAttribute("DICOM.Modality", "MR")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    segment = segmentation.GetSegmentation().GetNthSegment(0)
    segment.SetName("tumour")
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), TUMOUR)
    segmentation.SetDisplayVisibility(False)
    return list(nodes)
