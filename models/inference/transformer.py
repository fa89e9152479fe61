"""Encoders and sequence classifiers, loaded through transformers and checked for completeness."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from models.errors import ModelLoadError, one_line
from models.inference.hub import PICKLE_REFUSED
from models.inference.padding_free import Layout
from models.quiet import quiet_transformers
from models.text.tokenizer import Tokenizer

BASE_SUFFIXES = ("Model", "ForMaskedLM", "ForPreTraining")
"""Architectures whose encoder serves embeddings; what lies above the encoder is left out."""
CLASSIFIER_SUFFIX = "ForSequenceClassification"
NOT_TEXT_ENCODERS = frozenset({"modernvbert", "neomme", "perceiver", "reformer", "tapas"})
"""Families with a masked language model that are no encoders of plain text."""
PADDING_DISTURBS = frozenset({"convbert", "fnet", "yoso"})
"""Families whose convolutions or Fourier transforms reach into the padding, masked or not."""
FLOAT32_ONLY = frozenset({"fnet"})
"""Families that torch computes in no other precision on every device."""


@contextmanager
def _without(*checks: str) -> Iterator[None]:
    """Let what transformers imports in the block believe that optional packages are not there."""
    kept = {check: getattr(transformers.utils, check) for check in checks}
    for check in checks:
        setattr(transformers.utils, check, bool)
    try:
        yield
    finally:
        for check, found in kept.items():
            setattr(transformers.utils, check, found)


# Every model of transformers brings along text generation and the losses of object detection,
# which would import scikit-learn and SciPy: a fifth of a worker's start, for what no encoder does.
with _without("is_sklearn_available", "is_scipy_available"):
    import transformers.modeling_utils
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Trust:
    """What a checkpoint may do beyond giving numbers; both can run code."""

    remote_code: bool = False
    pickle: bool = False


def read_config(folder: Path, trust: Trust) -> Any:
    """Read `config.json` and refuse what is no BERT-like encoder.

    Raises:
        ModelLoadError: it is missing, malformed, or names a model that is not served.
    """
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder} holds no config.json, so it is no checkpoint")
    with _transformers("config.json", trust):
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=trust.remote_code, local_files_only=not trust.remote_code
        )
    decodes = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() - NOT_TEXT_ENCODERS
    custom = trust.remote_code and hasattr(config, "auto_map")
    if decodes or not (known or custom):
        name = ", ".join(config.architectures or [config.model_type])
        raise ModelLoadError(f"{name} is no BERT-like text encoder, so it is not served")
    return config


def is_classifier(config: Any) -> bool:
    """Whether the checkpoint is a sequence classifier; otherwise its encoder serves embeddings.

    Raises:
        ModelLoadError: it has a head that is not served.
    """
    for name in config.architectures or []:
        if name.endswith(CLASSIFIER_SUFFIX):
            return True
        if not name.endswith(BASE_SUFFIXES):
            raise ModelLoadError(
                f"{name} has a head that is not served; served are sequence classifiers "
                f"(*{CLASSIFIER_SUFFIX}) and encoders ({', '.join('*' + s for s in BASE_SUFFIXES)})"
            )
    return False


def load_tokenizer(folder: Path, trust: Trust, *, lowercase: bool = False) -> Tokenizer:
    """Load the checkpoint's tokenizer.

    Raises:
        ModelLoadError: there is none, or no fast one.
    """
    with _transformers("its tokenizer", trust):
        fast = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust.remote_code, local_files_only=not trust.remote_code
        )
    if not getattr(fast, "is_fast", False):
        raise ModelLoadError(
            f"{type(fast).__name__} is no fast tokenizer; save the checkpoint with a tokenizer.json"
        )
    files = {"tokenizer.json", *fast.vocab_files_names.values()}
    if not any((folder / name).is_file() for name in files):
        # transformers would make one with an empty vocabulary.
        raise ModelLoadError(f"{folder} holds no tokenizer ({', '.join(sorted(files))})")
    try:
        return Tokenizer(fast, lowercase=lowercase)
    except ValueError as error:
        raise ModelLoadError(str(error)) from None


def load_model(
    folder: Path,
    config: Any,
    trust: Trust,
    *,
    classifier: bool = False,
    pooler: bool = False,
) -> nn.Module:
    """Load a sequence classifier or a bare encoder in float32 on the CPU, in evaluation mode.

    Args:
        pooler: whether the encoder's own pooler is needed; otherwise it is left out, since many
            encoders were saved without one.

    Raises:
        ModelLoadError: weights are missing or of another shape, pickled, or unreadable.
    """
    check_weights(folder, trust)
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModel
    arguments: dict[str, Any] = {}
    if not classifier and not pooler and _pooler_is_optional(config, trust):
        arguments["add_pooling_layer"] = False
    with _transformers("its weights", trust):
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=None if trust.pickle else True,
            trust_remote_code=trust.remote_code,
            local_files_only=not trust.remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
    missing = {
        name
        for name in info["missing_keys"]
        if classifier or pooler or not name.startswith("pooler.")
    }
    if missing:
        raise ModelLoadError(
            f"weights are missing, and none are ever made up: {_some(missing)}"
            + ("; has this classifier been trained?" if classifier else "")
        )
    if info["mismatched_keys"]:
        shapes = {
            f"{name} is {tuple(found)}, config.json says {tuple(wanted)}"
            for name, found, wanted in info["mismatched_keys"]
        }
        raise ModelLoadError(f"weights do not fit: {_some(shapes)}")
    loaded: nn.Module = model.eval().requires_grad_(False)
    return loaded


def check_weights(folder: Path, trust: Trust) -> None:
    """Refuse a folder without weights, or with pickled weights only unless the user trusts them."""
    if weight_files(folder):
        return
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise ModelLoadError(f"{folder} holds no weights (model.safetensors)")
    if not trust.pickle:
        raise ModelLoadError(PICKLE_REFUSED)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads from `folder`, sorted."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / "model.safetensors.index.json").is_file():
        return sorted(folder.glob("model-*.safetensors"))
    return []


def usable_positions(model: nn.Module, config: Any) -> int | None:
    """Longest input that the model has positions for, special tokens included.

    Families like RoBERTa number positions from their padding index on, so that some rows of the
    table are never used. None: the model says nothing about it.
    """
    for name, module in model.named_modules():
        table = name.rpartition(".")[2] in {"position_embeddings", "embed_positions"}
        if table and isinstance(module, nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    limit = getattr(config, "max_position_embeddings", None)
    return int(limit) if limit is not None and limit > 0 else None


def takes_types(model: nn.Module) -> bool:
    """Whether the model has a use for token types."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


