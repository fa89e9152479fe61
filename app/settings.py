"""The only reader of the environment.

Every setting is an environment variable `BERTSTREAM_<NAME>` or a line of a `.env` file in the
working directory; the environment wins. `bertstream settings` lists them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import SettingsError
from app.folder_lock import address_of

PREFIX = "BERTSTREAM_"
DEFAULT_BROKER = "127.0.0.1:9092"
DEFAULT_BROKER_URL = f"kafka://{DEFAULT_BROKER}"
BUILTIN_MODEL = "builtin"
BUILTIN_MODEL_NAME = "agnews"
MAX_RECORD_BYTES = 16 * 1024 * 1024
"""Largest record that topics, the embedded broker and our producers take."""

MEBIBYTE = 1024 * 1024
MAX_BATCH_BYTES = MAX_RECORD_BYTES + MEBIBYTE
"""The same with key, headers and what Kafka adds, as brokers and topics count it."""

SECURITY_FIELDS = (
    *("sasl_mechanism", "sasl_username", "sasl_password"),
    *("ssl_cafile", "ssl_certfile", "ssl_keyfile"),
)
"""What means nothing without `security_protocol`."""
SECRET_WORDS = ("password", "token", "secret")


def _topic_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in {".", ".."}:
        raise ValueError("a topic name has 1 to 249 letters, digits, '.', '_' or '-'")
    return name


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


TopicName = Annotated[str, AfterValidator(_topic_name)]


class Settings(BaseSettings):
    """Every setting, frozen and typed; the unit is part of the name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        # The input of a check over all settings would be all settings, secrets included.
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    broker_url: str | None = None
    """Kafka's brokers, separated by `;`. Where it is set, no broker is started; where it is not,
    the embedded broker's address, or else `kafka://127.0.0.1:9092`."""
    request_topic: TopicName = "bert-requests"
    """Topic that requests are read from."""
    response_topic: TopicName = "bert-responses"
    """Topic that predictions are written to."""
    dead_letter_topic: TopicName = "bert-dead-letters"
    """Topic that records which ended in an error are copied to; kept for 30 days."""
    feedback_topic: TopicName = "bert-feedback"
    """Topic for corrections by people; the name is reserved, nothing reads it yet."""
    throughput_topic: TopicName = "bert-throughput"
    """Topic of one partition on which workers say what they did."""
    create_topics: bool = True
    """Create the topics that are missing."""
    partitions: PositiveInt = 8
    """Partitions of the topics that we create."""
    replication: PositiveInt = 1
    """Replicas of the topics that we create, changelogs too; in production 3."""
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    """Where a new consumer group begins."""
    app_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "bertstream"
    """Faust app id, and so the consumer group."""
    worker_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    """Turns static membership on: unique among live workers, the same after a restart."""
    session_timeout_s: Annotated[float, Field(ge=6.0, le=1800.0)] = 8.0
    """How long a worker may be silent before its partitions go to others; a worker with a
    `WORKER_ID` that is back within this time finds them waiting."""

    model: str = BUILTIN_MODEL
    """Checkpoint folder, or else a model id of the Hugging Face hub with optional `@revision`;
    several as `name=path,name=path`, the first being the default. `builtin` is the topic
    classifier that comes with bertstream."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?(,cuda:\d+)*)$")] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:0,cuda:1` or `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; `auto` is bfloat16 where the hardware computes it, else float32."""
    engine: Literal["auto", "plain"] = "auto"
    """`auto` computes faster than transformers' own layers where it can; `plain` uses those."""
    threads: PositiveInt | None = None
    """CPU threads of one device batch; by default a quarter of the cores that this process may use,
    at least one. On a CPU as many batches are computed at once as there are cores for, at most
    four."""
    batch_size: PositiveInt = 256
    """Most documents of a device batch; of a long one, each segment counts."""
    batch_tokens: PositiveInt = 16384
    """Most tokens of a device batch, with what padding costs."""
    batch_wait_s: NonNegativeFloat = 0.01
    """Longest that the first record of a batch waits for company."""
    batch_timeout_s: PositiveFloat = 60.0
    """Longest that a device batch, or a call of the tokenizer, may take; then it is given up and
    its requests are answered `inference_failed`."""
    max_in_flight: PositiveInt = 4
    """Device batches under way at once."""
    max_text_bytes: PositiveInt = MEBIBYTE
    """Most UTF-8 bytes of `text` and `text_pair` together."""
    segment_overlap: NonNegativeInt = 32
    """Tokens that two neighbouring segments of a long document share."""
    aggregation: Literal["mean", "max", "first"] = "mean"
    """How the segments of a long document become one prediction: the mean of their
    log-probabilities, the most confident segment, or the first one."""
    trust_remote_code: bool = False
    """Run Python code that comes with a checkpoint. Only for checkpoints that you trust."""
    allow_pickle: bool = False
    """Read weights in pickle format, which can run code. Only for checkpoints that you trust."""

    delivery: Literal["at-least-once", "exactly-once"] = "at-least-once"
    """Delivery promise of responses."""
    reply_topics: Annotated[str, AfterValidator(_pattern)] = "bert-replies.*"
    """Pattern of topics that a request may ask its answer on."""
    drain_timeout_s: PositiveFloat = 10.0
    """Longest that a stopping or rebalancing worker finishes the work it has taken."""

    data_dir: Path = Path(".bertstream")
    """Where broker data and caches are kept."""
    web_host: str = "127.0.0.1"
    """Address of the status page."""
    web_port: Annotated[int, Field(ge=0, le=65535)] = 6066
    """Port of the status page; when it is taken, the next free one. 0: any."""
    web_token: SecretStr | None = None
    """Secret that the page and its API ask for."""
    throughput_interval_s: PositiveFloat = 1.0
    """Time between two throughput records of a worker."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = None
    """As in Kafka's own clients."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """As in Kafka's own clients."""
    sasl_username: str | None = None
    """User name for SASL."""
    sasl_password: SecretStr | None = None
    """Password for SASL."""
    ssl_cafile: Path | None = None
    """PEM file of the authorities that sign the brokers' certificates."""
    ssl_certfile: Path | None = None
    """PEM file of this client's certificate."""
    ssl_keyfile: Path | None = None
    """PEM file of this client's key."""

    _found: str | None = PrivateAttr(default=None)
    """The broker that was found where none is set, `host:port`."""

    @field_validator("broker_url")
    @classmethod
    def _broker_addresses(cls, url: str | None) -> str | None:
        if url is None:
            return None
        addresses = [re.sub(r"^(kafka|aiokafka)://", "", part.strip()) for part in url.split(";")]
        for address in addresses:
            if "@" in address:
                raise ValueError(
                    "credentials do not belong into an address: set SASL_USERNAME, SASL_PASSWORD, "
                    "SASL_MECHANISM and SECURITY_PROTOCOL"
                )
            if not re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", address):
                raise ValueError(f"{address!r} is no broker address such as kafka://host:9092")
        return ";".join(f"kafka://{address}" for address in addresses)

    @field_validator("model")
    @classmethod
    def _model_names(cls, model: str) -> str:
        parse_models(model)
        return model

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Settings:
        sasl = (self.security_protocol or "").startswith("SASL")
        if sasl and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                f"SECURITY_PROTOCOL {self.security_protocol} needs SASL_MECHANISM, SASL_USERNAME "
                "and SASL_PASSWORD"
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("SSL_KEYFILE needs SSL_CERTFILE")
        given = [name for name in SECURITY_FIELDS if getattr(self, name) is not None]
        if given and self.security_protocol is None:
            # Who sets one of these does not expect to be connected in the clear.
            raise ValueError(
                f"{given[0].upper()} needs SECURITY_PROTOCOL: SSL, SASL_SSL or SASL_PLAINTEXT "
                "(PLAINTEXT, where it is not to be used)"
            )
        return self

    @property
    def embedded_address_file(self) -> Path:
        """Where the embedded broker of this `DATA_DIR` keeps its `host:port`."""
        return self.data_dir / "broker" / "address"

    def find_broker(self) -> bool:
        """Look for the broker that clients connect to where none is set, from now on until this is
        called again; tells whether it is another one than before.

        It is the embedded one of this `DATA_DIR`, also while that is starting. Once seen it is
        waited for, and no other Kafka, which may have its port, is taken for it.
        """
        before = self._found
        self._found = address_of(self.embedded_address_file.parent) or before or DEFAULT_BROKER
        return self._found != before

    @property
    def broker_urls(self) -> list[str]:
        """The brokers to connect to, each `kafka://host:port`."""
        if self.broker_url is not None:
            return self.broker_url.split(";")
        if self._found is None:
            self.find_broker()
        return [f"kafka://{self._found}"]

    @property
    def bootstrap_servers(self) -> list[str]:
        """The brokers as Kafka's clients name them, each `host:port`."""
        addresses = [url.removeprefix("kafka://") for url in self.broker_urls]
        return [
            address if re.search(r":\d+$", address) else f"{address}:9092" for address in addresses
        ]

    @property
    def models(self) -> dict[str, str]:
        """Checkpoint by model name, the default model first."""
        return parse_models(self.model)


