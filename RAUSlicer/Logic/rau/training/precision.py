"""The forward pass in bfloat16, where that pays.

On a CPU matrix products are faster on processors with instructions for bfloat16, but torch's backward pass of attention
is much slower: there attention stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class _WholeAttention(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
    """Attention in float32, whatever autocast does elsewhere."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(one.float() for one in args), **(kwargs or {}))


@contextmanager
def bfloat16(on: bool, device: str = "cpu") -> Iterator[None]:
    """Run what is inside in bfloat16; nothing changes when it is not `on`. device: cpu or cuda."""
    if not on:
        yield
    elif device == "cpu":
        with torch.autocast("cpu", dtype=torch.bfloat16), _WholeAttention():
            yield
    else:
        with torch.autocast(device, dtype=torch.bfloat16):
            yield
