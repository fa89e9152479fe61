"""From what the user wrote to a folder, without a network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from models.errors import ModelLoadError
from models.inference.hub import choose_files, find_folder

SENTENCE_TRANSFORMER = [
    ".gitattributes",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "2_Dense/pytorch_model.bin",
    "README.md",
    "config.json",
    "model.safetensors",
    "modules.json",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.bin",
    "pytorch_model.bin",
    "rust_model.ot",
    "tf_model.h5",
    "tokenizer.json",
    "train_script.py",
    "vocab.txt",
]


def test_files_that_serving_needs() -> None:
    assert choose_files(SENTENCE_TRANSFORMER) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "vocab.txt",
    ]


def test_remote_code_is_fetched_only_if_trusted() -> None:
    assert "train_script.py" in choose_files(SENTENCE_TRANSFORMER, trust_remote_code=True)


def test_shards() -> None:
    files = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert choose_files(files) == sorted(files)


def test_pickled_weights_are_fetched_only_if_asked_for_and_alone() -> None:
    files = ["config.json", "pytorch_model.bin"]
    with pytest.raises(ModelLoadError, match="BERTSTREAM_ALLOW_PICKLE=true"):
        choose_files(files)
    assert choose_files(files, allow_pickle=True) == files
    both = choose_files(["config.json", "model.safetensors", *files], allow_pickle=True)
    assert "pytorch_model.bin" not in both


def test_no_weights() -> None:
    with pytest.raises(ModelLoadError, match="no weights"):
        choose_files(["config.json", "tf_model.h5"])


def test_an_existing_folder_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_folder("owner/name") == Path("owner/name")
    assert find_folder(str(tmp_path)) == tmp_path


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert find_folder("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    "spec", ["./modle", "/no/such/modle", "~/modle", "a/b/modle", "here/modle"]
)
def test_a_mistyped_folder(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    with pytest.raises(ModelLoadError, match=f"{spec}: no such folder"):
        find_folder(spec)


@pytest.mark.parametrize("spec", ["my model", "owner/na me", "owner/name--", "@main", ""])
def test_what_is_no_model_id(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match="neither a folder nor a model id"):
        find_folder(spec)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelLoadError, match="is a file"):
        find_folder(str(file))


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match="no copy in the hub cache, and HF_HUB_OFFLINE is set"):
        find_folder("owner/name")


def test_offline_with_a_copy_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--name"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    for revision in ("main", "v1"):
        (model / "refs" / revision).write_text("a" * 40)
    assert find_folder("owner/name") == snapshot
    assert find_folder("owner/name@v1") == snapshot
    with pytest.raises(ModelLoadError):
        find_folder("owner/name@v2")
