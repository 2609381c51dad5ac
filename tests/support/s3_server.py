"""An HTTP server that speaks as much S3 as MLflow needs: buckets, objects, listings."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape


class S3Server(ThreadingHTTPServer):
    """Objects by ``bucket/key``; a bucket is a path without a key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Return what clients take as the endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server in a thread."""
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: S3Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        self.server.objects[self._name()] = self.rfile.read(size)
        self._answer(200)

    def do_GET(self) -> None:
        name = self._name()
        if "list-type=2" in self.path:
            self._answer(200, self._listing(name))
        elif name in self.server.objects:
            self._answer(200, self.server.objects[name])
        else:
            self._answer(404)

    do_HEAD = do_GET  # noqa: N815

    def _listing(self, bucket: str) -> bytes:
        keys = [name for name in self.server.objects if name.startswith(f"{bucket}/")]
        contents = "".join(
            f"<Contents><Key>{escape(name.removeprefix(f'{bucket}/'))}</Key>"
            f"<Size>{len(self.server.objects[name])}</Size></Contents>"
            for name in keys
        )
        return f"<ListBucketResult>{contents}</ListBucketResult>".encode()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
