"""The models that are served, by name."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from models.errors import ModelLoadError, UnknownModel, shortened
from models.inference.agreement import MOST_DIFFERENCE, Reference
from models.inference.checkpoint import Checkpoint, load_checkpoint
from models.inference.cpu_layers import fuse_layers
from models.inference.device import choose_devices, choose_dtype, release_memory
from models.inference.engine import SEGMENT_OVERLAP, Engine
from models.inference.hub import Progress
from models.inference.padding_free import attends_within_rows, leave_out_padding
from models.inference.tasks import Aggregation
from models.inference.transformer import Trust

log = logging.getLogger(__name__)

Kind = Literal["auto", "plain"]


class ModelRegistry:
    """Engines by name; the first is the default, and all share the same devices."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if not engines:
            raise ValueError("a registry holds at least one model")
        self._engines = dict(engines)
        self.default = next(iter(self._engines))
        """Name of the model that documents without a model go to."""

    @classmethod
    def load(
        cls,
        specs: Mapping[str, str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        engine: Kind = "auto",
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        aggregation: Aggregation = "mean",
        segment_overlap: int = SEGMENT_OVERLAP,
        progress: Progress | None = None,
    ) -> ModelRegistry:
        """Load checkpoints, the default first.

        Args:
            specs: `builtin`, a folder, or a model id of the hub with optional `@revision`, by name.
            device: `auto`, `cpu`, `cuda`, `cuda:0,cuda:1` or `mps`; one replica on each.
            dtype: `auto`, `float32`, `bfloat16` or `float16`. With `auto` a model whose answers
                differ in bfloat16 from those in float32 (see `agreement`) is given float32.
            engine: `auto` replaces the layers that are known to be faster otherwise; `plain`
                leaves transformers' own.
            progress: takes a line at each step.

        Raises:
            ModelLoadError: one of them cannot be served, or the device is absent. What had been
                loaded is closed.
        """
        devices = choose_devices(device)
        precision = choose_dtype(dtype, devices[0])
        report = progress or (lambda _: None)
        load = partial(
            _load,
            trust=Trust(remote_code=trust_remote_code, pickle=allow_pickle),
            progress=report,
            aggregation=aggregation,
            segment_overlap=segment_overlap,
        )
        engines: dict[str, Engine] = {}
        try:
            for name, spec in specs.items():
                engines[name], off = load(name, spec, devices, precision, engine)
                if off > MOST_DIFFERENCE:
                    log.warning(
                        "model=%s %s in %s: %s",
                        name,
                        f"differs by {off:.0%} from float32"
                        if math.isfinite(off)
                        else "gives no finite numbers",
                        str(precision).removeprefix("torch."),
                        "taking float32" if dtype == "auto" else "try DTYPE=float32",
                    )
                    if dtype == "auto":
                        engines[name].close()
                        engines[name], _ = load(name, spec, devices, torch.float32, engine)
                report(_summary(engines[name]))
        except BaseException as error:
            for loaded in engines.values():
                loaded.close()
            if isinstance(error, ModelLoadError):
                raise ModelLoadError(f"model {name}: {error}") from error.__cause__
            raise
        return cls(engines)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models, the default first."""
        return tuple(self._engines)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices, each with a replica of every model."""
        return self._engines[self.default].devices

    def engine(self, name: str | None = None) -> Engine:
        """The engine of a model; None: the default.

        Raises:
            UnknownModel: there is no model of this name.
        """
        name = self.default if name is None else name
        try:
            return self._engines[name]
        except KeyError:
            raise UnknownModel(
                f"there is no model {shortened(name)!r} here, only {', '.join(self.names)}"
            ) from None

    def describe(self) -> list[dict[str, Any]]:
        """What the status page shows of each model, the default first."""
        return [
            {**engine.describe(), "default": name == self.default}
            for name, engine in self._engines.items()
        ]

    def warm_up(self) -> None:
        """Make every model ready for its first document."""
        for engine in self._engines.values():
            engine.warm_up()

    def close(self) -> None:
        """Give the memory of all models back."""
        for engine in self._engines.values():
            engine.close()


def _load(
    name: str,
    spec: str,
    devices: list[torch.device],
    dtype: torch.dtype,
    engine: Kind,
    *,
    trust: Trust,
    progress: Progress,
    aggregation: Aggregation,
    segment_overlap: int,
) -> tuple[Engine, float]:
    """Load a model; also tells how much it differs in this precision from float32."""
    checkpoint = load_checkpoint(spec, trust=trust, progress=progress)
    reference = None
    if dtype != torch.float32:
        exact = Engine(checkpoint, {torch.device("cpu"): checkpoint.network}, name=name, path=spec)
        reference = Reference.of(exact)
        checkpoint = checkpoint.lower(dtype)
    replicas = _replicate(checkpoint, devices)
    loaded = Engine(
        checkpoint,
        replicas,
        name=name,
        path=spec,
        layers=_speed_up(replicas, checkpoint.dtype) if engine == "auto" else "plain",
        aggregation=aggregation,
        segment_overlap=segment_overlap,
    )
    return loaded, 0.0 if reference is None else reference.difference(loaded)


def _replicate(
    checkpoint: Checkpoint, devices: list[torch.device]
) -> dict[torch.device, nn.Module]:
    """Put the network on the first device and copies of it on the others."""
    copies = {device: copy.deepcopy(checkpoint.network) for device in devices[1:]}
    try:
        return {device: copies.get(device, checkpoint.network).to(device) for device in devices}
    except RuntimeError as error:
        raise ModelLoadError(f"it does not fit the device: {error}") from error


def _speed_up(replicas: Mapping[torch.device, nn.Module], dtype: torch.dtype) -> str:
    """Replace layers by faster ones where all devices have such; returns what they are called."""
    if not all(attends_within_rows(device, dtype) for device in replicas):
        return "plain"
    without = {leave_out_padding(network) for network in replicas.values()}
    if without != {True}:
        return "plain"
    cpu = torch.device("cpu")
    if cpu not in replicas:
        return "padding-free"
    try:
        return "fused" if fuse_layers(replicas[cpu]) else "padding-free"
    except RuntimeError as error:
        raise ModelLoadError(f"its layers cannot be fused ({error}): set ENGINE=plain") from error
    finally:
        release_memory(cpu)


def _summary(engine: Engine) -> str:
    facts = engine.describe()
    return (
        f"{facts['name']}: {facts['family']}, {facts['parameters'] / 1e6:.1f} M parameters, "
        f"{facts['task']}, window {facts['window']}, {facts['dtype']} on {facts['device']}"
        + ("" if facts["engine"] == "plain" else f", {facts['engine']} layers")
    )
