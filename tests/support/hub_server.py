"""A Hugging Face hub on loopback: data sets, served from folders, with faults on demand.

It serves the API that huggingface_hub uses for a data set at one commit, over real sockets:
revision, tree, and resolve with digests and ranges. Run it by hand:

    python -m tests.support.hub_server --root FOLDER --revision <40 hex> --port 8081
    HF_ENDPOINT=http://127.0.0.1:8081 python -m flows.pretrain ...

A fault is keyed by its target: the path of a file, "api/revision" or "api/tree", optionally
after the method ("GET sample/10BT/000_00000.parquet"). Its value is an HTTP status, a pair of a
status and headers, or one of
    "corrupt"    one byte in the middle is another, the length stays
    "truncate"   the connection closes half-way through the promised body
    "short"      the second half of the file is missing, and its length does not promise it
    "long"       a hundred bytes follow the file, and its length promises them
    "no-range"   range requests get the whole file and status 200
    "no-length"  the body comes in chunks, without its length, and ends half-way
    "stall"      half of the promised body, the rest when `resume` is set
    "redirect"   status 302 to the same file at another host name, as the hub sends to its store,
                 which takes no token
A list holds the faults of one request after another; None and its end let a request through.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self
from urllib.parse import unquote, urlsplit

Fault = int | str | tuple[int, Mapping[str, str]]
Faults = Fault | list[Fault | None]
PIECE_BYTES = 65_536
NOT_LFS = {".md", ".txt", ".json", ".gitattributes"}


@dataclass
class _Repository:
    """A data set: the tree of each commit, and the commit that its branch main is."""

    name: str
    revision: str
    commits: dict[str, Path]

    def commit(self, revision: str) -> tuple[str, Path]:
        """Return the commit that a revision stands for, and its tree."""
        commit = self.revision if revision == "main" else revision
        if commit not in self.commits:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, self.commits[commit]


class HubServer:
    """Serve `root` as the tree of a data set repository at one commit, which is its branch main.

    Args:
        token: if given, requests without it are answered 401.
        faults: may be changed while the server runs.
    """

    def __init__(
        self,
        root: Path,
        *,
        repo: str,
        revision: str,
        port: int = 0,
        token: str | None = None,
        faults: Mapping[str, Faults] | None = None,
    ) -> None:
        self._main = _Repository(repo, revision, {revision: root})
        self.repositories = [self._main]
        self.token = token
        self.faults: dict[str, Faults] = dict(faults or {})
        self.stalled = Event()
        self.resume = Event()
        self.num_requests: Counter[str] = Counter()  # "GET path" -> requests
        self.bytes_sent: Counter[str] = Counter()  # path -> bytes of bodies
        self.lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def serve_forever(self) -> None:
        self._http.serve_forever(poll_interval=0.02)

    @property
    def root(self) -> Path:
        """The tree of the first data set's branch main."""
        return self._main.commits[self._main.revision]

    def reset_counts(self) -> None:
        self.num_requests.clear()
        self.bytes_sent.clear()

    def move_branch(self, revision: str, root: Path) -> None:
        """Move main to another commit; the previous one is still served."""
        self._main.commits[revision] = root
        self._main.revision = revision

    def serve_also(self, repo: str, root: Path, *, revision: str) -> None:
        """Serve another data set beside the first."""
        self.repositories.append(_Repository(repo, revision, {revision: root}))

    def next_fault(self, *subjects: str) -> Fault | None:
        for subject in subjects:
            fault = self.faults.get(subject)
            if isinstance(fault, list):
                return fault.pop(0) if fault else None
            if fault is not None:
                return fault
        return None

    def files(self, root: Path) -> list[Path]:
        return sorted(
            path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".git")
        )


