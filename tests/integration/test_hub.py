"""Fetching a model over HTTP, from a server that speaks as much of the hub's API as it takes."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from models.errors import ModelLoadError
from models.inference.hub import find_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"w" * 3_000_000,
    "onnx/model.onnx": b"o" * 100,
    "tokenizer.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """`owner/name` is public, `owner/gated` needs a token, `owner/broken` fails, else nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._model("/".join(parts[2:4]), parts[-1])
        elif parts[:3] == ["owner", "name", "resolve"] and "/".join(parts[4:]) in FILES:
            self._file(FILES["/".join(parts[4:])])
        else:
            self._send(404, {"X-Error-Code": "EntryNotFound"})

    def _model(self, name: str, revision: str) -> None:
        if name == "owner/gated" and self.headers.get("Authorization") != "Bearer secret":
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif name == "owner/broken":
            self._send(400, {})
        elif name not in {"owner/name", "owner/gated"}:
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in {"name", "gated", "main", "v1", COMMIT}:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": file, "size": len(data)} for file, data in FILES.items()]
            model = {"id": name, "sha": COMMIT, "siblings": siblings}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(model).encode())

    def _file(self, data: bytes) -> None:
        etag = hashlib.sha256(data).hexdigest()
        self._send(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data)

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Tests are silent."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("spec", ["owner/name", "owner/name@v1", f"owner/name@{COMMIT}"])
def test_a_model_is_fetched_once(spec: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    folder = find_folder(spec, progress=lines.append)
    assert folder.is_relative_to(cache)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == FILES.keys() - {"onnx/model.onnx"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert f"{spec}: 3 files, 3 MB" in lines
    assert lines[-1] == f"{spec}: 3 of 3 MB"

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(f"http://127.0.0.1:{port}", monkeypatch)
    assert find_folder(spec) == folder


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("owner/nmae", "no such model on the hub"),
        ("nmae", "no such model on the hub"),
        ("owner/name@v9", "no revision 'v9'"),
        ("owner/gated", "HF_TOKEN"),
        ("owner/broken", "answers with status 400"),
    ],
)
def test_what_the_hub_does_not_give(spec: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        find_folder(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_a_failing_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "missing.json", b"")
    monkeypatch.setattr(Hub, "_file", lambda self, data: self._send(410, {}))
    with pytest.raises(ModelLoadError, match="the download failed") as caught:
        find_folder("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
def test_a_hub_that_refuses_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(f"http://127.0.0.1:{port}", monkeypatch)
    with pytest.raises(ModelLoadError, match=r"does not answer .* check the network"):
        find_folder("owner/name")


@pytest.mark.usefixtures("cache")
def test_a_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        started = time.monotonic()
        with pytest.raises(ModelLoadError, match="does not answer"):
            find_folder("owner/name", timeout_s=1.0)
        assert time.monotonic() - started < 10
