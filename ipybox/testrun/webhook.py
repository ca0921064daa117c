"""Tells an address on the web how a run went. Floor: testrun.

Addresses often are secrets themselves, so nothing that is said here names more of one than scheme, host and port.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp

from ipybox import __version__, arguments
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.seconds import finite
from ipybox.testrun.visible_text import shortened, visible, visible_line

FORMAT = 1
"""Version of the body's shape."""

SIGNATURE_HEADER = "X-Ipybox-Signature-256"
IDEMPOTENCY_HEADER = "Idempotency-Key"

_LISTED = 50
_DETAILS = 2_000
_MESSAGE = 500
_LONGEST_WAIT = 30.0
_WORTH_ANOTHER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a notification. Whatever it is, the verdict of the run stays what it was.

    Attributes:
        delivered: Whether the address said that it has it.
        attempts: How often it was tried.
        status: The status of the last answer; None if there was none.
        reason: Why it was not delivered; empty if it was.
    """

    delivered: bool
    attempts: int
    status: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an attempt did not succeed, and when to try again: after so many seconds, as usual (None), or never."""

    reason: str
    status: int | None = None
    is_final: bool = False
    retry_after: float | None = None


async def notify(
    url: str,
    report: RunReport,
    *,
    secret: str | bytes | None = None,
    attempts: int = 4,
    timeout: float = 10.0,
    deadline: float = 60.0,
    backoff: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Delivery:
    """Posts a summary of a run as JSON, and tries again where that may help.

    That is when no connection can be had or it breaks, and for the statuses 408, 429 and 5xx; a ``Retry-After`` is
    heeded. Redirects are not followed, and proxies of the environment are not used. All attempts carry the same
    ``Idempotency-Key``, which is the same for the same report, so that a receiver can tell that it has it already.

    Args:
        url: Where to, with ``https`` or ``http``.
        report: The run.
        secret: With one, ``X-Ipybox-Signature-256`` is ``sha256=`` and the HMAC-SHA256 of the body in hex.
        attempts: Most attempts.
        timeout: Seconds that one of them may take.
        deadline: Seconds that all of them may take, with the waiting in between.
        backoff: Seconds to wait after the first attempt; twice that after the second, and so on, up to 30; each
            time somewhat less by chance.
        sleep: What waits.

    Returns:
        Whether it was delivered, and why not. No failure of the network is raised.

    Raises:
        ValueError: An argument that makes no sense. It does not show the URL.
    """
    parts = checked_url(url)
    if arguments.position("attempts", attempts) < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    limit = aiohttp.ClientTimeout(total=arguments.seconds("timeout", timeout))
    end = time.monotonic() + arguments.seconds("deadline", deadline)
    arguments.seconds("backoff", backoff)
    body = json.dumps(payload(report), separators=(",", ":"), allow_nan=False).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"ipybox/{__version__}",
        IDEMPOTENCY_HEADER: run_key(report),
    }
    if secret is not None:
        headers[SIGNATURE_HEADER] = signature(secret, body)
    made = 0
    refusal = _Refusal("it does not answer")
    try:
        async with asyncio.timeout(deadline), aiohttp.ClientSession(timeout=limit) as session:
            while True:
                made += 1
                answer = await _attempt(session, url, body, headers)
                if isinstance(answer, int):
                    return Delivery(delivered=True, attempts=made, status=answer)
                refusal = answer
                if refusal.is_final or made == attempts:
                    break
                wait = _wait(made, backoff, refusal)
                if time.monotonic() + wait >= end:
                    refusal = _Refusal(f"{refusal.reason}; there is no time to try again", refusal.status)
                    break
                await sleep(wait)
    except TimeoutError:
        refusal = _Refusal(f"{refusal.reason}; the deadline of {deadline:g} s has passed", refusal.status)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return Delivery(delivered=False, attempts=made, status=refusal.status, reason=f"{where}: {refusal.reason}")