def parse_models(spec: str) -> dict[str, str]:
    """Read `path` or `name=path,name=path` into checkpoints by name, the default first.

    A single path that is a folder may hold `=` and `,`, as `runs/lr=3e-5` does.

    Raises:
        ValueError: a name is used twice, or a name or path is empty.
    """
    models: dict[str, str] = {}
    if spec != BUILTIN_MODEL and os.path.isdir(spec):  # Path.is_dir() raises where it is too long
        return {"default": spec}
    name, _, path = spec.partition("=")
    single = "," not in name and os.path.isdir(path.strip())
    for part in [spec] if single else spec.split(","):
        name, separator, path = part.strip().partition("=")
        if not separator:
            name, path = (
                (BUILTIN_MODEL_NAME if name == BUILTIN_MODEL else "default"),
                name,
            )
        name, path = name.strip(), path.strip()
        if not name or not path:
            raise ValueError(f"{spec!r} is no checkpoint and no list name=path,name=path")
        if name in models:
            raise ValueError(f"two models are called {name!r}: write name=path,name=path")
        models[name] = path
    return models


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides` win over both.

    Raises:
        SettingsError: one line that names the variable and what it should be.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors())) from None


def _describe(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0])
    given = str(problem["input"])
    secret = any(word in name for word in SECRET_WORDS)
    secret = secret or (name == "broker_url" and "@" in given)
    return f"{PREFIX}{name.upper()}{'' if secret else f'={given}'}: {message}"
