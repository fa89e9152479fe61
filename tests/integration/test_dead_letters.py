"""Dead letters on a real broker: written by a worker, looked at, and replayed to it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord

from app import reading
from app import replay as replaying
from app.cli import main
from app.dead_letter_tail import DeadLetterTail
from app.dead_letter_topic import DeadLetterTopic
from app.dead_letters import Filter
from app.errors import BrokerError
from app.replay import Plan, Replay, Report
from app.settings import PREFIX, Settings
from app.topics import ensure_topics
from tests.integration.conftest import Produced, Topics, run
from tests.workers import StartedWorker, environment, eventually, service_settings

GOOD = orjson.dumps({"text": "Shares fell on Monday after the bank reported a loss."})
MAX_LETTER_BYTES = 2_000
"""What the topic of dead letters takes, in the tests with a worker."""
Captured = pytest.CaptureFixture[str]


def create(bootstrap_servers: str, topic: str, partitions: int, **config: str) -> None:
    """Create a topic with a configuration, written with underscores for dots."""

    async def create() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
        await admin.start()
        configs = {name.replace("_", "."): value for name, value in config.items()}
        await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        await admin.close()

    run(create())


@pytest.fixture(scope="module")
def module_settings(
    bootstrap_servers: str, module_names: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A service whose topic of dead letters takes small records only."""
    folder = tmp_path_factory.mktemp("service")
    settings = service_settings(bootstrap_servers, module_names, folder)
    create(
        bootstrap_servers,
        settings.dead_letter_topic,
        settings.partitions,
        max_message_bytes=str(MAX_LETTER_BYTES),
    )
    run(ensure_topics(settings))
    return settings


