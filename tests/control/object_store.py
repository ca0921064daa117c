"""An object store that speaks HTTP, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from xml.etree import ElementTree

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-not-to-be-seen"
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
"""What is in the environment of who uses it."""
_PAGE = 20
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
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


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
            env={**os.environ, **CREDENTIALS, "MOTO_S3_DEFAULT_MAX_KEYS": str(_PAGE)},
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
        found: list[str] = []
        after = ""
        while True:
            text = self._get(f"{bucket}?list-type=2&prefix={prefix}&start-after={after}")
            page = [each.text or "" for each in ElementTree.fromstring(text).iter(f"{_XML}Key")]
            found += page
            if len(page) < _PAGE:
                return found
            after = page[-1]

    def content(self, bucket: str, key: str) -> bytes:
        """Of an object."""
        return self._get(f"{bucket}/{key}")

    def _get(self, path: str) -> bytes:
        with _opener().open(f"{self.endpoint}/{path}", timeout=30) as answer:
            found: bytes = answer.read()
            return found


def make_bucket(endpoint: str, name: str) -> None:
    """Makes a bucket."""
    with _opener().open(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=30) as answer:
        assert answer.status == 200


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
