"""The layers of an encoder without padding.

A device batch is a rectangle of token ids, padded to its longest row. Of what an encoder computes
only attention has to know which tokens are of one row: everything else takes the tokens of all
rows side by side, and none for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.inference.device import computes_bfloat16

STACKS = frozenset(
    {
        "BertEncoder",
        "CamembertEncoder",
        "ElectraEncoder",
        "RobertaEncoder",
        "Transformer",  # of DistilBERT
        "XLMRobertaEncoder",
    }
)
"""Classes of transformers that run an encoder's layers and hand on what they are called with."""
ATTENTION = "padding_free"
"""How attention within rows is known to transformers."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a rectangle lie when its padding is left out."""

    longest: int
    """Tokens of the longest row."""
    places: Tensor
    """(n_tokens,) of each token in the flattened rectangle."""
    starts: Tensor
    """(n_rows + 1,) int32: the first token of each row, and the number of all."""

    @classmethod
    def of(cls, mask: NDArray[np.bool_], place: Callable[[NDArray[Any]], Tensor]) -> Layout:
        """Find the tokens of a mask (n_rows, length), true for the first tokens of each row.

        Args:
            place: copies to where the rectangle is.
        """
        lengths = mask.sum(1)
        starts = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        return cls(int(lengths.max()), place(np.flatnonzero(mask)), place(starts))

    @cached_property
    def runs(self) -> list[tuple[slice, int, int]]:
        """The tokens, number and length of neighbouring rows of one length, for a CPU."""
        runs = []
        start = 0
        for length, rows in groupby(self.starts.diff().tolist()):
            count = len(list(rows))
            if length:
                runs.append((slice(start, start + count * length), count, length))
            start += count * length
        return runs


class PaddingFree(nn.Module):
    """Runs an encoder's layers on the tokens of a rectangle, all in one row.

    Args:
        layers: one of `STACKS`, whose attention is `attend`.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden_states: Tensor, *, layout: Layout, **arguments: Any) -> Any:
        """Hidden states (n, length, d_model) likewise; what stood for padding is zero."""
        rectangle = hidden_states.flatten(0, 1)  # (n * length, d_model)
        tokens = rectangle[layout.places].unsqueeze(0)  # (1, n_tokens, d_model)
        output = self.layers(tokens, layout=layout, **arguments)
        (tokens,) = output.last_hidden_state
        rectangle = torch.zeros_like(rectangle).index_copy_(0, layout.places, tokens)
        output.last_hidden_state = rectangle.view(hidden_states.shape)
        return output


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention within rows, as transformers calls it.

    Args:
        query: (1, heads, n_tokens, d_head), as are key and value.
        attention_mask: None: rows see all of themselves.

    Returns:
        (1, n_tokens, heads, d_head).
    """
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        # (n_tokens, heads, d_head)
        queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
        starts, longest = layout.starts, layout.longest
        mixed = varlen_attn(queries, keys, values, starts, starts, longest, longest, scale=scaling)
        assert isinstance(mixed, Tensor)
        return mixed.unsqueeze(0), None
    parts = []
    for tokens, count, length in layout.runs:
        queries, keys, values = (  # each (count, heads, length, d_head)
            part[0, :, tokens].reshape(part.shape[1], count, length, -1).transpose(0, 1)
            for part in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))  # (count * length, heads, d_head)
    return torch.cat(parts).unsqueeze(0), None


def attends_within_rows(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device has attention without padding in this precision."""
    return device.type == "cpu" or (
        device.type == "cuda" and dtype != torch.float32 and computes_bfloat16(device)
    )


def leave_out_padding(network: nn.Module) -> bool:
    """Have the layers of a network run without padding; it is then called with a `Layout`.

    Args:
        network: in evaluation mode; changed in place.

    Returns:
        Whether it has layers that can.
    """
    found = [
        (model, leaf, layers)
        for model in network.modules()
        for leaf, layers in model.named_children()
        if _can_run_without(layers, model)
    ]
    if found:
        transformers.AttentionInterface.register(ATTENTION, attend)
    for model, leaf, layers in found:
        config: Any = model.config
        config._attn_implementation = ATTENTION
        setattr(model, leaf, PaddingFree(layers))
    return bool(found)


def _can_run_without(layers: nn.Module, model: nn.Module) -> bool:
    """Whether these are the layers of a model, with attention that can be replaced."""
    kind = type(layers)
    if kind.__name__ not in STACKS or not kind.__module__.startswith("transformers.models."):
        return False
    config: Any = model.config
    return (
        config._attn_implementation == "sdpa"
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
    )