@pytest.fixture
def dead_letters(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `bertstream dead-letters` on the service of this test alone."""
    return command(settings, monkeypatch)


def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(settings.data_dir)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["dead-letters", *arguments])
        assert isinstance(end.value.code, int)
        return end.value.code

    return run


def letter(
    settings: Settings,
    offset: int,
    *,
    value: bytes | None = GOOD,
    key: bytes | None = None,
    headers: tuple[tuple[str, bytes], ...] = (),
    code: str = "inference_failed",
    partition: int = 0,
    topic: str | None = None,
    timestamp_ms: int | None = None,
    source_ms: int = 1_700_000_000_000,
    omitted: bool = False,
) -> Produced:
    """A dead letter as a worker writes it."""
    facts = [
        ("error.code", code.encode()),
        ("error.message", b"the device went away"),
        ("source.topic", (topic or settings.request_topic).encode()),
        ("source.partition", str(partition).encode()),
        ("source.offset", str(offset).encode()),
        ("source.timestamp", str(source_ms).encode()),
    ]
    if omitted:
        facts.append(("error.value", b"omitted"))
    return Produced(value, key, [*headers, *facts], timestamp_ms)


def write_empty(topics: Topics, topic: str, record: Produced) -> None:
    """Write a record that has neither key nor value, which `Topics.write` cannot."""

    async def write() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=topics.bootstrap_servers)
        async with producer:
            batch = producer.create_batch()
            batch.append(key=None, value=None, timestamp=None, headers=record.headers)
            await producer.partitions_for(topic)
            await (await producer.send_batch(batch, topic, partition=0))

    run(write())


def rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_the_newest_come_first_and_are_counted_by_code(
    settings: Settings, topics: Topics, dead_letters: Any, capsys: Captured
) -> None:
    topics.write(
        settings.dead_letter_topic,
        [
            letter(
                settings,
                offset,
                code="empty_text" if offset % 3 else "invalid_json",
                partition=offset % 4,
                key=str(offset).encode(),
                timestamp_ms=1_750_000_000_000 + offset * 60_000,
            )
            for offset in range(30)
        ],
    )
    assert dead_letters("list", "--json", "--limit", "5") == 0
    newest = rows(capsys.readouterr().out)
    assert [row["source"]["offset"] for row in newest] == [29, 28, 27, 26, 25]
    assert newest[0] == {
        "time": "2025-06-15T15:35:40.000+00:00",
        "code": "empty_text",
        "message": "the device went away",
        "id": "29",
        "place": newest[0]["place"] | {"topic": settings.dead_letter_topic},
        "source": {"topic": settings.request_topic, "partition": 1, "offset": 29},
        "replays": 0,
        "replayed_at": None,
        "value_bytes": len(GOOD),
        "omitted": False,
        "text": GOOD.decode()[:59] + "…",
    }

    assert dead_letters("list", "--limit", "4") == 0
    shown = capsys.readouterr()
    clocks = re.findall(r"^\d{4}-\d\d-\d\d \d\d:(\d\d):40", shown.out, re.MULTILINE)
    assert clocks == ["35", "34", "33", "32"]
    assert re.search(r"30 dead letters\n +empty_text 20\n +invalid_json 10\n", shown.out)
    assert "the newest 4" in shown.err

    def listed(*filters: str) -> list[int]:
        assert dead_letters("list", "--json", "--limit", "100", *filters) == 0
        return [row["source"]["offset"] for row in rows(capsys.readouterr().out)]

    assert listed("--code", "invalid_json", "--partition", "1") == [21, 9]
    assert listed("--code", "invalid_json", "--code", "empty_text") == [*range(29, -1, -1)]
    assert listed("--partition", "2", "--partition", "3", "--since", newest[4]["time"]) == [27, 26]
    assert listed("--until", "2025-06-15T15:08:40Z") == [1, 0]
    assert listed("--since", "2h") == []


def test_a_value_can_be_seen_whole_and_cannot_touch_the_terminal(
    settings: Settings,
    topics: Topics,
    dead_letters: Any,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    hostile = b'{"text": "\x1b]0;owned\x07\xc2\x9b2J \xe2\x80\xae caf\xe9 ' + b"long " * 100 + b'"}'
    written = topics.write(
        settings.dead_letter_topic,
        [
            letter(settings, 7),
            letter(
                settings,
                8,
                value=hostile,
                key=b"\x1bc",
                headers=(("\x1b[2J", b"\x1b[31m"), ("source.topic", b"mine"), ("empty", b"")),
                code="invalid_\x1b[0mjson",
                topic="evil\x1b]8;;",
            ),
        ],
    )
    request = "evil\x1b]8;;-0-8"
    place = "{}-{}-{}".format(settings.dead_letter_topic, *written[1])
    for where in (request, place):
        assert dead_letters("show", where, "--raw") == 0
        assert capsysbinary.readouterr().out == hostile
    for arguments in (["show", request], ["list"]):
        assert dead_letters(*arguments) == 0
        shown = capsysbinary.readouterr().out.decode()
        assert re.findall(r"[^\n\x20-\x7e\u00a1-\u024f\u2026]", shown) == []
        assert "\\x1b]0;owned\\x07" in shown
        assert "\\u202e caf\\xe9" in shown
    assert dead_letters("show", request, "--json") == 0
    facts = json.loads(capsysbinary.readouterr().out)
    assert facts["headers"][1:] == [["source.topic", "mine"], ["empty", ""]]
    assert facts["value"].encode().startswith(b'{"text": "\x1b]0;owned')
    assert facts["id"] == "\x1bc"


def test_what_is_not_there_is_said_in_a_line(
    settings: Settings, dead_letters: Any, capsys: Captured
) -> None:
    assert dead_letters("list") == 0
    assert capsys.readouterr().out == "no dead letters\n"
    assert dead_letters("replay", "--yes") == 0
    assert capsys.readouterr().out == "0 replayed\n"
    for place in (f"{settings.request_topic}-0-7", f"{settings.dead_letter_topic}-0-7"):
        assert dead_letters("show", place) == 1
        assert f"there is no dead letter of {place}" in capsys.readouterr().err


def replayed(topics: Topics, topic: str, count: int) -> list[ConsumerRecord]:
    return topics.read(topic, count, quiet_s=0.3)


def test_a_replay_is_the_request_itself_once(
    settings: Settings, topics: Topics, dead_letters: Any, capsys: Captured
) -> None:
    traced = (("traceparent", b"00-1"), ("replay.count", b"1"), ("source.topic", b"mine"))
    topics.write(
        settings.dead_letter_topic,
        [
            letter(settings, 0, value=b'{"id": "own", "text": "a"}', headers=traced),
            letter(settings, 1, value=b"caf\xe9", key=b"key"),
            letter(settings, 2, value=b"no id \x00", headers=(("replay.id", b"inherited"),)),
            letter(settings, 3, value=b"neither", key=b"\xff"),
            letter(settings, 5, value=b"", code="invalid_json"),
        ],
    )
    write_empty(topics, settings.dead_letter_topic, letter(settings, 4, value=None))
    assert dead_letters("replay", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["found"] == 6
    assert dead_letters("replay", "--yes", "--json", "--code", "inference_failed") == 0
    assert json.loads(capsys.readouterr().out) == {
        "found": 5,
        "codes": {"inference_failed": 5},
        "already_replayed": 0,
        "replayed_too_often": 0,
        "replayed": 5,
        "failed": {},
    }
    topic = settings.request_topic
    requests = {
        (record.value, record.key): dict(record.headers) for record in replayed(topics, topic, 5)
    }
    assert requests == {
        (b'{"id": "own", "text": "a"}', None): {
            "traceparent": b"00-1",
            "source.topic": b"mine",
            "replay.count": b"2",
        },
        (b"caf\xe9", b"key"): {"replay.count": b"1"},
        (b"no id \x00", None): {"replay.count": b"1", "replay.id": b"inherited"},
        (b"neither", b"\xff"): {"replay.count": b"1", "replay.id": f"{topic}-0-3".encode()},
        (None, None): {"replay.count": b"1", "replay.id": f"{topic}-0-4".encode()},
    }

    assert dead_letters("replay", "--yes") == 0
    said = capsys.readouterr().out
    assert "1 replayed\n5 left out: replayed before" in said
    assert len(replayed(topics, topic, 6)) == 6
    assert dead_letters("list", "--json") == 0
    assert all(row["replayed_at"] for row in rows(capsys.readouterr().out))
    assert dead_letters("list", "--waiting") == 0
    assert "6 dead letters, 6 replayed" in capsys.readouterr().out
    assert dead_letters("show", f"{topic}-0-3") == 0
    assert re.search(r"^replayed +20", capsys.readouterr().out, re.MULTILINE)

    assert dead_letters("replay", "--yes", "--again", "--limit", "2") == 0
    assert len(replayed(topics, topic, 8)) == 8


def test_what_keeps_failing_is_left_out(
    settings: Settings, topics: Topics, dead_letters: Any, capsys: Captured
) -> None:
    counts = (b"2", b"3", b"4", b"nonsense", b"99999999999999999999")
    topics.write(
        settings.dead_letter_topic,
        [
            letter(settings, offset, headers=(("replay.count", count),))
            for offset, count in enumerate(counts)
        ],
    )
    assert dead_letters("replay", "--yes", "--max-replays", "3") == 0
    assert "3 replayed\n2 left out: replayed 3 times or more" in capsys.readouterr().out
    found = Counter(
        dict(one.headers)["replay.count"] for one in replayed(topics, settings.request_topic, 3)
    )
    assert found == {b"3": 1, b"1": 2}


def test_one_that_is_too_large_keeps_no_other_back(
    bootstrap_servers: str,
    settings: Settings,
    topics: Topics,
    dead_letters: Any,
    capsys: Captured,
) -> None:
    target = f"{settings.request_topic}-small"
    create(bootstrap_servers, target, 2, max_message_bytes="1500")
    large = (3, 17, 18)
    topics.write(
        settings.dead_letter_topic,
        [
            letter(
                settings,
                n,
                value=(b"x" * 2_000 if n in large else b"%d" % n),
                headers=(("traceparent", b"00-%d" % n),),
            )
            for n in range(40)
        ]
        + [letter(settings, 40, topic=f"{settings.request_topic}-gone")],
    )
    assert dead_letters("replay", "--yes", "--to", target) == 1
    said = capsys.readouterr()
    assert "38 replayed" in said.out
    assert said.err == f"3 not replayed: the request is too large for {target}\n"
    values = {record.value for record in replayed(topics, target, 38)}
    assert values == {b"%d" % n for n in range(40) if n not in large} | {GOOD}

    assert dead_letters("replay", "--yes", "--again") == 1
    said = capsys.readouterr()
    assert "40 replayed" in said.out
    assert said.err == f"1 not replayed: there is no topic {settings.request_topic}-gone\n"


def test_a_value_that_was_omitted_is_taken_from_the_request(
    settings: Settings, topics: Topics, dead_letters: Any, capsys: Captured
) -> None:
    large = Produced(b"{" * 100_000, b"key", [("traceparent", b"00-7")], 1_750_000_000_123)
    [(partition, offset)] = topics.write(settings.request_topic, [large])
    where: dict[str, Any] = {"partition": partition, "value": None, "key": b"key", "omitted": True}
    topics.write(
        settings.dead_letter_topic,
        [
            letter(settings, offset, source_ms=1_750_000_000_123, **where),
            letter(settings, offset + 100, **where),
            # As if the topic had been made anew: another record is at this place now.
            letter(settings, offset, source_ms=1_740_000_000_000, **where),
        ],
    )
    assert dead_letters("replay", "--yes") == 1
    said = capsys.readouterr()
    assert "1 replayed" in said.out
    assert said.err.startswith("2 not replayed: the value was too large to be kept, and the")
    again = [
        one
        for one in replayed(topics, settings.request_topic, 2)
        if one.offset != offset or one.partition != partition
    ]
    assert [(one.value, one.key) for one in again] == [(large.value, b"key")]
    assert dict(again[0].headers) == {"traceparent": b"00-7", "replay.count": b"1"}
    assert dead_letters("show", f"{settings.request_topic}-{partition}-{offset + 100}") == 0
    assert "value omitted" in capsys.readouterr().out


def planned(settings: Settings, *steps: Any) -> Any:
    """Make a plan, and call the steps with it, one after the other."""

    async def plan() -> Any:
        async with DeadLetterTopic.open(settings, settled=True) as topic:
            plan = await Plan.of(topic, Filter())
            return [await step(topic, plan) for step in steps]

    return run(plan())


def test_a_replay_that_is_interrupted_sends_the_rest_the_next_time(
    settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "BATCH_LETTERS", 10)
    topics.write(
        settings.dead_letter_topic,
        [letter(settings, n, value=b"%d" % n, key=b"same") for n in range(55)],
    )

    class Interrupted(Exception):
        pass

    async def interrupted(topic: DeadLetterTopic, plan: Plan) -> None:
        tried = 0

        def advance(more: int) -> None:
            nonlocal tried
            tried += more
            if tried == 35:
                raise Interrupted

        async with Replay.open(settings, topic) as replay:
            await replay.send(plan, advance=advance)

    with pytest.raises(Interrupted):
        planned(settings, interrupted)
    sent = [record.value for record in replayed(topics, settings.request_topic, 30)]
    assert sorted(sent, key=int) == [b"%d" % n for n in range(30)]

    async def whole(topic: DeadLetterTopic, plan: Plan) -> Report:
        async with Replay.open(settings, topic) as replay:
            return await replay.send(plan)

    [report] = planned(settings, whole)
    assert report == Report(replayed=25)
    sent = [record.value for record in replayed(topics, settings.request_topic, 55)]
    assert sorted(sent, key=int) == [b"%d" % n for n in range(55)]


def test_a_replay_that_is_killed_sends_nothing_twice(
    settings: Settings, topics: Topics, dead_letters: Any, capsys: Captured
) -> None:
    count = 8_000
    topics.write(
        settings.dead_letter_topic, [letter(settings, n, value=b"%d" % n) for n in range(count)]
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", "dead-letters", "replay", "--yes"],
        env=environment(settings),
        cwd=settings.data_dir,
    ) as process:
        topics.read(settings.request_topic, 1, quiet_s=0)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert dead_letters("replay", "--yes", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["already_replayed"] + report["replayed"] == count
    assert report["already_replayed"]
    sent = [int(record.value) for record in replayed(topics, settings.request_topic, count)]
    assert sorted(sent) == [*range(count)]


def fail_before_the_mark(producer: AIOKafkaProducer) -> None:
    """Let a producer that is fenced find out before it is given the last record.

    So it goes where that one's topic has to be looked up first.
    """
    send = producer.send

    async def send_late(*arguments: Any, **options: Any) -> Any:
        if options["key"] == b"replayed":
            await asyncio.wait_for(asyncio.wait([producer._sender.sender_task]), 30)
        return await send(*arguments, **options)

    producer.send = send_late


@pytest.mark.parametrize("found_out", ["in the end", "while it sends"])
def test_of_two_replays_at_once_the_later_one_counts(
    settings: Settings, topics: Topics, found_out: str
) -> None:
    topics.write(settings.dead_letter_topic, [letter(settings, n) for n in range(20)])

    async def both(topic: DeadLetterTopic, plan: Plan) -> tuple[str, Report]:
        async with Replay.open(settings, topic) as first:
            if found_out == "while it sends":
                fail_before_the_mark(first._producer)
            async with Replay.open(settings, topic) as second:
                report = await second.send(plan)
            with pytest.raises(BrokerError) as ended:
                await first.send(await Plan.of(topic, Filter(), again=True))
            return str(ended.value), report

    [(why, report)] = planned(settings, both)
    assert report == Report(replayed=20)
    assert "another replay has begun" in why
    assert len(replayed(topics, settings.request_topic, 20)) == 20


def test_what_another_replay_has_sent_meanwhile_is_not_sent(
    settings: Settings, topics: Topics
) -> None:
    topics.write(settings.dead_letter_topic, [letter(settings, n) for n in range(20)])

    async def other(topic: DeadLetterTopic, plan: Plan) -> None:
        async with DeadLetterTopic.open(settings) as opened_later:
            theirs = await Plan.of(opened_later, Filter())
            async with Replay.open(settings, opened_later) as replay:
                await replay.send(theirs, limit=12)

    async def ours(topic: DeadLetterTopic, plan: Plan) -> Report:
        topics_now = asyncio.to_thread(
            topics.write, settings.dead_letter_topic, [letter(settings, 20)]
        )
        await topics_now
        async with Replay.open(settings, topic) as replay:
            return await replay.send(plan)

    _, report = planned(settings, other, ours)
    assert report == Report(replayed=8)
    assert len(replayed(topics, settings.request_topic, 20)) == 20


def test_an_open_transaction_is_waited_for_only_where_a_mark_may_lie_behind_it(
    settings: Settings,
    topics: Topics,
    dead_letters: Any,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a worker leaves behind that was killed while it delivered exactly once."""
    topics.write(settings.dead_letter_topic, [letter(settings, n) for n in range(10)])

    def transactional() -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=topics.bootstrap_servers,
            transactional_id=settings.app_id,
            transaction_timeout_ms=600_000,
        )

    async def leave_open() -> None:
        producer = transactional()
        await producer.start()
        await producer.begin_transaction()
        left = letter(settings, 77)
        for partition in range(settings.partitions):
            await producer.send_and_wait(
                settings.dead_letter_topic,
                left.value,
                headers=left.headers,
                partition=partition,
            )
        # Not stopped, which would abort it: closed as a killed process's connections are.
        await producer.client.close()

    async def end() -> None:
        async with transactional():
            pass

    run(leave_open())
    assert dead_letters("list", "--json") == 0
    assert {row["source"]["offset"] for row in rows(capsys.readouterr().out)} == {*range(10)}
    with monkeypatch.context() as patched:
        patched.setattr(reading, "SILENCE_S", 2.0)
        assert dead_letters("replay", "--yes") == 1
    assert f"a transaction on {settings.dead_letter_topic} has been open" in capsys.readouterr().err
    run(end())
    assert dead_letters("replay", "--yes") == 0
    assert "10 replayed" in capsys.readouterr().out


