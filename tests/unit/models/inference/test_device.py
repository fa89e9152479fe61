"""Devices and precisions, as far as this machine has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import ModelLoadError
from models.inference.device import (
    choose_devices,
    choose_dtype,
    computes_bfloat16,
    is_out_of_memory,
    share_cpu,
    to_device,
    to_host,
    usable_cores,
)

CPU = torch.device("cpu")


def test_auto_takes_the_best_there_is() -> None:
    expected = (
        "cuda:0"
        if torch.cuda.is_available()
        else ("mps" if torch.backends.mps.is_available() else "cpu")
    )
    assert choose_devices("auto") == [torch.device(expected)]


def test_cpu() -> None:
    assert choose_devices("cpu") == [CPU]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("setting", ["cuda", "cuda:0,cuda:1"])
def test_absent_gpu_is_one_clear_line(setting: str) -> None:
    with pytest.raises(ModelLoadError, match=r"device cuda: .* cpu"):
        choose_devices(setting)


@pytest.mark.parametrize("setting", ["gpu", "tpu:0", "", "cuda:x", "meta", "cuda:-1"])
def test_other_names_are_refused(setting: str) -> None:
    with pytest.raises(ModelLoadError, match="device"):
        choose_devices(setting)


def test_dtype_by_name() -> None:
    assert choose_dtype("float32", CPU) is torch.float32
    assert choose_dtype("float16", CPU) is torch.float16
    with pytest.raises(ModelLoadError, match="int8"):
        choose_dtype("int8", CPU)


def test_auto_dtype_is_bfloat16_where_the_hardware_computes_it() -> None:
    expected = torch.bfloat16 if computes_bfloat16(CPU) else torch.float32
    assert choose_dtype("auto", CPU) is expected


@pytest.mark.parametrize(
    ("machine", "system", "capabilities", "expected"),
    [
        ("x86_64", "linux", {"avx512_f": True}, False),
        ("x86_64", "linux", {"avx512_bf16": True}, True),
        ("x86_64", "linux", {"amx_bf16": True}, True),
        ("aarch64", "linux", {"bf16": True}, True),
        ("aarch64", "linux", {"neon": True}, False),
        ("arm64", "darwin", {"bf16": True}, False),
    ],
)
def test_bfloat16_of_other_cpus(
    machine: str,
    system: str,
    capabilities: dict[str, bool],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert computes_bfloat16(CPU) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("Invalid buffer size: 19.45 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_allocator_of_this_machine_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_outputs_on_the_cpu_are_there_already() -> None:
    rows = torch.ones(2, 3)
    assert torch.equal(to_host(rows)(), rows)
    assert torch.equal(to_device(np.eye(2), torch.device("cpu")), torch.eye(2, dtype=torch.double))


@pytest.mark.parametrize(
    ("cores", "threads", "shared"),
    [
        (1, None, (1, 1)),
        (2, None, (2, 1)),
        (4, None, (4, 1)),
        (32, None, (4, 8)),
        (2, 2, (1, 2)),
        (8, 3, (2, 3)),
        (2, 8, (1, 8)),
        (32, 1, (4, 1)),
    ],
)
def test_batches_share_the_cores_that_the_process_may_use(
    cores: int, threads: int | None, shared: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.inference.device.usable_cores", lambda: cores)
    assert share_cpu(threads) == shared


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
        (None, 8),
    ],
)
def test_a_container_may_be_given_fewer_cores(
    content: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    limit = tmp_path / "cpu.max"
    if content is not None:
        limit.write_text(content)
    assert usable_cores(limit) == cores
