"""What a model computes for a text, and how much of that a machine could do at most."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

PEAK_SIZE = 2048
"""Rows and columns of the matrices."""
PEAK_S = 2.0


def flop_per_document(config: Any, lengths: Sequence[int]) -> float:
    """Floating-point operations of an encoder's layers, without padding, for a mean document.

    Args:
        config: of a BERT-like model of transformers.
        lengths: tokens of each document, special tokens included.
    """
    width, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * width * width + 2 * width * inner)  # a multiplication and an addition
    tokens = sum(lengths)
    attention = 4 * width * sum(length * length for length in lengths)
    return float(config.num_hidden_layers * (per_token * tokens + attention) / len(lengths))


def matmul_peak(dtype: str, size: int = PEAK_SIZE, seconds: float = PEAK_S) -> float:
    """FLOP/s of PyTorch's product of two square matrices on the CPU, at best of its calls."""
    import torch

    left, right = torch.randn(2, size, size).to(getattr(torch, dtype))
    best, until = float("inf"), time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or best == float("inf"):
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