def hopeless(text: bytes, size: int = 0) -> bytes:
    """A request that ends in an error each time, of about so many bytes."""
    return b'{"text": 5, "x": "' + text + b"x" * size + b'"}'


def test_a_dead_letter_that_cannot_be_written_blocks_nobody(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> None:
    large, key = MAX_LETTER_BYTES * 50, b"k" * MAX_LETTER_BYTES
    cases = {
        b"small": Produced(hopeless(b"small"), b"small"),
        b"large": Produced(hopeless(b"large", large), b"large", [("traceparent", b"00-1")]),
        b"no-key": Produced(hopeless(b"no-key", large)),
        b"large-key": Produced(hopeless(b"large-key"), key),
        b"large-header": Produced(b"", b"large-header", [("traceparent", key)]),
    }
    records = [one for case in cases.values() for one in (Produced(GOOD), case, Produced(GOOD))]
    written = topics.write(module_settings.request_topic, records)
    places = dict(zip(cases, written[1::3], strict=True))
    statuses = Counter(
        answer["status"]
        for answer in topics.responses(module_settings, len(records))
        if (answer["source"]["partition"], answer["source"]["offset"]) in written
    )
    assert statuses == {"ok": 10, "error": 5}

    headers = {
        (int(found["source.partition"]), int(found["source.offset"])): (one, found)
        for one in topics.read(module_settings.dead_letter_topic, len(cases))
        for found in [dict(one.headers)]
        if "source.offset" in found
    }
    assert headers.keys() >= set(places.values())
    for name, place in places.items():
        one, found = headers[place]
        kept = name == b"small"
        assert one.value == (cases[name].value if kept else None), name
        assert found.get("error.value") == (None if kept else b"omitted"), name
        assert found["error.code"] in (b"wrong_type", b"invalid_json")
    assert headers[places[b"large"]][0].key == b"large"
    assert headers[places[b"large"]][1]["traceparent"] == b"00-1"
    eventually(lambda: lag(worker) == 0, 15, "no lag")


def lag(worker: StartedWorker) -> int | None:
    partitions = worker.get("/api/status")[1]["partitions"]
    return sum(one["lag"] for one in partitions) if partitions else None


def test_a_replay_keeps_the_id_however_often_it_comes_back(
    worker: StartedWorker,
    module_settings: Settings,
    topics: Topics,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Captured,
) -> None:
    dead_letters = command(module_settings, monkeypatch)
    request_topic = module_settings.request_topic
    tagged = [("traceparent", b"00-back")]
    [(partition, offset)] = topics.write(
        request_topic, [Produced(hopeless(b"again", MAX_LETTER_BYTES), None, tagged)]
    )
    identity = f"{request_topic}-{partition}-{offset}"

    def answers() -> list[dict[str, Any]]:
        found = topics.responses(module_settings, 1, quiet_s=0.3)
        return [one for one in found if one["id"] == identity]

    def has_answers(count: int) -> bool:
        return len(answers()) == count

    for answered in range(1, 5):
        eventually(partial(has_answers, answered), 20, f"{answered} answers")
        assert dead_letters("replay", "--yes", "--json") == 0
        report = json.loads(capfd.readouterr().out)
    assert report["replayed_too_often"] >= 1
    assert dead_letters("list", "--waiting", "--json", "--limit", "1000") == 0
    listed = [row for row in rows(capfd.readouterr().out) if row["id"] == identity]
    assert [(row["replays"], row["omitted"]) for row in listed] == [(3, True)]
    assert len(answers()) == 4

    # With the request itself, since the letter has not its value.
    assert dead_letters("show", f"{request_topic}-{partition}-{offset}", "--raw") == 0
    assert capfd.readouterr().out.encode() == hopeless(b"again", MAX_LETTER_BYTES)


def test_the_worker_tells_of_the_latest(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> None:
    [(partition, offset)] = topics.write(
        module_settings.request_topic, [Produced(b'{"text": ""}', b"told")]
    )

    def told() -> Any:
        status = worker.get("/api/status")[1]["dead_letters"]
        ours = [one for one in status["latest"] or [] if one["id"] == "told"]
        return ours and status

    status = eventually(told, 20, "the dead letter is told of")
    newest = status["latest"][0]
    assert newest["code"] == "empty_text"
    assert newest["text"] == '{"text": ""}'
    assert (newest["source"]["partition"], newest["source"]["offset"]) == (partition, offset)
    assert status["records"] >= 1
    assert eventually(
        lambda: worker.get("/api/status")[1]["dead_letters"]["recent"].get("empty_text"), 20
    )
    run(replay_everything(module_settings))
    eventually(
        lambda: worker.get("/api/status")[1]["dead_letters"]["latest"][-1]["replayed_at"],
        20,
        "the mark is told of",
    )


async def replay_everything(settings: Settings) -> None:
    async with DeadLetterTopic.open(settings) as topic:
        plan = await Plan.of(topic, Filter())
        async with Replay.open(settings, topic) as replay:
            await replay.send(plan)


def test_the_latest_are_told_of_again_when_somebody_looks_again(
    settings: Settings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being fetched when nobody looks any more does not end it."""
    monkeypatch.setattr("app.dead_letter_tail.EVERY_S", 0.05)
    monkeypatch.setattr("app.dead_letter_tail.LOOKED_AT_S", 0.3)
    closed = asyncio.Event()

    @asynccontextmanager
    async def closing(*arguments: Any, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
        async with reading.reader(*arguments, **options) as consumer:
            yield consumer
        assert not any(conn.connected() for conn in consumer._client._conns.values())
        closed.set()

    monkeypatch.setattr("app.dead_letter_tail.reader", closing)

    async def look(tail: DeadLetterTail, count: int) -> None:
        while len(tail.latest()["latest"] or ()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def main() -> None:
        tail = DeadLetterTail(settings)
        await tail.start()
        async with asyncio.timeout(30):
            for count in (1, 2):
                record = letter(settings, count)
                await asyncio.to_thread(topics.write, settings.dead_letter_topic, [record])
                await look(tail, count)
                await closed.wait()
                closed.clear()
        await tail.stop()

    run(main())
