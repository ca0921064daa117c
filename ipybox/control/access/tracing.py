"""Spans for OpenTelemetry, if they are asked for; otherwise the same calls do nothing. Floor: control.

A session has ``session.create``, and below it ``session.place`` and ``session.start``; an execution has ``execution``.
What a request leads to is below the span that its ``traceparent`` names (W3C Trace Context), if it has one.
Where they go is said by OpenTelemetry's own variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from ipybox.control.access.redaction import redacted_text
from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

Value = str | bool | int | float
_caller: ContextVar[str | None] = ContextVar("ipybox_traceparent", default=None)
log = logging.getLogger("ipybox.control")


def called_by(traceparent: str | None) -> None:
    """Has first spans of this task, and of those that it starts, be below the span of who asked; of nobody, if None."""
    _caller.set(traceparent)


class Span(Protocol):
    """One piece of work."""

    def set(self, name: str, value: Value) -> None:
        """Says something about it: an id, a count, a state. No code and no environment."""
        ...


class Tracing(Protocol):
    """Where spans are made."""

    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, is_first: bool = False
    ) -> AbstractContextManager[Span]:
        """A span as long as the ``with`` block; it has failed if the block raises.

        Args:
            attributes: What there is to say from the beginning.
            is_first: It is below the span of who asked, or begins a trace; otherwise it is below the one around it.
        """
        ...

    def note(self, name: str, value: Value) -> None:
        """As :meth:`Span.set`, of the span around who calls; nothing without one."""
        ...

    def close(self) -> None:
        """Sends what is left. Blocks for some seconds at most; call it in a thread."""
        ...


def tracing_of(settings: ServerSettings) -> Tracing:
    """What the settings ask for.

    Raises:
        ServerSettingsError: OpenTelemetry is asked for and not installed.
    """
    return OtelTracing(_exporter()) if settings.otel else NoTracing()


class NoTracing:
    """Spans that are nothing."""

    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, is_first: bool = False
    ) -> AbstractContextManager[Span]:
        return _NO_SPAN

    def note(self, name: str, value: Value) -> None:
        pass

    def close(self) -> None:
        pass


class OtelTracing:
    """Spans that are sent; with a provider of its own, so that nothing else in the process is changed.

    Args:
        exporter: Where to.
        batches: False sends each span when it ends, in the thread that ends it.
        patience: Seconds that :meth:`close` waits for somebody who takes what is left.
    """

    def __init__(self, exporter: SpanExporter, *, batches: bool = True, patience: float = 3.0) -> None:
        self._patience = patience
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        except ImportError as error:
            raise _not_installed(error) from error
        name = os.environ.get("OTEL_SERVICE_NAME", "ipybox")
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create({"service.name": name}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batches else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ipybox")

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, is_first: bool = False
    ) -> Iterator[Span]:
        from opentelemetry.trace import StatusCode

        with self._tracer.start_as_current_span(
            name,
            context=_context_of_caller() if is_first else None,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield _OtelSpan(span)
            except BaseException as error:
                # The type says what went wrong; a traceback might hold what belongs to somebody.
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    def note(self, name: str, value: Value) -> None:
        from opentelemetry.trace import get_current_span

        _OtelSpan(get_current_span()).set(name, value)

    def close(self) -> None:
        # It waits for long if nobody answers, and nothing may wait for it: not the end of this process either.
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(self._patience)
        if closing.is_alive():
            log.warning("the last spans were not taken within %g s", self._patience)


class _OtelSpan:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, redacted_text(value) if isinstance(value, str) else value)


class _NoSpan(AbstractContextManager[Span]):
    def __enter__(self) -> Span:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def set(self, name: str, value: Value) -> None:
        pass


_NO_SPAN = _NoSpan()


def _context_of_caller() -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    caller = _caller.get()
    if caller is None:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": caller}, Context())  # of nonsense it makes nothing


def _exporter() -> Any:
    """What ``OTEL_TRACES_EXPORTER`` names; ``otlp`` if it names nothing, which is a family: its protocol says whom."""
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise _not_installed(error) from error
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if name == "otlp":
        said = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = "otlp_proto_grpc" if said == "grpc" else "otlp_proto_http"
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ServerSettingsError(
            "otel", f"no exporter {name!r} is installed; pip install 'ipybox[otel]', or set OTEL_TRACES_EXPORTER"
        )
    try:
        return found[0].load()()
    except ImportError as error:
        raise _not_installed(error) from error


def _not_installed(error: ImportError) -> ServerSettingsError:
    return ServerSettingsError("otel", f"OpenTelemetry is not installed ({error.name}); pip install 'ipybox[otel]'")
