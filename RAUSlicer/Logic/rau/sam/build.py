"""From a configuration to a SAM2 model, with the `sam2` package's own classes and YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import ModelError

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

CONFIG_NAME = re.compile(r"sam2\.1_hiera_(t|s|b\+|l)")


def mini_overrides(image_size: int, width: int, embed_dim: int, stages: tuple[int, int, int, int]) -> dict[str, Any]:
    """The preset `rau-mini` as changes to `sam2.1_hiera_t`: `width` channels in memory and decoder, a small trunk.

    The weights do not depend on `image_size` (pixels, multiple of 64); see `rau.sam.segmenter.Segmenter.set_size`.
    """
    depth = sum(stages)
    channels = [embed_dim * 8, embed_dim * 4, embed_dim * 2, embed_dim]
    attention = {"embedding_dim": width, "feat_sizes": [image_size // 16] * 2, "dropout": 0.0}
    overrides: dict[str, Any] = {
        "image_size": image_size,
        "image_encoder.trunk.embed_dim": embed_dim,
        "image_encoder.trunk.stages": list(stages),
        "image_encoder.trunk.global_att_blocks": [depth - stages[3] - 2, depth - stages[3] - 1],  # last of stage 3
        "image_encoder.trunk.window_pos_embed_bkg_spatial_size": [4, 4],
        "image_encoder.trunk.window_spec": [8, 4, 6, 6],
        "image_encoder.neck.d_model": width,
        "image_encoder.neck.position_encoding.num_pos_feats": width,
        "image_encoder.neck.backbone_channel_list": channels,
        "memory_attention.d_model": width,
        "memory_attention.num_layers": 3,
        "memory_attention.layer.d_model": width,
        "memory_attention.layer.dim_feedforward": 4 * width,
        "memory_attention.layer.dropout": 0.0,
        "memory_attention.layer.cross_attention.kv_in_dim": width,
        "memory_encoder.out_dim": width,
        "memory_encoder.in_dim": width,
        "memory_encoder.position_encoding.num_pos_feats": width,
        "memory_encoder.mask_downsampler.embed_dim": width,
        "memory_encoder.fuser.layer.dim": width,
        "memory_encoder.fuser.layer.layer_scale_init_value": 0.1,  # 1e-6 starves a model that starts from scratch
        "num_maskmem": 3,
        "multimask_output_for_tracking": False,
    }
    for kind in ("self_attention", "cross_attention"):
        overrides.update({f"memory_attention.layer.{kind}.{key}": value for key, value in attention.items()})
    return overrides


def build_sam2(config: str, overrides: Mapping[str, Any] | None = None) -> SAM2Base:
    """SAM2 with random weights. config: a name of the `sam2` package ("sam2.1_hiera_l"); overrides: dotted keys.

    Only names of that pattern are opened, so a model folder cannot point at another file. Raises ModelError.
    """
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not CONFIG_NAME.fullmatch(config):
        raise ModelError(f"Unknown SAM2 configuration {config!r}", "Use sam2.1_hiera_t, _s, _b+ or _l")
    cfg = OmegaConf.load(Path(sam2.__path__[0]) / "configs" / "sam2.1" / f"{config}.yaml").model
    OmegaConf.set_struct(cfg, False)
    try:
        for key, value in (overrides or {}).items():
            if "_target_" in key or any(part.startswith("_") for part in key.split(".")):
                raise ModelError(f"The model folder may not change {key!r} of SAM2", "Get the model again")
            OmegaConf.update(cfg, key, value, merge=False)
        OmegaConf.update(cfg, "memory_attention._target_", "rau.sam.reading.MemoryReader")
    except OmegaConfBaseException as problem:
        raise ModelError("The model folder does not fit this version of SAM2", "Get the model again") from problem
    return instantiate(cfg)
