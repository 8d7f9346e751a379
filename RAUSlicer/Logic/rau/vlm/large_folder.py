"""The folder of a large model as the hub lays it out: found, and checked before a weight is read.

JSON and safetensors alone: no pickles, no code, no network unasked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rau.errors import ModelError
from rau.models.store import sha256

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
WORDS = ("tokenizer_config.json", "tokenizer.json")
PICTURES = ("preprocessor_config.json", "processor_config.json")  # one of them
WANTED = ("*.json", "*.safetensors", "*.jinja", "merges.txt")  # all that is ever asked of the hub
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
AGAIN = "Get the model again, all its files"


def find_base(source: str, revision: str = "", allow_download: bool = False) -> Path:
    """The local folder of a source: a folder, or a hub id at a pinned commit, from the hub's cache unless allowed more.

    Raises ModelError. Opens no connection unless `allow_download`.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(source):
        raise ModelError(f"There is no model folder {folder.name!r}", "Give the folder of a Qwen2.5-VL, or its hub id")
    if not COMMIT.fullmatch(revision):
        raise ModelError(
            f"There is no folder {source}, and a hub id needs a revision",
            "Give the commit it is pinned to, 40 hexadecimal digits, or a local folder",
        )
    from huggingface_hub import snapshot_download

    try:
        found: str = snapshot_download(
            source, revision=revision, local_files_only=not allow_download, allow_patterns=list(WANTED)
        )
    except Exception as problem:  # of the hub's client and of the transport below it, which share no type
        if allow_download:
            raise ModelError(f"{source} could not be downloaded", "Check its revision and the connection") from problem
        raise ModelError(
            f"{source} at that revision is not on this computer", "Allow the download, or give a local folder"
        ) from problem
    return Path(found)


def check_base(folder: Path) -> dict[str, Any]:
    """The `config.json` of a complete, unquantised Qwen2.5-VL with safetensors. Raises ModelError."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder.name} holds an adapter, not a whole model", "Give the folder of the base model")
    config = read_json(folder, CONFIG)
    if config.get("model_type") != "qwen2_5_vl":
        raise ModelError(f"{folder.name} is not a Qwen2.5-VL", "Give the folder of a Qwen2.5-VL")
    if "quantization_config" in config:
        raise ModelError(f"{folder.name} is quantised already", "Give the original weights: 4 bits are made on loading")
    for file in WORDS:
        read_json(folder, file)
    if not any((folder / file).is_file() for file in PICTURES):
        raise ModelError(f"{folder.name} lacks {PICTURES[0]}", AGAIN)
    for file in weight_files(folder):
        if not (folder / file).is_file():
            raise ModelError(f"{folder.name} lacks {file}", AGAIN)
    return config


def weight_files(folder: Path) -> list[str]:
    """Names of the weights: those of the index, else the single file. Raises ModelError, also for pickles alone."""
    if (folder / INDEX).is_file():
        listed = read_json(folder, INDEX).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ModelError(f"{INDEX} of {folder.name} names files that are not allowed", AGAIN)
        return names
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if any(path.suffix in PICKLED for path in folder.iterdir()):
        raise ModelError(f"The weights in {folder.name} are pickles, which are never read", "Get them as safetensors")
    raise ModelError(f"{folder.name} has no weights", AGAIN)


def base_digest(folder: Path) -> str:
    """SHA-256 of the base's `config.json`: what an adapter is held against."""
    return sha256(folder / CONFIG)


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ModelError."""
    try:
        read = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ModelError(f"{folder.name} lacks {file}", AGAIN) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise ModelError(f"{file} of {folder.name} cannot be read", AGAIN) from problem
    if not isinstance(read, dict):
        raise ModelError(f"{file} of {folder.name} is not valid", AGAIN)
    return read
