"""A small server that speaks as much of the Hugging Face hub as fetching a model takes, on 127.0.0.1."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the server has, and what it was asked for.

    Attributes:
        models: ``org/name`` to the directory of its files.
        refs: branches and tags of every model, to commits.
        gated: models that want a token.
        broken: names of files whose sending breaks off halfway.
        asked: "METHOD path" of each request, in order.
    """

    models: dict[str, Path]
    refs: dict[str, str] = field(default_factory=lambda: {"main": "1" * 40, "v1": "2" * 40})
    gated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            line.split("/resolve/")[1].partition("/")[2]
            for line in self.asked
            if line.startswith("GET") and "/resolve/" in line
        }


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, hub)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = unquote(urlsplit(request.path).path)
    hub.asked.append(f"{request.command} {path}")
    api = path.startswith("/api/models/")
    repository, _, rest = path.removeprefix("/api/models/" if api else "/").partition("/" if not api else "\0")
    first, _, rest = path.removeprefix("/api/models" if api else "").lstrip("/").partition("/")
    second, _, rest = rest.partition("/")
    repository, kind, of_kind = f"{first}/{second}", *rest.partition("/")[::2]
    if repository not in hub.models:
        return send(request, 404, error="RepoNotFound")
    if repository in hub.gated:
        return send(request, 403, error="GatedRepo")
    if kind == "refs":
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in hub.refs.items()]
        return send(request, 200, {"branches": branches, "tags": [], "converts": []})
    revision, _, name = (of_kind or "main").partition("/")
    commit = revision if revision in hub.refs.values() else hub.refs.get(revision)
    if commit is None:
        return send(request, 404, error="RevisionNotFound")
    directory = hub.models[repository]
    files = {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    if kind == "resolve":
        return send_file(request, files, name, commit, broken=name in hub.broken)
    if kind == "tree":
        rows = [
            {"type": "file", "path": one, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for one, content in files.items()
        ]
        return send(request, 200, rows)
    siblings = [{"rfilename": one} for one in files]
    return send(request, 200, {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings})


def send(request: BaseHTTPRequestHandler, status: int, value: object = None, *, error: str | None = None) -> None:
    content = json.dumps({"error": error} if value is None else value).encode()
    request.send_response(status)
    if error is not None:
        request.send_header("X-Error-Code", error)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content)


def send_file(
    request: BaseHTTPRequestHandler, files: dict[str, bytes], name: str, commit: str, *, broken: bool
) -> None:
    if name not in files:
        return send(request, 404, error="EntryNotFound")
    content = files[name]
    request.send_response(200)
    request.send_header("X-Repo-Commit", commit)
    request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content[: len(content) // 2] if broken else content)
    if broken:
        request.close_connection = True
    return None