def call(
    model: nn.Module,
    token_ids: Tensor,
    mask: Tensor,
    type_ids: Tensor | None,
    layout: Layout | None = None,
) -> Any:
    """Run a model of transformers on (n, length) token ids.

    Args:
        layout: for one whose layers run without padding, in the place of the mask.
    """
    types = {} if type_ids is None else {"token_type_ids": type_ids}
    if layout is not None:
        return model(input_ids=token_ids, layout=layout, **types)
    return model(input_ids=token_ids, attention_mask=mask, **types)


def _pooler_is_optional(config: Any, trust: Trust) -> bool:
    if trust.remote_code and hasattr(config, "auto_map"):
        return False
    classes = transformers.MODEL_MAPPING[type(config)]
    model = classes[0] if isinstance(classes, tuple) else classes
    return "add_pooling_layer" in inspect.signature(model.__init__).parameters


def _some(names: set[str], most: int = 3) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(listed[:most]) + more


@contextmanager
def _transformers(what: str, trust: Trust) -> Iterator[None]:
    """Run transformers one load at a time, silently, and turn what it raises into our error.

    Loading changes process-wide state (default dtype, initialisation), hence the lock.
    """
    with _loading, quiet_transformers():
        try:
            yield
        except ModelLoadError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            if "trust_remote_code" in text and not trust.remote_code:
                raise ModelLoadError(
                    "it comes with its own Python code; set BERTSTREAM_TRUST_REMOTE_CODE=true "
                    "if you trust it"
                ) from None
            raise ModelLoadError(f"transformers cannot read {what}: {one_line(error)}") from error
