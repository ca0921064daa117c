"""Spans, sent or not."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ipybox.control.access.tracing import NoTracing, OtelTracing, Tracing, tracing_of
from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings


async def create(tracing: Tracing) -> None:
    with tracing.span("session.create", {"session.id": "s"}) as span:
        with tracing.span("session.place"):
            pass

        async def start() -> None:
            with tracing.span("session.start") as inner:
                inner.set("warm", True)

        await asyncio.create_task(start())
        span.set("url", "postgresql://u:hunter2@h/d")


@pytest.mark.asyncio
async def test_spans_lie_in_one_another_also_across_tasks() -> None:
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(exporter, batches=False)
    await create(tracing)
    tracing.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"session.create", "session.place", "session.start"}
    outer = spans["session.create"]
    context = outer.get_span_context()
    assert outer.parent is None
    assert context is not None
    for name in ("session.place", "session.start"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == context.span_id
    assert outer.attributes is not None
    assert outer.attributes["session.id"] == "s"
    assert "hunter2" not in str(dict(outer.attributes))
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"  # the process has none of its own


def test_what_fails_is_marked_without_saying_what_was_in_it() -> None:
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(exporter, batches=False)
    with pytest.raises(ValueError, match="hunter2"), tracing.span("execution"):
        raise ValueError("hunter2")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert "hunter2" not in span.to_json()
    assert "ValueError" in span.to_json()
    tracing.close()


@pytest.mark.asyncio
async def test_without_it_the_same_calls_do_nothing() -> None:
    tracing = tracing_of(ServerSettings())
    assert isinstance(tracing, NoTracing)
    await create(tracing)
    with pytest.raises(ValueError, match="x"), tracing.span("execution"):
        raise ValueError("x")
    tracing.close()


def test_asking_for_an_exporter_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonsense")
    with pytest.raises(ServerSettingsError, match="otel: no exporter 'nonsense'"):
        tracing_of(ServerSettings(otel=True))


def test_asking_for_it_where_it_is_not_installed_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = sys.modules["opentelemetry.sdk"] = None
from ipybox.control.access.tracing import tracing_of
from ipybox.control.settings import ServerSettings
with tracing_of(ServerSettings()).span("x"): pass
try:
    tracing_of(ServerSettings(otel=True))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("ServerSettingsError otel: OpenTelemetry is not installed")
    assert "pip install 'ipybox[otel]'" in done.stdout
