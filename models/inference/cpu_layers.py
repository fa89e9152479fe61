"""The layers of an encoder as a CPU computes them fastest in bfloat16.

oneDNN, with which PyTorch multiplies on a CPU, lays weights out anew for the processor's matrix
units in every call, and leaves activations and residuals to further passes over memory. Here the
weights are laid out once, and what follows a product is computed within it. PyTorch's own compiler
makes use of the same operators.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.inference.device import computes_bfloat16
from models.inference.padding_free import Layout, attend

FAMILIES = ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta")
"""Families whose layers are those of BERT, as the names of their classes begin."""
KINDS = frozenset({"SelfAttention", "SelfOutput", "Intermediate", "Output"})
"""How those names end."""


class FusedLinear(nn.Module):
    """Linear layers side by side, with what follows them: an activation.

    Args:
        layers: take the same input; their outputs are concatenated.
        activation: `none` or `gelu`.
    """

    def __init__(self, layers: Sequence[nn.Linear], activation: str = "none") -> None:
        super().__init__()
        weight = torch.cat([layer.weight for layer in layers])  # (width, d_model)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.weight = nn.Parameter(packed, requires_grad=False)
        bias = torch.cat([layer.bias for layer in layers])
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d_model) to (..., width)."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
            hidden, self.weight, self.bias, self.activation, [], "none"
        )
        return outputs

    def add_to(self, residual: Tensor, hidden: Tensor) -> Tensor:
        """(..., d_model) to (..., width), added to a residual (..., width)."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            hidden, residual, self.weight, self.bias, "add"
        )
        return outputs


class SelfAttention(nn.Module):
    """Attention whose queries, keys and values are one product."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = attention.num_attention_heads
        self.projection = FusedLinear([attention.query, attention.key, attention.value])

    def forward(
        self, hidden: Tensor, attention_mask: None = None, *, layout: Layout, **_: object
    ) -> tuple[Tensor, None]:
        """The tokens of all rows (1, n_tokens, d_model) likewise."""
        parts = self.projection(hidden).view(*hidden.shape[:2], 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (1, heads, n_tokens, d_head)
        return attend(self, query, key, value, layout=layout)[0].flatten(2), None


class Output(nn.Module):
    """A linear layer, a residual, and the normalisation of their sum."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.dense = FusedLinear([output.dense])
        self.norm = output.LayerNorm

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(n, length, d_in) and a residual (n, length, d_model) to (n, length, d_model)."""
        outputs: Tensor = self.norm(self.dense.add_to(residual, hidden))
        return outputs


def can_fuse() -> bool:
    """Whether PyTorch has the operators here, and the CPU the instructions."""
    operators = torch.ops.mkldnn
    return (
        platform.machine() in {"x86_64", "AMD64"}
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(operators, "_linear_pointwise")
        and operators._is_mkldnn_bf16_supported()
        and computes_bfloat16(torch.device("cpu"))
    )


def fuse_layers(network: nn.Module) -> bool:
    """Put the layers of this module in the place of transformers' own.

    Args:
        network: in evaluation mode, on the CPU, without padding; changed in place.

    Returns:
        Whether it has layers, and a precision, that can be fused here.
    """
    if not can_fuse():
        return False
    names = [name for name, module in network.named_modules() if _kind(module)]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        layer = _fused(network.get_submodule(name))
        if layer is not None:
            setattr(network.get_submodule(parent), leaf, layer)
    return any(isinstance(module, FusedLinear) for module in network.modules())


def _kind(module: nn.Module) -> str | None:
    """What a layer of BERT's family is called without its family; None for any other module."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.models."):
        return None
    family = next((one for one in FAMILIES if kind.__name__.startswith(one)), "")
    name = kind.__name__.removeprefix(family)
    return name if family and name in KINDS else None


def _fused(module: Any) -> nn.Module | None:
    """What computes the same as a layer; None where it is of a kind that is not known."""
    kind = _kind(module)
    linear = module.query if kind == "SelfAttention" else module.dense
    if linear.weight.dtype != torch.bfloat16:
        return None
    if kind == "SelfAttention":
        return SelfAttention(module)
    if kind == "Intermediate":
        gelu = type(module.intermediate_act_fn).__name__ == "GELUActivation"
        return FusedLinear([module.dense], "gelu") if gelu else None
    return Output(module)
