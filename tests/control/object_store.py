"""An object store that speaks HTTP, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import obstore
from obstore.store import S3Store

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-not-to-be-seen"
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
"""What is in the environment of who uses it."""
_SERVER = """
import os, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
answers = True
server.verify_request = lambda request, address: answers
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
for line in sys.stdin:
    answers = line == "back\\n"
    print("so it is", flush=True)
os._exit(0)
"""


class ObjectStore:
    """Ends with us, whatever becomes of us: it reads its standard input. A context manager.

    Attributes:
        endpoint: Its URL.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self._process: subprocess.Popen[str] | None = None
        self._names = 0

    def __enter__(self) -> ObjectStore:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **CREDENTIALS, "MOTO_S3_DEFAULT_MAX_KEYS": "20"},
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """It hangs up on whoever asks, and is as it was afterwards."""
        self._tell("away")
        try:
            yield
        finally:
            self._tell("back")

    def _tell(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "so it is\n"

    def new_bucket(self) -> str:
        """Name of a bucket with nothing in it."""
        self._names += 1
        name = f"bucket-{self._names}"
        make_bucket(self.endpoint, name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Of all objects below a prefix, in order."""
        return sorted(each["path"] for page in obstore.list(self._open(bucket), prefix or None) for each in page)

    def content(self, bucket: str, key: str) -> bytes:
        """Of an object."""
        return bytes(obstore.get(self._open(bucket), key).bytes())

    def _open(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )


def make_bucket(endpoint: str, name: str) -> None:
    """Makes a bucket."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=30) as answer:
        assert answer.status == 200
