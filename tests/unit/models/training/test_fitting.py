"""What fitting a head and fine-tuning have in common."""

from __future__ import annotations

import pytest
import torch

from models.errors import BertstreamError
from models.training.fitting import (
    Epoch,
    linear_rate,
    parameter_groups,
    require_finite,
)


def test_the_rate_rises_and_falls_evenly() -> None:
    rates = [linear_rate(step, 10, 0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_biases_and_normalisations_do_not_decay() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2)
    decaying, other = parameter_groups(layer.parameters(), 0.1)
    assert {weight.ndim for weight in decaying["params"]} == {2}
    assert {weight.ndim for weight in other["params"]} == {1}
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("validation_loss", "better"), [(0.5, True), (1.0, False), (2.0, False), (None, True)]
)
def test_the_lowest_validation_loss_is_best(validation_loss: float | None, better: bool) -> None:
    best = Epoch(1, 0.1, 1.0, 0.5)
    assert Epoch(2, 0.1, validation_loss, None).improves_on(best) is better
    assert best.improves_on(None)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_a_run(loss: float) -> None:
    require_finite(3.5, 1, 0.1)
    with pytest.raises(BertstreamError, match=r"at step 12: try a lower learning rate than 0\.1"):
        require_finite(loss, 12, 0.1)
