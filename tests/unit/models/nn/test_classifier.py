"""The classifier head and its checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812

from models.errors import ModelLoadError
from models.nn.classifier import ClassifierHead, HeadConfig, is_head_checkpoint, join_segments


def config(**changes: Any) -> HeadConfig:
    values: dict[str, Any] = {"encoder": "builtin", "layers": (8, 6, 3), "labels": ("a", "b", "c")}
    return HeadConfig(**values | {"dropout": 0.1} | changes)


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh"])
def test_forward_is_layer_and_activation_in_turn(activation: str) -> None:
    head = ClassifierHead(config(activation=activation)).eval()
    features = torch.randn(5, 8)
    first, last = head.layers
    function = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}[activation]
    assert torch.equal(head(features), last(function(first(features))))


def test_normalizes_where_the_configuration_says_so() -> None:
    head = ClassifierHead(config(normalize=True)).eval()
    features = torch.randn(5, 8)
    torch.testing.assert_close(head(features), head(3 * features))


def test_without_hidden_layers_it_is_linear() -> None:
    head = ClassifierHead(config(layers=(8, 3))).eval()
    features = torch.randn(2, 8)
    torch.testing.assert_close(
        head(2 * features) - head(features), features @ head.layers[0].weight.T
    )


def test_takes_features_of_lower_precision() -> None:
    head = ClassifierHead(config()).eval()
    assert head(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_drops_inputs_only_in_training() -> None:
    head = ClassifierHead(config(dropout=0.5))
    features = torch.ones(64, 8)
    head.train()
    assert len(head(features).unique(dim=0)) > 1
    head.eval()
    assert len(head(features).unique(dim=0)) == 1


def test_loads_what_it_saved(tmp_path: Path) -> None:
    head = ClassifierHead(config(labels=("Sci/Tech", "Ökonomie", "世界"), normalize=True)).eval()
    assert not is_head_checkpoint(tmp_path)
    head.save(tmp_path / "head")
    assert is_head_checkpoint(tmp_path / "head")
    loaded = ClassifierHead.load(tmp_path / "head")
    assert loaded.config == head.config
    assert not loaded.training
    features = torch.randn(4, 8)
    assert torch.equal(loaded(features), head(features))


def test_unknown_fields_of_a_newer_release_are_passed_over(tmp_path: Path) -> None:
    ClassifierHead(config()).save(tmp_path)
    values = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps(values | {"novelty": 1}))
    assert ClassifierHead.load(tmp_path).config == config()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 3}, "format 1 or 2"),
        ({"encoder": ""}, "encoder"),
        ({"layers": [8]}, "layers"),
        ({"layers": [8, "6", 3]}, "layers"),
        ({"layers": 8}, "layers"),
        ({"layers": [8, 6, 4]}, "4 outputs for 3 labels"),
        ({"labels": ["a", "a", "c"]}, "twice"),
        ({"labels": ["a", 1, "c"]}, "labels"),
        ({"pooling": "median"}, "median"),
        ({"activation": "step"}, "step"),
        ({"dropout": 1}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"normalize": 1}, "normalize"),
        ({"multi_label": None}, "multi_label"),
    ],
)
def test_malformed_configuration_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    ClassifierHead(config()).save(tmp_path)
    values = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps(values | changes))
    with pytest.raises(ModelLoadError, match=said) as error:
        ClassifierHead.load(tmp_path)
    assert "classifier.json" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}'])
def test_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classifier.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"classifier\.json"):
        ClassifierHead.load(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        ClassifierHead.load(tmp_path / "nowhere")


def test_weights_must_be_there_whole_and_of_the_right_shape(tmp_path: Path) -> None:
    ClassifierHead(config()).save(tmp_path)
    path = tmp_path / "classifier.safetensors"
    weights = load_file(path)
    save_file({name: w for name, w in weights.items() if name != "layers.1.bias"}, path)
    with pytest.raises(ModelLoadError, match=r"layers\.1\.bias"):
        ClassifierHead.load(tmp_path)
    save_file(weights | {"layers.0.weight": torch.zeros(6, 9)}, path)
    with pytest.raises(ModelLoadError, match=r"layers\.0\.weight is \[6, 9\]"):
        ClassifierHead.load(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelLoadError, match=r"classifier\.safetensors"):
        ClassifierHead.load(tmp_path)
    path.unlink()
    with pytest.raises(ModelLoadError, match="random"):
        ClassifierHead.load(tmp_path)


def test_segments_are_joined_by_document() -> None:
    pooled = torch.arange(14.0).view(7, 2)
    owners = torch.tensor([0, 1, 1, 3, 3, 3, 3])
    summed = join_segments(pooled, owners, 4, config(segments="sum"))
    assert summed.tolist() == [[0, 1], [6, 8], [0, 0], [36, 40]]
    joined = join_segments(pooled, owners, 4, config(segments="concatenation", slots=2))
    assert joined.tolist() == [[0, 1, 0, 0], [2, 3, 4, 5], [0] * 4, [7, 8, 11, 12]]


def test_every_segment_of_a_concatenation_counts() -> None:
    four = config(segments="concatenation", slots=4)
    for count in range(1, 23):
        pooled = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
        pooled.requires_grad_(True)
        joined = join_segments(pooled, torch.zeros(count, dtype=torch.int64), 1, four)
        assert joined.shape == (1, 12)
        joined.sum().backward()
        assert pooled.grad is not None
        assert bool((pooled.grad > 0).all())
        used = joined.view(4, 3).abs().sum(1) > 0
        assert used.tolist() == [True] * min(count, 4) + [False] * max(0, 4 - count)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"segments": "median"}, "segments: 'median' is not one of"),
        ({"slots": 0}, "slots: 0 do not share"),
        ({"slots": 3}, "slots: 3 do not share"),
    ],
)
def test_a_join_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**fields)


def test_a_head_that_joins_segments_is_of_a_format_of_its_own() -> None:
    plain, joined = config(), config(segments="concatenation", slots=2)
    assert json.loads(plain.to_json())["format"] == 1
    assert "segments" not in json.loads(plain.to_json())
    assert json.loads(joined.to_json())["format"] == 2
    assert [HeadConfig.from_json(one.to_json()) for one in (plain, joined)] == [plain, joined]
