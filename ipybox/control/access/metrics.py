"""What is counted and measured, for Prometheus. Each server has a registry of its own. Floor: control.

Labels are taken from short fixed lists: templates of routes, states, kinds. Never ids, which would never end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_START_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EXECUTION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_DB_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_STATEMENTS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT", "ROLLBACK"})


class ServerMetrics:
    """The numbers of one server.

    Attributes:
        sessions: Gauge of sessions by ``status``; set it to what the database says.
        session_start: Histogram of seconds from the request to a sandbox that can run code.
        executions: Counter of executions that ended, by ``kind`` and ``status``.
        execution: Histogram of their seconds, by ``kind``.
        events: Counter of events of executions.
        uploaded, downloaded: Counters of bytes of files.
        rate_limited: Counter of refused requests, by ``reason``: ``rate``, ``quota`` or ``authentication``.
        denied_hosts: Counter of connections that sessions wanted and were denied.
        walls: Gauge of sandbox walls that are up.
    """

    def __init__(self, version: str, *, python: str = "", sandbox: str = "") -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._build = Info("ipybox_build", "What is running.", registry=registry)
        self._built = {"version": version, "python": python}
        self.set_sandbox(sandbox)
        self._requests = Counter(
            "ipybox_http_requests_total",
            "Requests that were answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._request = Histogram(
            "ipybox_http_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("route", "method"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._db = Histogram(
            "ipybox_db_seconds", "Seconds of statements.", ("statement",), buckets=_DB_BUCKETS, registry=registry
        )
        self.sessions = Gauge("ipybox_sessions", "Sessions.", ("status",), registry=registry)
        self.session_start = Histogram(
            "ipybox_session_start_seconds",
            "Seconds from the request for a session to a sandbox that can run code.",
            buckets=_START_BUCKETS,
            registry=registry,
        )
        self.executions = Counter(
            "ipybox_executions_total", "Executions that ended.", ("kind", "status"), registry=registry
        )
        self.execution = Histogram(
            "ipybox_execution_seconds",
            "Seconds that executions took.",
            ("kind",),
            buckets=_EXECUTION_BUCKETS,
            registry=registry,
        )
        self.events = Counter("ipybox_events_total", "Events of executions.", registry=registry)
        self.uploaded = Counter("ipybox_uploaded_bytes_total", "Bytes of files that came in.", registry=registry)
        self.downloaded = Counter("ipybox_downloaded_bytes_total", "Bytes of files that went out.", registry=registry)
        self.rate_limited = Counter(
            "ipybox_rate_limited_total", "Requests that were refused for now.", ("reason",), registry=registry
        )
        self.denied_hosts = Counter(
            "ipybox_denied_hosts_total", "Connections that sessions wanted and were denied.", registry=registry
        )
        self.walls = Gauge("ipybox_sandbox_walls", "Sandbox walls that are up.", registry=registry)
        for reason in ("rate", "quota", "authentication"):
            self.rate_limited.labels(reason)

    def set_sandbox(self, kind: str) -> None:
        """What keeps sessions in, which is known when the first of them has a wall."""
        self._build.info({**self._built, "sandbox": kind})

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request by the template of its route, such as ``/api/v1/sessions/{id}``."""
        method = method if method in _METHODS else "OTHER"
        self._requests.labels(route, method, f"{status // 100}xx" if 100 <= status < 600 else "none").inc()
        self._request.labels(route, method).observe(seconds)

    def observe_statement(self, statement: str, seconds: float) -> None:
        """Measures a statement by its first word."""
        word = statement[:16].lstrip().partition(" ")[0].upper()
        self._db.labels(word if word in _STATEMENTS else "OTHER").observe(seconds)

    @contextmanager
    def timed_start(self) -> Iterator[None]:
        """Measures how long a session takes to start; what fails does not count."""
        began = time.monotonic()
        yield
        self.session_start.observe(time.monotonic() - began)

    def render(self) -> tuple[bytes, str]:
        """All of it as Prometheus reads it, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
