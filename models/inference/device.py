"""Where a model runs and in which precision."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ModelLoadError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CPU_BATCH_TOKENS = 2048
"""A CPU gains nothing from larger batches: they leave its caches, and pad more."""
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
MOST_CPU_LANES = 4
"""Batches that a CPU computes at once: each needs memory of its own, and more of them would leave
a single one fewer threads."""

OUT_OF_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "Invalid buffer size",
)
"""What a RuntimeError says then: of CUDA and MPS, torch's allocator for the CPU on Linux and
elsewhere, NVIDIA's libraries, C++, and Metal for a single tensor."""


def choose_devices(setting: str = "auto") -> list[torch.device]:
    """Read `auto`, `cpu`, `cuda`, `cuda:0,cuda:1` or `mps`; one replica of a model runs on each.

    `auto` is the first CUDA device, else Apple's MPS, else the CPU.

    Raises:
        ModelLoadError: a device that this machine or this torch does not have.
    """
    if setting == "auto":
        if torch.cuda.is_available():
            return [torch.device("cuda:0")]
        return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]
    devices = list(dict.fromkeys(_device(name.strip()) for name in setting.split(",")))
    for device in devices:
        _check_present(device)
    return devices


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Read `auto`, `float32`, `bfloat16` or `float16`.

    `auto` is bfloat16 where the hardware computes it, else float32.

    Raises:
        ModelLoadError: another name.
    """
    if setting == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    try:
        return DTYPES[setting]
    except KeyError:
        raise ModelLoadError(f"dtype {setting!r} is not auto, {', '.join(DTYPES)}") from None


def share_cpu(threads: int | None = None) -> tuple[int, int]:
    """Divide the cores that this process may use among batches that are computed at once.

    Threads that compute one batch wait for the slowest of them in every layer, and Kafka and others
    want the same cores; batches of their own wait for nobody.

    Args:
        threads: of each batch; None: as many as give each of `MOST_CPU_LANES` its share.

    Returns:
        How many batches at once, and the threads of each.
    """
    cores = usable_cores()
    threads = threads or max(1, cores // MOST_CPU_LANES)
    return max(1, min(MOST_CPU_LANES, cores // threads)), threads


def usable_cores(limit: Path = CPU_LIMIT) -> int:
    """Cores that this process may use: those that it is bound to, or what its container is given.

    Args:
        limit: the file in which Linux says what the container may use, where it says so.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores  # There is no limit: none is told, or it is "max".


def most_tokens(device: torch.device, batch_tokens: int) -> int:
    """Tokens of a device batch, with what padding costs, that serve this device best."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if device.type == "cpu" else batch_tokens


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; to CUDA from pinned memory, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(outputs: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a batch's outputs to the host's memory.

    On CUDA the copy follows the batch that it is of at once, and not what is launched after that.

    Returns:
        Waits for the outputs, and gives them.
    """
    if not outputs.is_cuda:
        return outputs.cpu
    host = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
    host.copy_(outputs, non_blocking=True)
    # A thread that waits for it sleeps: the others need the cores.
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(outputs.device))

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16, rather than emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    if platform.machine() in {"x86_64", "AMD64"}:
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    # On macOS torch's matrix products for the CPU do not use the instructions.
    return sys.platform == "linux" and bool(capabilities.get("bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory for a batch."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in OUT_OF_MEMORY_SIGNS
    )


def release_memory(device: torch.device) -> None:
    """Give freed memory back to the device and to the operating system."""
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed weights in its arenas otherwise; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _device(name: str) -> torch.device:
    try:
        device = torch.device("cuda:0" if name == "cuda" else name)
    except RuntimeError:
        raise ModelLoadError(f"device {name!r} is not auto, cpu, cuda, cuda:N or mps") from None
    return torch.device("cpu") if device.type == "cpu" else device


def _check_present(device: torch.device) -> None:
    if device.type == "cpu":
        return
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ModelLoadError("device mps: this machine has no Apple GPU; choose auto or cpu")
    elif device.type == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            raise ModelLoadError(
                "device cuda: this torch is built without CUDA; choose cpu, "
                "or set up again with TORCH_BACKEND=cuda"
            )
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ModelLoadError(
                "device cuda: no NVIDIA GPU, or no driver that suits this torch; choose auto or cpu"
            )
        if (device.index or 0) >= count:
            names = ", ".join(f"cuda:{index}" for index in range(count))
            raise ModelLoadError(f"device {device}: this machine has {names}")
    else:
        raise ModelLoadError(f"device {device.type!r} is not auto, cpu, cuda, cuda:N or mps")
