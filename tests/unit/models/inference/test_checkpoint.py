"""What is served, what is refused, and what the version covers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.errors import ModelLoadError
from models.inference.checkpoint import Checkpoint, load_checkpoint
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Task
from models.inference.transformer import Trust
from models.nn.classifier import ClassifierHead, HeadConfig

Save = Callable[..., Path]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load(folder: Path, **settings: Any) -> Checkpoint:
    return load_checkpoint(str(folder), **settings)


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"num_labels": 3}, Task.TEXT_CLASSIFICATION),
        ({"num_labels": 1}, Task.TEXT_CLASSIFICATION),
        ({"num_labels": 1, "problem_type": "regression"}, Task.REGRESSION),
        (
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            Task.MULTI_LABEL_CLASSIFICATION,
        ),
        ({}, Task.EMBEDDING),
    ],
)
def test_task_is_that_of_the_configuration(config: dict[str, Any], task: Task, save: Save) -> None:
    assert load(save(**config)).task is task


def test_threshold_of_the_configuration(save: Save) -> None:
    folder = save(num_labels=3, problem_type="multi_label_classification")
    assert load(folder).threshold == 0.5
    edit(folder / "config.json", threshold=0.3)
    assert load(folder).threshold == 0.3


@pytest.mark.parametrize("model", ["BertForMaskedLM", "BertForPreTraining"])
def test_encoder_below_a_pretraining_head_serves_embeddings(model: str, save: Save) -> None:
    folder = save()
    config = transformers.BertConfig.from_pretrained(folder)
    getattr(transformers, model)(config).save_pretrained(folder)
    checkpoint = load(folder)
    assert checkpoint.task is Task.EMBEDDING
    assert not checkpoint.takes_pairs


def test_encoder_without_a_pooler_is_whole(save: Save) -> None:
    folder = save()
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    with_pooler = load(folder)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    without = load(folder)
    assert without.parameters == with_pooler.parameters


@pytest.mark.parametrize(
    "model",
    ["BertForTokenClassification", "BertForQuestionAnswering", "BertForNextSentencePrediction"],
)
def test_head_that_is_not_served_is_refused_by_name(model: str, save: Save) -> None:
    folder = save()
    config = transformers.BertConfig.from_pretrained(folder)
    getattr(transformers, model)(config).save_pretrained(folder)
    with pytest.raises(ModelLoadError, match=f"{model} has a head that is not served"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (
            transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, n_positions=8),
            "gpt2",
        ),
        (
            transformers.BartConfig(
                d_model=8, encoder_layers=1, decoder_layers=1, vocab_size=9, num_labels=2
            ),
            "bart",
        ),
        (transformers.T5Config(d_model=8, num_layers=1, vocab_size=9), "t5"),
        (transformers.ViTConfig(), "vit"),
        (transformers.BertConfig(is_decoder=True, vocab_size=9), "bert"),
    ],
)
@pytest.mark.parametrize("architectures", [None, ["SomethingForSequenceClassification"]])
def test_what_is_no_encoder_is_refused_by_name(
    config: Any, name: str, architectures: list[str] | None, tmp_path: Path
) -> None:
    config.architectures = architectures
    config.save_pretrained(tmp_path)
    expected = architectures[0] if architectures else name
    with pytest.raises(ModelLoadError, match=f"{expected} is no BERT-like text encoder"):
        load(tmp_path)


def test_missing_head_is_an_error_and_never_random(save: Save) -> None:
    folder = save()
    edit(folder / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(ModelLoadError, match=r"classifier\.bias; classifier\.weight"):
        load(folder)


def test_missing_weights_of_an_encoder_are_an_error(save: Save) -> None:
    folder = save(num_labels=2)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"weights are missing.*layer\.1\.output\.dense\.bias"):
        load(folder)


def test_weights_of_another_shape_are_an_error(save: Save) -> None:
    folder = save(num_labels=2)
    edit(folder / "config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id=None)
    with pytest.raises(ModelLoadError, match=r"classifier.bias is \(2,\), config.json says \(3,\)"):
        load(folder)


def test_two_labels_of_one_name_are_an_error(save: Save) -> None:
    with pytest.raises(ModelLoadError, match="one name to several labels"):
        load(save(id2label={0: "a", 1: "a"}))


def test_truncated_weights_are_an_error(save: Save) -> None:
    folder = save()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="cannot read its weights"):
        load(folder)


@pytest.mark.parametrize("damage", ["{", "[]", '{"model_type": "no-such-model"}', "{}"])
def test_broken_configuration_is_one_line(damage: str, save: Save) -> None:
    folder = save()
    (folder / "config.json").write_text(damage)
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


def test_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"holds no config\.json"):
        load(tmp_path)


def test_folder_without_weights(save: Save) -> None:
    folder = save()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="holds no weights"):
        load(folder)


def test_folder_without_a_tokenizer(save: Save) -> None:
    folder = save()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        load(folder)


def test_sharded_weights(save: Save) -> None:
    folder = save(num_labels=2)
    whole = load(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    sharded = load(folder)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.network.parameters(), sharded.network.parameters(), strict=True)
    )


def test_pickled_weights_need_the_setting(save: Save) -> None:
    folder = save(num_labels=2)
    expected = load(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="BERTSTREAM_ALLOW_PICKLE=true"):
        load(folder)
    checkpoint = load(folder, trust=Trust(pickle=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(expected.network.parameters(), checkpoint.network.parameters(), strict=True)
    )


MODELING = """
from transformers import BertConfig, BertModel
class OwnConfig(BertConfig):
    model_type = "own-bert"