def payload(report: RunReport) -> dict[str, Any]:
    """What is posted: counts, and the first 50 tests that did not succeed or are flaky. No output, no path of yours."""
    failures, flaky = report.failures, report.flaky
    return {
        "format": FORMAT,
        "event": "test_run",
        "run": run_key(report),
        "started_at": visible_line(report.started_at),
        "duration": finite(report.duration),
        "exit_code": int(report.exit_code),
        "interrupted": report.interrupted,
        "stopped": visible_line(report.stopped),
        "framework": visible_line(report.framework),
        "isolation": report.isolation,
        "python": visible_line(report.python),
        "summary": {"total": len(report.results), **{str(key): count for key, count in report.counts.items()}},
        "not_run": len(report.not_run),
        "deselected": report.deselected,
        "failed": len(failures),
        "failures": [_failure(result) for result in failures[:_LISTED]],
        "flaky": len(flaky),
        "flaky_tests": [_short(result.id) for result in flaky[:_LISTED]],
        "notes": [_short(note) for note in report.notes[:_LISTED]],
    }


def run_key(report: RunReport) -> str:
    """A name of the run, made of all that its report says: 32 characters in hex."""
    return hashlib.sha256(json.dumps(report.to_dict(), sort_keys=True).encode()).hexdigest()[:32]


def signature(secret: str | bytes, body: bytes) -> str:
    """The value of the signature's header, for a receiver to compare with ``hmac.compare_digest``.

    Raises:
        ValueError: The secret is empty.
    """
    key = secret.encode() if isinstance(secret, str) else secret
    if not key:
        raise ValueError("secret must not be empty")
    return f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"


def _failure(result: CaseResult) -> dict[str, Any]:
    return {
        "id": _short(result.id),
        "outcome": str(result.outcome),
        "phase": result.phase,
        "message": _short(result.message),
        "details": visible(shortened(result.details, _DETAILS)),
        "file": _short(result.file),
        "line": result.line,
        "duration": finite(result.duration),
        "attempts": result.attempts,
    }


def _short(text: str) -> str:
    return visible_line(shortened(text, _MESSAGE))


def checked_url(url: str) -> SplitResult:
    """The parts of an address; raises ``ValueError``, which does not show it, if it is none."""
    problem = ""
    try:
        parts = urlsplit(arguments.text("url", url))
        _ = parts.port
    except ValueError:
        problem = "a valid URL"
    else:
        if parts.scheme not in ("http", "https"):
            problem = "a URL with https or http"
        elif not parts.hostname:
            problem = "a URL with a host"
    if problem:  # raised here, without a context that shows the URL
        raise ValueError(f"url must be {problem}; it is not shown, as it may hold a secret")
    return parts


async def _attempt(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> int | _Refusal:
    """The status of an answer that says yes, or why there is none. The texts of aiohttp may show the URL."""
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            status = response.status
            if 200 <= status < 300:
                return status
            if status in _WORTH_ANOTHER or status >= 500:
                return _Refusal(f"it answers with {status}", status, retry_after=_retry_after(response))
            what = "a redirect, which is not followed" if 300 <= status < 400 else "which is final"
            return _Refusal(f"it answers with {status}, {what}", status, is_final=True)
    except TimeoutError:
        return _Refusal("it does not answer in time")
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
        return _Refusal("its certificate can't be trusted, or it does not speak TLS", is_final=True)
    except ValueError:  # also of its user and password, which no header can hold
        return _Refusal("the URL is not valid", is_final=True)
    except aiohttp.ClientOSError as error:
        return _Refusal(f"no connection: {error.strerror or type(error).__name__}")
    except (aiohttp.ClientError, OSError) as error:
        return _Refusal(f"the connection broke: {type(error).__name__}")


def _wait(made: int, backoff: float, refusal: _Refusal) -> float:
    """Seconds until the next attempt. Many runs that fail at once must not come again at once."""
    usual = min(backoff * 2.0 ** (made - 1), _LONGEST_WAIT) * random.uniform(0.5, 1)
    return usual if refusal.retry_after is None else max(usual, refusal.retry_after)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
