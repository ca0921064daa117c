"""The console as a browser without scripts sees it: pages, forms, redirects."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
"""A name that must be shown as it is, everywhere."""
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


class Site(httpx.Client):
    """A browser without scripts; it does not follow redirects."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(base_url=url, timeout=60.0, trust_env=False, verify=True if tls is None else tls)

    def token(self, page: str = "/console/sessions") -> str:
        """What forms of a page bring along."""
        found = _TOKEN.search(self.get(page).text)
        assert found is not None, f"no form on {page}"
        return found[1]

    def submit(
        self, path: str, fields: Mapping[str, Any] | None = None, page: str = "/console/sessions"
    ) -> httpx.Response:
        """Sends a form of a page."""
        return self.post(path, data={"form_token": self.token(page), **(fields or {})})

    def sent(self, path: str, fields: Mapping[str, Any] | None = None, page: str = "/console/sessions") -> str:
        """Sends a form, expects that it was followed, and returns where it leads."""
        answer = self.submit(path, fields, page)
        assert answer.status_code == 303, shown(answer)
        return answer.headers["location"]

    def follow(self, path: str, fields: Mapping[str, Any] | None = None, page: str = "/console/sessions") -> str:
        """Sends a form, and returns the page that it leads to."""
        return self.get(self.sent(path, fields, page)).text

    def upload(self, session_page: str, file_name: str, content: bytes, **fields: str) -> httpx.Response:
        """Sends the form with a file."""
        fields = {"form_token": self.token(session_page), **fields}
        return self.post(f"{session_page}/files", data=fields, files={"file": (file_name, content)})

    def sign_in(self, key: str, next: str = "") -> httpx.Response:
        """Sends the form of the first page."""
        page = f"/console/sign-in?next={next}"
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', self.get(page).text))
        return self.post("/console/sign-in", data={**{k: unescape(v) for k, v in fields.items()}, "key": key})


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def tags_of(html: str) -> list[tuple[str, dict[str, str]]]:
    """All tags of a page, with their attributes."""
    parser = _Tags()
    parser.feed(html)
    return parser.found


def shown(answer: httpx.Response) -> str:
    """The text of a page, without its markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())
