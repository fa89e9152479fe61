"""The topics: which there are, how they are created, what is in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.structs import TopicPartition

from app.changelogs import CHANGELOGS
from app.errors import BrokerError
from app.kafka import client_options
from app.settings import MAX_BATCH_BYTES, PREFIX, Settings

VISIBLE_WITHIN_S = 30.0
"""How long a topic that was just created may take to be known to the brokers."""
MEND_FIXED = "delete it while no worker runs, and it is made anew"
"""What to do with a topic whose number of partitions will not do."""
DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as we would create it."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    """Whether no other number of partitions will do."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker has it; `partitions` is 0 where it is missing."""

    name: str
    partitions: int
    wanted_partitions: int
    created: bool = False
    fixed: bool = False
    """Whether no other number of partitions will do."""

    @property
    def exists(self) -> bool:
        return self.partitions > 0


def topic_specs(settings: Settings) -> list[TopicSpec]:
    """The topics that a worker needs."""
    large = {"max.message.bytes": str(MAX_BATCH_BYTES)}
    return [
        TopicSpec(settings.request_topic, settings.partitions, large),
        TopicSpec(settings.response_topic, settings.partitions, large),
        TopicSpec(
            settings.dead_letter_topic,
            settings.partitions,
            {**large, "retention.ms": str(30 * DAY_MS)},
        ),
        TopicSpec(settings.throughput_topic, 1, {"retention.ms": str(DAY_MS)}, fixed=True),
        *(
            TopicSpec(changelog.topic(settings), 1, changelog.config, fixed=True)
            for changelog in CHANGELOGS
        ),
    ]


async def ensure_topics(settings: Settings, *, create: bool | None = None) -> list[TopicState]:
    """Create the topics that are missing, where that is wanted, and tell what there is.

    An existing topic stays as it is, whatever its number of partitions.

    Raises:
        BrokerError: a topic is missing and may not be created, or the broker refuses.
    """
    create = settings.create_topics if create is None else create
    specs = topic_specs(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        before = await _partitions(admin, specs)
        missing = [spec for spec in specs if not before[spec.name]]
        if missing and create:
            await _create(admin, missing, settings)
            async with asyncio.timeout(VISIBLE_WITHIN_S):
                while 0 in (await _partitions(admin, missing)).values():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    except KafkaError as error:
        raise BrokerError(_explain(error, settings)) from error
    except TimeoutError:
        raise BrokerError(
            f"topics were created, but not seen within {VISIBLE_WITHIN_S:.0f} s"
        ) from None
    finally:
        await admin.close()
    states = [
        TopicState(
            spec.name,
            before[spec.name] or (spec.partitions if create else 0),
            spec.partitions,
            created=create and not before[spec.name],
            fixed=spec.fixed,
        )
        for spec in specs
    ]
    if not create and missing:
        names = ", ".join(spec.name for spec in missing)
        raise BrokerError(
            f"missing topics: {names}; create them with `bertstream topics --create`, or set "
            f"{PREFIX}CREATE_TOPICS=true"
        )
    for state in states:
        if state.fixed and state.partitions != state.wanted_partitions:
            raise BrokerError(
                f"topic {state.name} has {state.partitions} partitions, but must have "
                f"{state.wanted_partitions}: {MEND_FIXED}"
            )
    return states


async def topic_states(settings: Settings) -> list[TopicState]:
    """The topics as the broker has them; nothing is created.

    Raises:
        BrokerError: the broker cannot be asked.
    """
    admin = AIOKafkaAdminClient(**client_options(settings))
    specs = topic_specs(settings)
    try:
        await admin.start()
        partitions = await _partitions(admin, specs)
    except KafkaError as error:
        raise BrokerError(_explain(error, settings)) from error
    finally:
        await admin.close()
    return [
        TopicState(spec.name, partitions[spec.name], spec.partitions, fixed=spec.fixed)
        for spec in specs
    ]


async def _partitions(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> dict[str, int]:
    """Number of partitions by topic, 0 for one that does not exist."""
    existing = set(await admin.list_topics())
    names = [spec.name for spec in specs]
    found = [name for name in names if name in existing]
    described = await admin.describe_topics(found) if found else []
    counts = {
        topic["topic"]: len(topic["partitions"])
        for topic in described
        if all(partition["leader"] >= 0 for partition in topic["partitions"])
    }
    return {name: counts.get(name, 0) for name in names}


async def _create(
    admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], settings: Settings
) -> None:
    response = await admin.create_topics(
        [
            NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=settings.replication,
                topic_configs=dict(spec.config),
            )
            for spec in specs
        ]
    )
    for name, code, *reason in response.topic_errors:
        error = for_code(code)
        # Another worker that starts at the same time may have been faster.
        if code and error is not TopicAlreadyExistsError:
            raise BrokerError(f"topic {name} cannot be created: {error.__name__} {reason or ''}")


def _explain(error: KafkaError, settings: Settings) -> str:
    brokers = ", ".join(settings.bootstrap_servers)
    return f"the broker at {brokers} cannot be used: {error or type(error).__name__}"


@dataclass(frozen=True, slots=True)
class PartitionState:
    """How far the group has read one partition of a topic."""

    partition: int
    end: int
    committed: int | None
    """Offset of the next record to be read; None where nothing was committed yet."""
    begin: int

    @property
    def lag(self) -> int:
        """Records that wait to be read."""
        return self.end - max(self.begin, self.committed or 0)


async def partition_states(
    settings: Settings,
    consumer: AIOKafkaConsumer,
    admin: AIOKafkaAdminClient,
    topic: str | None = None,
) -> list[PartitionState]:
    """How far the group has read a topic, through clients that are started.

    Arguments:
        topic: By default that of the requests.

    Raises:
        KafkaError: the broker cannot be asked.
    """
    topic = topic or settings.request_topic
    [described] = await admin.describe_topics([topic])
    partitions = sorted(
        TopicPartition(topic, partition["partition"]) for partition in described["partitions"]
    )
    if not partitions:
        return []
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    try:
        offsets = await admin.list_consumer_group_offsets(settings.app_id, partitions=partitions)
    except GroupCoordinatorNotAvailableError:  # a broker that never had a group
        offsets = {}
    return [
        PartitionState(
            partition=tp.partition,
            end=ends[tp],
            committed=offsets[tp].offset if tp in offsets and offsets[tp].offset >= 0 else None,
            begin=begins[tp],
        )
        for tp in partitions
    ]
