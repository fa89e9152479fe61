"""Folders of sentence-transformers: the modules that stand on the encoder, and the prompt.

Read here rather than by the library itself, which users then need not install.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import ModelLoadError, one_line
from models.inference.hub import PICKLE_REFUSED
from models.inference.networks import Normalize, PoolingMode
from models.inference.transformer import Trust

MODULES_NAME = "modules.json"
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
LEGACY_POOLING: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which their outputs are concatenated."""


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """What `modules.json` and its companions say."""

    encoder_folder: Path
    poolings: tuple[PoolingMode, ...]
    """Empty: no Pooling module, so the folder is no embedding model."""
    layers: nn.Sequential
    prompt: str
    """Text that is put in front of every document."""
    files: tuple[Path, ...]
    """Every file that was read, weights included."""

    @property
    def normalizes(self) -> bool:
        """Whether the embeddings have length 1."""
        return len(self.layers) > 0 and isinstance(self.layers[-1], Normalize)


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """What `sentence_bert_config.json` says of the encoder's input."""

    max_seq_length: int | None = None
    lowercase: bool = False


def read_limits(encoder_folder: Path) -> EncoderLimits:
    """Read the longest input and the lower-casing from beside the encoder, if they are there."""
    for name in TRANSFORMER_CONFIGS:
        path = encoder_folder / name
        if path.is_file():
            config = _read_json(path)
            return EncoderLimits(config.get("max_seq_length"), bool(config.get("do_lower_case")))
    return EncoderLimits()


def read_modules(folder: Path, trust: Trust) -> SentenceModules:
    """Read the modules of a sentence-transformers folder.

    Raises:
        ModelLoadError: a module or one of its options is not supported, or a file is missing.
    """
    encoder_folder = folder
    poolings: tuple[PoolingMode, ...] = ()
    layers: list[nn.Module] = []
    files = [folder / MODULES_NAME]
    for position, module in enumerate(_read_json(files[0])):
        package, _, kind = str(module["type"]).rpartition(".")
        path = folder / str(module["path"])
        if package.partition(".")[0] != "sentence_transformers":
            raise _unsupported(module["type"])
        if position == 0:
            if kind != "Transformer":
                raise _unsupported(kind)
            encoder_folder = path
        elif kind == "Pooling" and not poolings:
            poolings = _pooling(_read_json(path / "config.json"))
            files.append(path / "config.json")
        elif poolings and kind in {"Dense", "LayerNorm"}:
            config = _read_json(path / "config.json")
            layer = _dense(config) if kind == "Dense" else nn.LayerNorm(config["dimension"])
            weights = _weights(path, trust)
            _fill(layer, "linear." if kind == "Dense" else "norm.", weights)
            layers.append(layer)
            files += [path / "config.json", weights]
        elif poolings and kind == "Normalize":
            layers.append(_normalize(path))
        elif not (poolings and kind == "Dropout"):
            raise _unsupported(kind)
    prompt, prompt_files = _prompt(folder)
    return SentenceModules(
        encoder_folder, poolings, nn.Sequential(*layers), prompt, (*files, *prompt_files)
    )


def _pooling(config: dict[str, Any]) -> tuple[PoolingMode, ...]:
    if config.get("include_prompt") is False:
        raise _unsupported("Pooling with include_prompt=false")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in LEGACY_POOLING.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise _unsupported(f"Pooling with pooling_mode={mode}")
    return modes


def _dense(config: dict[str, Any]) -> nn.Module:
    _check_stream("Dense", config)
    if config.get("use_residual"):
        raise _unsupported("Dense with use_residual=true")
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = getattr(nn, str(name).rpartition(".")[2], None)
    if not (
        str(name).startswith("torch.nn.modules.")
        and isinstance(activation, type)
        and issubclass(activation, nn.Module)
    ):
        raise _unsupported(f"Dense with activation_function={name}")
    linear = nn.Linear(config["in_features"], config["out_features"], config.get("bias", True))
    return nn.Sequential(linear, activation())


def _normalize(path: Path) -> Normalize:
    if (path / "config.json").is_file():
        _check_stream("Normalize", _read_json(path / "config.json"))
    return Normalize()


def _check_stream(kind: str, config: dict[str, Any]) -> None:
    """Refuse a module that works on something else than the sentence embedding."""
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _unsupported(f"{kind} with {key}={config[key]}")


def _weights(path: Path, trust: Trust) -> Path:
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    if not (path / "pytorch_model.bin").is_file():
        raise ModelLoadError(f"{path} holds no weights (model.safetensors)")
    if not trust.pickle:
        raise ModelLoadError(f"{path.name}: {PICKLE_REFUSED}")
    return path / "pytorch_model.bin"


def _fill(layer: nn.Module, prefix: str, path: Path) -> None:
    """Load weights whose names begin with `prefix` into the layer's parameters, by name."""
    try:
        weights: dict[str, Tensor] = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        target = layer[0] if isinstance(layer, nn.Sequential) else layer
        target.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{path}: {one_line(error)}") from None


def _prompt(folder: Path) -> tuple[str, tuple[Path, ...]]:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return "", ()
    config = _read_json(path)
    name = config.get("default_prompt_name")
    prompt = (config.get("prompts") or {}).get(name) if name is not None else None
    return prompt or "", (path,)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelLoadError(f"{path} is no JSON: {error}") from None


def _unsupported(what: Any) -> ModelLoadError:
    return ModelLoadError(
        f"the sentence-transformers module {what} is not supported; supported are Transformer, "
        "Pooling, Dense, LayerNorm, Normalize and Dropout"
    )
