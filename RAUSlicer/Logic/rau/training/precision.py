"""The forward pass in bfloat16 on a CPU, where that pays.

Matrix products are faster on processors with instructions for bfloat16, but torch's backward pass of attention is much
slower: attention stays in float32.
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
def bfloat16(on: bool) -> Iterator[None]:
    """Run what is inside in bfloat16; nothing changes when it is not `on`."""
    if not on:
        yield
        return
    with torch.autocast("cpu", dtype=torch.bfloat16), _WholeAttention():
        yield
