"""What comes out of forms. Floor: control."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import ValidationError

from ipybox.control.access.problems import problem_of, validation_problem
from ipybox.control.console.visitor import Visitor, console_of, visitor_of
from ipybox.control.errors import FileTooLargeError, ForbiddenError, RequestRefusedError
from ipybox.errors import IpyboxError

TOKEN = "form_token"
MEDIA_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 200
_LONGEST_JSON = 256 * 1024

Refused = (IpyboxError, ValidationError)
"""What is told on the page that a form was sent from."""


class Form:
    """Fields of a form; one that is not there is empty."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in fields:
            # A browser sends each line end of a text as CRLF, which a shell stumbles over.
            self._fields.setdefault(name, []).append(value.replace("\r\n", "\n"))

    def text(self, name: str) -> str:
        """The field's text, as it is."""
        return self._fields.get(name, [""])[-1]

    def word(self, name: str) -> str | None:
        """The field's text without blanks around it; None if it is empty."""
        return self.text(name).strip() or None

    def flag(self, name: str) -> bool:
        """Whether a box was ticked."""
        return name in self._fields

    def all(self, name: str) -> list[str]:
        """All values of fields of that name."""
        return list(self._fields.get(name, ()))

    def lines(self, name: str) -> list[str]:
        """What the field's lines say, but for empty ones."""
        return [line.strip() for line in self.text(name).split("\n") if line.strip()]

    def parts(self, name: str) -> list[str]:
        """What stands between blanks, commas and line ends."""
        return self.text(name).replace(",", " ").split()

    def pairs(self, name: str, between: str = "=") -> dict[str, str]:
        """Lines such as ``NAME=value``.

        Raises:
            RequestRefusedError: One of them is none.
        """
        found = {}
        for line in self.lines(name):
            key, separator, value = line.partition(between)
            if not separator:
                raise RequestRefusedError(f"{line[:80]!r} must be name{between}value, one a line", name)
            found[key.strip()] = value.strip()
        return found

    def packages(self, name: str) -> list[dict[str, str]]:
        """Lines such as ``numpy`` or ``numpy==2.2.1``."""
        found = []
        for line in self.lines(name):
            at = next((position for position, char in enumerate(line) if char in "=<>!~ "), len(line))
            found.append({"name": line[:at], "version": line[at:].strip()})
        return found

    def json(self, name: str) -> Any:
        """What the field's JSON says; None if it is empty.

        Raises:
            RequestRefusedError: It is no JSON.
        """
        text = self.text(name).strip()
        if not text:
            return None
        if len(text) > _LONGEST_JSON:
            raise RequestRefusedError(f"must have no more than {_LONGEST_JSON} characters; the API takes more", name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestRefusedError(f"must be JSON: {error}", name) from None

    def only_said(self, **values: Any) -> dict[str, Any]:
        """Those that are not None: for all others there is a default."""
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, name: str) -> str:
        return self.text(name)


async def sent_form(request: Request, visitor: Annotated[Visitor, Depends(visitor_of)]) -> Form:
    """The form that was sent, by a page of ours.

    Raises:
        RequestRefusedError: It is no form.
        ForbiddenError: It is not from a page of this console, or from one of an earlier sign-in.
    """
    form = await read_form(request)
    check_token(request, visitor, form.text(TOKEN))
    return form


async def read_form(request: Request, most: int | None = None) -> Form:
    """The fields that were sent.

    Args:
        most: Bytes; as many as any request may have if nothing is said.

    Raises:
        RequestRefusedError: It is no form.
        FileTooLargeError: There is more of it than that.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise RequestRefusedError(f"must be {MEDIA_TYPE}", "Content-Type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if most is not None and len(body) > most:
            raise FileTooLargeError(most, "form")
    try:
        # In a thread: millions of escapes take a while.
        return Form(
            await asyncio.to_thread(parse_qsl, body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        )
    except ValueError as error:
        raise RequestRefusedError(f"the body is no form: {error}") from None


def check_token(request: Request, visitor: Visitor, token: str) -> None:
    """Raises :class:`ForbiddenError` unless a form is from a page that was made for who sends it."""
    if not console_of(request).sign_ins.is_form_token(visitor.identity, token):
        raise ForbiddenError("this form is from another sign-in, or from before a restart; load its page again")


def told(error: Exception) -> tuple[int, str]:
    """Status and sentence of what is wrong with a form."""
    if isinstance(error, ValidationError):
        found = validation_problem(error.errors(include_url=False, include_context=False, include_input=False))
    else:
        found = problem_of(error)
    return found.status, str(found.body["detail"])


def texts(values: Mapping[str, str], between: str = "=") -> str:
    """Lines, as :meth:`Form.pairs` reads them."""
    return "\n".join(f"{name}{between}{value}" for name, value in values.items())


SentForm = Annotated[Form, Depends(sent_form)]
