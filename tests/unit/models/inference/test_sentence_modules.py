"""Embeddings equal those of sentence-transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)

from models.errors import ModelLoadError
from models.inference.engine import Engine
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document

TEXTS = [
    "The old bridge",
    "A striker scored twice in the last minutes.",
    "新しい電車は来年の春から走ります。",
    "😀",
    "القطار الجديد يعمل في الربيع",
]


def load(folder: Path, **settings: Any) -> Engine:
    return ModelRegistry.load(
        {"m": str(folder)}, device="cpu", dtype="float32", **settings
    ).engine()


def assert_equal_to_sentence_transformers(folder: Path) -> None:
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    predictions = load(folder).predict([Document(text) for text in TEXTS])
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.embedding == pytest.approx(row.tolist(), abs=1e-5)


@pytest.fixture
def save_modules(save: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Save an encoder of a family and modules on it, with sentence-transformers."""

    def save_modules(*modules: Any, family: str = "bert", **arguments: Any) -> Path:
        torch.manual_seed(0)
        encoder = Transformer(str(save(family, folder="encoder", max_length=64)))
        folder = tmp_path / "sentence-transformer"
        SentenceTransformer(modules=[encoder, *modules], device="cpu", **arguments).save(
            str(folder)
        )
        return folder

    return save_modules


@pytest.mark.parametrize(
    "mode", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_poolings(mode: str, save_modules: Callable[..., Path]) -> None:
    assert_equal_to_sentence_transformers(save_modules(Pooling(32, mode)))


@pytest.mark.parametrize("family", ["roberta", "mpnet", "modernbert", "deberta-v2"])
def test_families(family: str, save_modules: Callable[..., Path]) -> None:
    modules = (Pooling(32, "mean"), Normalize())
    assert_equal_to_sentence_transformers(save_modules(*modules, family=family))


def test_several_poolings_are_concatenated(save_modules: Callable[..., Path]) -> None:
    assert_equal_to_sentence_transformers(save_modules(Pooling(32, ("cls", "max", "mean"))))


@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity(), torch.nn.GELU()])
def test_dense(activation: torch.nn.Module, save_modules: Callable[..., Path]) -> None:
    dense = Dense(32, 8, activation_function=activation)
    folder = save_modules(Pooling(32), Dropout(0.5), dense, LayerNorm(8), Normalize())
    assert_equal_to_sentence_transformers(folder)


def test_default_prompt(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(
        Pooling(32), prompts={"query": "the old ", "document": ""}, default_prompt_name="query"
    )
    assert_equal_to_sentence_transformers(folder)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "roberta"])
def test_prompt_counts_in_every_segment_and_not_as_document(
    family: str, save_modules: Callable[..., Path]
) -> None:
    settings: dict[str, Any] = {"prompts": {"p": "search the old bridge:"}, "family": family}
    prompted = load(save_modules(Pooling(32), default_prompt_name="p", **settings))
    plain = load(save_modules(Pooling(32), **settings))
    text = "A striker scored twice in the last minutes. " * 20

    with_prompt, without = prompted.encode([Document(text)])[0], plain.encode([Document(text)])[0]

    # Where tokens hold the white space before a word, the first word differs after a prompt.
    assert with_prompt.tokens == pytest.approx(without.tokens, abs=0 if family == "bert" else 1)
    assert len(with_prompt.segments) > len(without.segments)
    first = with_prompt.segments[0].token_ids
    n_prompt = len(first) - 2 - with_prompt.segments[0].weight
    assert n_prompt > 3
    for segment in with_prompt.segments:
        assert segment.token_ids[: 1 + n_prompt] == first[: 1 + n_prompt]
        assert len(segment) == segment.weight + n_prompt + 2 <= 64


def test_max_seq_length_is_the_window(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32))
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps({"max_seq_length": 12, "do_lower_case": False}))
    engine = load(folder)
    assert engine.window == 12
    encoded = engine.encode([Document("The council voted to close the old bridge. " * 5)])[0]
    assert max(len(segment) for segment in encoded.segments) <= 12


