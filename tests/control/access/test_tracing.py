"""Spans, sent or not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
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


def test_a_collector_that_takes_nothing_does_not_keep_a_server_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    taken = threading.Event()

    class Deaf(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            taken.wait()
            return SpanExportResult.FAILURE

    tracing = OtelTracing(Deaf(), patience=0.05)
    with tracing.span("execution"):
        pass
    tracing.close()
    assert not taken.is_set()
    assert "last spans" in caplog.text
    taken.set()


def test_a_span_can_begin_a_trace_of_its_own_and_be_told_more_from_within() -> None:
    exporter = InMemorySpanExporter()
    tracing = OtelTracing(exporter, batches=False)
    with tracing.span("session.create"), tracing.span("execution", is_first=True):
        tracing.note("status", "completed")
    tracing.note("status", "nobody's")
    tracing.close()
    run, made = exporter.get_finished_spans()
    assert (run.name, run.parent, dict(run.attributes or {})) == ("execution", None, {"status": "completed"})
    assert (made.name, dict(made.attributes or {})) == ("session.create", {})


@pytest.mark.parametrize(("protocol", "name"), [(None, "http"), ("http/protobuf", "http"), ("grpc", "grpc")])
def test_otlp_is_the_exporter_of_its_protocol(tmp_path: Path, protocol: str | None, name: str) -> None:
    """The packages of both are large; this one is found as they are."""
    facts = tmp_path / "exporting-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: exporting\nVersion: 1\n")
    entries = "".join(f"otlp_proto_{each} = exporting:{each}\n" for each in ("http", "grpc"))
    (facts / "entry_points.txt").write_text(f"[opentelemetry_traces_exporter]\n{entries}")
    (tmp_path / "exporting.py").write_text(
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter\n"
        "def http(): return ConsoleSpanExporter(formatter=lambda span: 'http')\n"
        "def grpc(): return ConsoleSpanExporter(formatter=lambda span: 'grpc')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from ipybox.control.access.tracing import tracing_of\n"
        "from ipybox.control.settings import ServerSettings\n"
        "tracing = tracing_of(ServerSettings(otel=True))\n"
        "with tracing.span('x'): pass\n"
        "tracing.close()\n"
    )
    env = {each: value for each, value in os.environ.items() if not each.startswith("OTEL_")}
    if protocol is not None:
        env["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == name


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
