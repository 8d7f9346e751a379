"""A stand-in for Slicer's module Sample Data: what is registered, and "downloads" of files that a test laid ready."""

from __future__ import annotations

import hashlib
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import slicer

FILES: dict[str, Path] = {}  # address -> file, in place of the network
CHECKSUM = re.compile(r"SHA256:[0-9a-f]{64}")


@dataclass(frozen=True)
class SampleDataSource:
    sampleName: str
    uris: Sequence[str]
    fileNames: Sequence[str]
    nodeNames: Sequence[str]
    checksums: Sequence[str | None]
    loadFileType: Sequence[str]
    thumbnailFileName: str
    customDownloader: Callable[[Any], list[Any]] | None


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str = "",
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str = "",
        loadFileType: Any = "VolumeFile",
        checksums: Any = None,
    ) -> None:
        """All lists must be of one length, as in Slicer; the same one again is not added."""
        kinds = [loadFileType] * len(uris) if isinstance(loadFileType, str) else loadFileType
        sums = checksums or [None] * len(uris)
        if len({len(uris), len(fileNames), len(nodeNames), len(kinds), len(sums)}) != 1:
            raise ValueError("All fields of sample data source must have the same length")
        source = SampleDataSource(
            sampleName, uris, fileNames, nodeNames, sums, kinds, thumbnailFileName, customDownloader
        )
        known = slicer.modules.sampleDataSources.setdefault(category, [])
        if not any(one.sampleName == sampleName for one in known):
            known.append(source)

    def downloadFromURL(
        self, uris: Any, fileNames: Any, nodeNames: Any, checksums: Any, loadFileTypes: Any
    ) -> list[Any]:
        """Nodes of the files; a wrong checksum is an error, as in Slicer."""
        nodes = []
        for uri, _name, node_name, checksum, kind in zip(uris, fileNames, nodeNames, checksums, loadFileTypes):
            assert CHECKSUM.fullmatch(checksum), checksum
            if hashlib.sha256(FILES[uri].read_bytes()).hexdigest() != checksum.partition(":")[2]:
                raise ValueError("Checksum of the downloaded file is not as expected")
            load = slicer.util.loadSegmentation if kind == "SegmentationFile" else slicer.util.loadVolume
            node = load(str(FILES[uri]))
            node.SetName(node_name)
            nodes.append(node)
        return nodes


def install() -> None:
    """Make `import SampleData` work."""
    module = types.ModuleType("SampleData")
    module.__dict__.update(SampleDataLogic=SampleDataLogic, SampleDataSource=SampleDataSource)
    sys.modules["SampleData"] = module
    slicer.modules.sampleDataSources = {}