def test_lower_casing_of_the_text(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32), family="roberta")
    cased = load(folder).encode([Document("The Old BRIDGE")])[0]
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps({"do_lower_case": True}))
    assert_equal_to_sentence_transformers(folder)
    lowered = load(folder).encode([Document("The Old BRIDGE")])[0]
    assert cased.segments[0].token_ids != lowered.segments[0].token_ids


def test_configuration_of_older_versions(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32), Normalize())
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    pooling["pooling_mode_mean_tokens"] = True
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert_equal_to_sentence_transformers(folder)


def test_segments_are_averaged_by_tokens_and_normalised_again(
    save_modules: Callable[..., Path],
) -> None:
    engine = load(save_modules(Pooling(32), Normalize()))
    encoded = engine.encode([Document("The council voted to close the old bridge. " * 20)])[0]
    rows = engine.forward(encoded.segments)
    prediction = engine.decode(encoded, rows, 0.0)

    weights = torch.tensor([float(len(segment) - 2) for segment in encoded.segments])
    assert len(weights) > 2
    assert len(set(weights.tolist())) > 1
    mean = (weights[:, None] * rows).sum(0) / weights.sum()
    expected = torch.nn.functional.normalize(mean, dim=0)
    assert prediction.embedding == pytest.approx(expected.tolist(), abs=1e-6)


def test_unsupported_module_is_refused_by_name(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(CNN(32, out_channels=8), Pooling(24))
    with pytest.raises(ModelLoadError, match="module CNN is not supported"):
        load(folder)


def test_cross_encoder_answers_pairs(save: Callable[..., Path], tmp_path: Path) -> None:
    cross_encoder = CrossEncoder(str(save(num_labels=1, max_length=64)), device="cpu")
    cross_encoder.save_pretrained(str(tmp_path / "cross-encoder"))
    pairs = [("the old bridge", "a striker"), ("Shares fell", "in the spring")]
    predictions = load(tmp_path / "cross-encoder").predict([Document(*pair) for pair in pairs])
    expected = cross_encoder.predict(pairs).tolist()
    assert [p.score for p in predictions] == pytest.approx(expected, abs=1e-5)
    assert {p.task for p in predictions} == {"sentence-pair"}


def test_foreign_module_is_refused_by_name(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match=r"custom_st\.Transformer is not supported"):
        load(folder)


@pytest.mark.parametrize(
    ("module", "option", "value"),
    [
        ("1_Pooling", "include_prompt", False),
        ("1_Pooling", "pooling_mode", "attention"),
        ("2_Dense", "use_residual", True),
        ("2_Dense", "activation_function", "mine.Swish"),
        ("2_Dense", "module_input_name", "token_embeddings"),
    ],
)
def test_unsupported_option_is_refused_by_name(
    module: str, option: str, value: Any, save_modules: Callable[..., Path]
) -> None:
    folder = save_modules(Pooling(32), Dense(32, 8))
    path = folder / module / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), option: value}))
    with pytest.raises(ModelLoadError, match=option):
        load(folder)


def test_missing_dense_weights_are_an_error(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32), Dense(32, 8))
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="holds no weights"):
        load(folder)


def test_pickled_dense_weights_need_the_setting(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32), Dense(32, 8))
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), folder / "2_Dense" / "pytorch_model.bin")
    expected = load(folder).predict([Document("The old bridge")])[0]
    weights.unlink()
    with pytest.raises(ModelLoadError, match="BERTSTREAM_ALLOW_PICKLE"):
        load(folder)
    prediction = load(folder, allow_pickle=True).predict([Document("The old bridge")])[0]
    assert prediction.embedding == expected.embedding


def test_dense_weights_of_another_shape_are_an_error(save_modules: Callable[..., Path]) -> None:
    folder = save_modules(Pooling(32), Dense(32, 8))
    path = folder / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "out_features": 9}))
    with pytest.raises(ModelLoadError, match="size mismatch"):
        load(folder)
