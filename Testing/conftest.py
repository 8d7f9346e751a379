"""What all tests share: the labelled images, where they are; quiet threads; which examples property tests draw."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell that starts the tests in the background makes them, and all that they start, deaf to Ctrl+C, which is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread a test process: the figures do not depend on the machine, and small models are faster so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

from rau.evaluation.datasets import find_data

# The same examples each time, however slow the machine: whether a change lands does not hang on luck. `make explore`
# draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("same")


class TorchFirst(importlib.abc.MetaPathFinder):
    """Finds nothing itself; imports torch before VTK and Qt. The other way round the import of torch may crash the
    process. Neither Slicer nor the worker ever does that: only tests have both."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in ("slicer", "vtk", "vtkmodules", "PySide6"):
            sys.meta_path.remove(self)
            if importlib.util.find_spec("torch") is not None:
                importlib.import_module("torch")


sys.meta_path.insert(0, TorchFirst())

ABSENT = "the labelled images are not here: set RAU_DATA to their folder"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for the labelled images get the marker `shared_data`; without the images they are skipped."""
    data = find_data()
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
        if data is None and item.get_closest_marker("shared_data"):
            item.add_marker(pytest.mark.skip(reason=ABSENT))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the labelled images; skips the test without them."""
    data = find_data()
    if data is None:
        pytest.skip(ABSENT)
    return data


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a real disk of a size ("200k"), which really gets full. Skips the test where none can be mounted."""
    made: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(made)}"
        place.mkdir()
        if shutil.which("mount") is None or os.name != "posix":
            pytest.skip("no disk can be mounted here")
        call = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(call, capture_output=True).returncode:
            pytest.skip("this user cannot mount a disk")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """A model folder of the rau-mini architecture at 64 pixels with random weights that find something everywhere."""
    torch = pytest.importorskip("torch")
    from rau.models import store
    from rau.models.presets import preset
    from rau.references.encoder import build_encoder
    from rau.sam.build import build_sam2

    torch.manual_seed(0)
    mini = preset("rau-mini")
    sam, encoder = build_sam2(mini.sam_config, mini.sam_overrides), build_encoder(mini.encoder)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(3.0)
    manifest = {
        "name": "random",
        "version": "0",
        "licence": "Apache-2.0",
        "segmenter": {"config": mini.sam_config, "overrides": mini.sam_overrides, "image_size": 64},
        "encoder": {"config": mini.encoder, "image_size": mini.encoder_size},
    }
    folder = tmp_path_factory.mktemp("models") / "random"
    weights = {"segmenter.safetensors": sam.state_dict(), "encoder.safetensors": encoder.state_dict()}
    store.write_model(folder, manifest, weights)
    return folder


@pytest.fixture(scope="session")
def shut_model(random_model, tmp_path_factory) -> Path:
    """The random model with a presence gate that never opens: nothing is ever found."""
    torch = pytest.importorskip("torch")
    from rau.models import store

    shut = tmp_path_factory.mktemp("models") / "shut"
    folder = store.open_model(random_model)
    weights = {name: folder.tensors(name) for name in folder.manifest.files}
    gate = next(k for k in weights["segmenter.safetensors"] if k.endswith("pred_obj_score_head.layers.2.bias"))
    weights["segmenter.safetensors"][gate] = torch.full_like(weights["segmenter.safetensors"][gate], -50.0)
    store.write_model(shut, folder.manifest.model_dump(exclude={"files"}), weights)
    return shut