class OwnModel(BertModel):
    config_class = OwnConfig
"""


def test_remote_code_needs_the_setting(save: Save) -> None:
    folder = save()
    (folder / "modeling_own.py").write_text(MODELING)
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    edit(
        folder / "config.json",
        model_type="own-bert",
        architectures=["OwnModel"],
        auto_map=auto_map,
    )
    with pytest.raises(ModelLoadError, match="BERTSTREAM_TRUST_REMOTE_CODE=true"):
        load(folder)
    assert load(folder, trust=Trust(remote_code=True)).family == "own-bert"


def test_version_covers_weights_configuration_and_tokenizer(save: Save, tmp_path: Path) -> None:
    folder = save(num_labels=2)
    version = load(folder).version
    assert len(version) == 12
    assert int(version, 16) >= 0

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "README.md").write_text("A model.")
    (elsewhere / "training_args.bin").write_bytes(b"0")
    assert load(elsewhere).version == version

    edit(elsewhere / "config.json", note="another")
    changed_config = load(elsewhere).version
    edit(elsewhere / "tokenizer_config.json", note="another")
    changed_tokenizer = load(elsewhere).version
    other_weights = load(save(num_labels=2, seed=1, folder="other")).version
    assert len({version, changed_config, changed_tokenizer, other_weights}) == 4


def save_head(folder: Path, encoder: str, **changes: Any) -> Path:
    torch.manual_seed(3)
    config: dict[str, Any] = {
        "encoder": encoder,
        "layers": (32, 16, 3),
        "labels": ("a", "b", "c"),
        "normalize": True,
        **changes,
    }
    ClassifierHead(HeadConfig(**config)).save(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooled"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_head_on_a_frozen_encoder(
    pooling: Any, multi_label: bool, save: Save, tmp_path: Path
) -> None:
    encoder = save(folder="encoder", max_length=64)
    folder = save_head(tmp_path / "head", str(encoder), pooling=pooling, multi_label=multi_label)
    engine = ModelRegistry.load({"m": str(folder)}, device="cpu", dtype="float32").engine()
    prediction = engine.predict([Document("The old bridge")])[0]

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    with torch.inference_mode():
        output = model(**tokenizer("The old bridge", return_tensors="pt"))
        hidden = output.last_hidden_state
        pooled = {"mean": hidden.mean(1), "cls": hidden[:, 0], "pooled": output.pooler_output}
        logits = ClassifierHead.load(folder)(pooled[pooling])[0]
    expected = logits.sigmoid() if multi_label else logits.softmax(0)
    by_label = dict(zip("abc", expected.tolist(), strict=True))
    assert prediction.scores == pytest.approx(by_label, abs=1e-5)
    task = "multi-label-classification" if multi_label else "text-classification"
    assert prediction.task == engine.describe()["task"] == task


def test_head_version_covers_encoder_and_head_but_not_where_the_encoder_lies(
    save: Save, tmp_path: Path
) -> None:
    encoder = save(folder="encoder")
    head = save_head(tmp_path / "head", str(encoder))
    version = load(head).version

    moved = tmp_path / "moved"
    shutil.copytree(head, moved)
    shutil.move(encoder, moved / "encoder")
    edit(moved / "classifier.json", encoder="encoder")
    assert load(moved).version == version

    edit(moved / "classifier.json", labels=["x", "y", "z"])
    assert load(moved).version != version


def test_missing_pooler_matters_to_a_head_that_uses_it(save: Save, tmp_path: Path) -> None:
    encoder = save(folder="encoder")
    weights = load_file(encoder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
    load(save_head(tmp_path / "mean", str(encoder)))
    with pytest.raises(ModelLoadError, match=r"pooler\.dense"):
        load(save_head(tmp_path / "pooled", str(encoder), pooling="pooled"))


def test_builtin_encoder_of_a_head(tmp_path: Path) -> None:
    head = save_head(tmp_path / "head", "builtin", layers=(384, 3))
    checkpoint = load(head)
    assert (checkpoint.family, checkpoint.window) == ("bert", 256)
    assert not checkpoint.takes_pairs