@dataclass
class _RefusalError(Exception):
    status: int
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: tests count requests instead."""

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if path.startswith("/api/datasets/"):
                self._answer_api(path.removeprefix("/api/datasets/"))
            elif path.startswith("/datasets/"):
                self._answer_resolve(path.removeprefix("/datasets/"))
            else:
                self._refuse(_RefusalError(404, "", "not a data set address"))
        except _RefusalError as refusal:
            self._refuse(refusal)

    def _enter(self, subject: str) -> Fault | None:
        """Count a request, check its token, and return its fault."""
        with self.hub.lock:
            self.hub.num_requests[f"{self.command} {subject}"] += 1
            fault = self.hub.next_fault(f"{self.command} {subject}", subject)
        given = self.headers.get("Authorization")
        if self._at_store():
            if given:
                raise _RefusalError(400, "", "the store takes no token")
        elif self.hub.token and given != f"Bearer {self.hub.token}":
            raise _RefusalError(401, "GatedRepo", "access is restricted")
        if isinstance(fault, int):
            raise _RefusalError(fault, "", "a fault on demand")
        if isinstance(fault, tuple):
            raise _RefusalError(fault[0], "", "a fault on demand", fault[1])
        return fault

    def _within_repo(self, path: str) -> tuple[_Repository, str]:
        """Return the data set of an address, and the path inside it."""
        for repository in self.hub.repositories:
            inside = path.removeprefix(repository.name)
            if inside != path and (not inside or inside.startswith("/")):
                return repository, inside.lstrip("/")
        raise _RefusalError(401, "RepoNotFound", "Repository not found")

    def _answer_api(self, path: str) -> None:
        repository, inside = self._within_repo(path)
        kind, _, rest = (inside or "revision/main").partition("/")
        revision, _, folder = rest.partition("/")
        if kind not in ("revision", "tree"):
            raise _RefusalError(404, "", "no such address")
        self._enter(f"api/{kind}")
        commit, root = repository.commit(revision)
        if kind == "tree":
            self._send_json(self._tree(root, folder), subject="api/tree")
            return
        names = [path.relative_to(root).as_posix() for path in self.hub.files(root)]
        siblings = [{"rfilename": name} for name in names]
        info = {"id": repository.name, "sha": commit, "siblings": siblings}
        self._send_json(info, subject="api/revision")

    def _tree(self, root: Path, folder: str) -> list[dict[str, Any]]:
        if not (root / folder).is_dir():
            raise _RefusalError(404, "EntryNotFound", f"{folder} does not exist")
        entries: list[dict[str, Any]] = []
        for path in self.hub.files(root):
            name = path.relative_to(root).as_posix()
            if folder and not name.startswith(f"{folder}/"):
                continue
            entry: dict[str, Any] = {"type": "file", "path": name, "size": path.stat().st_size}
            entry["oid"] = hashlib.sha1(name.encode()).hexdigest()
            if path.suffix not in NOT_LFS:
                entry["lfs"] = {"oid": _digest(path), "size": entry["size"], "pointerSize": 134}
            entries.append(entry)
        return entries

    def _answer_resolve(self, path: str) -> None:
        repository, inside = self._within_repo(path)
        kind, _, rest = inside.partition("/")
        revision, _, name = rest.partition("/")
        if kind != "resolve":
            raise _RefusalError(404, "", "no such address")
        fault = self._enter(name)
        commit, root = repository.commit(revision)
        file = root / name
        if not file.is_file():
            raise _RefusalError(404, "EntryNotFound", f"{name} does not exist")
        if fault == "redirect" and not self._at_store():
            self._redirect()
            return
        num_bytes = file.stat().st_size
        num_bytes = num_bytes // 2 if fault == "short" else num_bytes
        num_bytes = num_bytes + 100 if fault == "long" else num_bytes
        asked = None if fault == "no-range" else self.headers.get("Range")
        first, last = _parse_range(asked, num_bytes)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{num_bytes}")
        for header, value in self._file_headers(file, commit).items():
            self.send_header(header, value)
        chunked = ("Transfer-Encoding", "chunked")
        length = ("Content-Length", str(last - first + 1))
        self.send_header(*(chunked if fault == "no-length" else length))
        self.end_headers()
        if self.command == "GET":
            body = file.read_bytes().ljust(num_bytes, b"?")[first : last + 1]
            self._send_body(body, subject=name, fault=fault)

    def _at_store(self) -> bool:
        return self.headers["Host"].startswith("localhost")

    def _redirect(self) -> None:
        host = self.headers["Host"].replace("127.0.0.1", "localhost")
        self.send_response(302)
        self.send_header("Location", f"http://{host}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file_headers(self, file: Path, commit: str) -> dict[str, str]:
        return {
            "ETag": f'"{_digest(file)}"',
            "X-Linked-Etag": f'"{_digest(file)}"',
            "X-Linked-Size": str(file.stat().st_size),
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }

    def _send_body(self, body: bytes, *, subject: str, fault: Fault | None) -> None:
        middle = len(body) // 2
        if fault == "corrupt":
            body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
        if fault == "stall":
            self._write(body[:middle], subject=subject)
            self.hub.stalled.set()
            self.hub.resume.wait()
            self._write(body[middle:], subject=subject)
        elif fault == "truncate":
            self._write(body[:middle], subject=subject)
            self.close_connection = True
        elif fault == "no-length":
            self._write(b"%x\r\n%s\r\n0\r\n\r\n" % (middle, body[:middle]), subject=subject)
        else:
            self._write(body, subject=subject)

    def _write(self, body: bytes, *, subject: str) -> None:
        """Send bytes, counting those that a connected client took, before they are sent."""
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self._count(len(piece), subject=subject)
            try:
                self.wfile.write(piece)
            except ConnectionError:  # the client closed
                self._count(-len(piece), subject=subject)
                self.close_connection = True
                return

    def _count(self, num_bytes: int, *, subject: str) -> None:
        with self.hub.lock:
            self.hub.bytes_sent[subject] += num_bytes

    def _send_json(self, value: Any, *, subject: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, subject=subject, fault=None)

    def _refuse(self, refusal: _RefusalError) -> None:
        body = json.dumps({"error": refusal.message}).encode()
        self.send_response(refusal.status)
        if refusal.code:
            self.send_header("X-Error-Code", refusal.code)
        for header, value in refusal.headers.items():
            self.send_header(header, value)
        self.send_header("X-Error-Message", refusal.message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_once(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest_once(path: Path, num_bytes: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parse_range(header: str | None, num_bytes: int) -> tuple[int, int]:
    """Return the first and last byte of a Range header; the whole file without one."""
    if header is None:
        return 0, num_bytes - 1
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if match is None or match.groups() == ("", ""):
        raise _RefusalError(416, "", f"bad range {header}")
    if not match[1]:
        return max(0, num_bytes - int(match[2])), num_bytes - 1
    first = int(match[1])
    last = min(int(match[2]) if match[2] else num_bytes - 1, num_bytes - 1)
    if first > last:
        raise _RefusalError(416, "", f"range {header} lies outside of {num_bytes} bytes")
    return first, last


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder as a Hugging Face data set.")
    parser.add_argument("--root", type=Path, required=True, help="folder that is the repository")
    parser.add_argument("--repo", default="HuggingFaceFW/fineweb", help="owner/name")
    parser.add_argument("--revision", required=True, help="commit, 40 hex digits")
    parser.add_argument("--port", type=int, default=8081, help="0 = any free port")
    args = parser.parse_args()
    if not args.root.is_dir():
        parser.error(f"--root {args.root} is no folder")
    server = HubServer(args.root, repo=args.repo, revision=args.revision, port=args.port)
    sys.stdout.write(f"HF_ENDPOINT={server.endpoint}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
