"""Networks as the engine runs them: token ids in, one row of float32 numbers a segment out.

The layout is given to those whose layers run without padding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.inference.padding_free import Layout
from models.inference.transformer import call

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""The names are those of sentence-transformers."""


class SequenceClassifier(nn.Module):
    """A transformers model that brings its own head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        token_ids: Tensor,
        mask: Tensor,
        type_ids: Tensor | None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Token ids and mask (n, length) to logits (n, n_labels)."""
        logits: Tensor = call(self.model, token_ids, mask, type_ids, layout).logits
        return logits.float()


class PooledEncoder(nn.Module):
    """An encoder, pooling, and what stands on the pooled output: dense layers or a classifier.

    Everything after the encoder computes in float32, whatever the encoder's precision.

    Args:
        modes: poolings whose outputs are concatenated; empty: the encoder's own pooler.
    """

    def __init__(
        self, encoder: nn.Module, modes: tuple[PoolingMode, ...], layers: nn.Sequential
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.modes = modes
        self.layers = layers.float()

    def forward(
        self,
        token_ids: Tensor,
        mask: Tensor,
        type_ids: Tensor | None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Token ids and mask (n, length) to embeddings or logits (n, width)."""
        output = call(self.encoder, token_ids, mask, type_ids, layout)
        if not self.modes:
            pooled = output.pooler_output.float()  # (n, d_model)
        else:
            hidden = output.last_hidden_state.float()  # (n, length, d_model)
            pooled = torch.cat([pool(hidden, mask, mode) for mode in self.modes], dim=-1)
        rows: Tensor = self.layers(pooled)
        return rows


class EqualLengths(nn.Module):
    """Gives a network rows of one length at a time, for families that padding would disturb."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, token_ids: Tensor, mask: Tensor, type_ids: Tensor | None) -> Tensor:
        """Token ids and mask (n, length) to rows (n, width)."""
        lengths = mask.sum(1)  # (n,)
        groups, parts = [], []
        for length in sorted(set(lengths.tolist())):
            group, cut = (lengths == length).nonzero().squeeze(1), slice(length)
            groups.append(group)
            types = None if type_ids is None else type_ids[group, cut]
            parts.append(self.network(token_ids[group, cut], mask[group, cut], types))
        return torch.cat(parts)[torch.cat(groups).argsort()]


class Normalize(nn.Module):
    """Scale rows to length 1."""

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (n, width) to rows of length 1."""
        return F.normalize(rows, p=2.0, dim=-1)


def pool(hidden: Tensor, mask: Tensor, mode: PoolingMode) -> Tensor:
    """Pool token embeddings (n, length, d_model), padded on the right, to (n, d_model)."""
    if mode == "cls":
        return hidden[:, 0]
    last = mask.sum(1).sub(1).clamp(min=0)  # (n,)
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    if mode == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(1)
    weights = mask.to(hidden.dtype)  # (n, length)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, mask.shape[1] + 1, device=hidden.device)
    total = (weights.unsqueeze(1) @ hidden).squeeze(1)  # (n, d_model)
    count = weights.sum(1, keepdim=True).clamp(min=1e-9)  # (n, 1)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)
