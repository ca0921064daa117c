"""Whole stories in a real browser, which complains about nothing."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.control.console.browser import PROGRAM, WAIT, Windows, browsing
from tests.control.console.site import HOSTILE
from tests.control.serving import Api, Server

if PROGRAM is None:
    pytest.skip("needs Chromium, which is Debian's package 'chromium'", allow_module_level=True)

pytestmark = pytest.mark.sandbox

expect.set_options(timeout=WAIT)
LOOKS = (Path(__file__).parent / "looks.js").read_text(encoding="utf-8").partition("*/")[2].strip()


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress((b"\0" + b"\x20\x80\xc0" * 3) * 2))
        + chunk(b"IEND", b"")
    )


CODE = f"""\
import base64, os, sys, time
from IPython.display import HTML, SVG, Image, clear_output, display
print("cleared")
clear_output()
print("before", {HOSTILE!r})
display(Image(data=base64.b64decode({base64.b64encode(_png()).decode()!r}), format="png"))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"><script>alert(1)</script></svg>'))
display(HTML("<b id=rendered>html</b><script>alert(1)</script>"))
shown = display("old", display_id=True)
shown.update("new")
for step in range(3):
    print(f"\\r{{step + 1}}/3", end="", flush=True)
print("\\x1b[31m red\\x1b[0m", file=sys.stderr)
while not os.path.exists("/workspace/go"):
    time.sleep(0.01)
print("after")
open({("made " + HOSTILE)!r}, "w").write("made")
1 / 0
"""


@pytest.fixture(scope="module")
def windows() -> Iterator[Windows]:
    """Of one browser for all tests."""
    with browsing() as opened:
        yield opened


def test_code_is_run_in_a_session_and_what_it_says_is_seen_as_it_says_it(
    windows: Windows, open_server: Server, open_api: Api, tmp_path: Path
) -> None:
    with windows.open(open_server.url) as window:
        page = window.page
        page.get_by_role("link", name="Sessions", exact=True).click()
        page.get_by_text("New session", exact=True).click()
        page.get_by_label("Tags, one").fill(f"team={HOSTILE}")
        page.get_by_role("button", name="Make the session").click()
        page.wait_for_url("**/sessions/sess_*")
        session_id = page.url.rpartition("/")[2]
        expect(page.locator("#facts .badge")).to_have_text("running")
        expect(page.locator("#facts .tag")).to_have_text(f"team={HOSTILE}")

        code = page.get_by_role("textbox", name="Code")
        code.fill(CODE)
        code.press("Control+Enter")
        output = page.locator("#ran .output")
        expect(output).to_contain_text(f"before {HOSTILE}")
        expect(output).to_contain_text("3/3")
        expect(output.locator(".stderr")).to_have_text(" red\n")
        expect(page.locator("#ran .badge")).to_have_text("running")
        expect(page.locator("#executions .badge")).to_have_text("running")
        for unseen in ("after", "cleared", "2/3", "old"):
            expect(output).not_to_contain_text(unseen)
        expect(output).to_contain_text("new")
        expect(output).to_contain_text("<IPython.core.display.HTML object>")
        assert page.locator("#rendered, img[src=x]").count() == 0
        assert output.locator("img").evaluate_all("all => all.map(each => each.naturalWidth)") == [3, 7]

        with windows.open(open_server.url) as other:
            other.page.goto(page.locator("#ran h3 a").get_attribute("href") or "")
            late = other.page.locator(".output")
            expect(late).to_contain_text("3/3")
            api_says_go(open_api, session_id)
            for each in (output, late):
                expect(each).to_contain_text("after")
                expect(each).to_contain_text("ZeroDivisionError: division by zero")
                assert (each.text_content() or "").count("---> ") == 1
            expect(other.page.locator("#facts .badge")).to_have_text("failed")
            expect(other.page.get_by_text("That is all.")).to_be_visible()
            seen_live = late.inner_text()
            other.page.reload()
            assert late.inner_text() == seen_live

        expect(page.locator("#ran .badge")).to_have_text("failed")
        expect(page.locator("#executions .badge")).to_have_text("failed")
        expect(page.locator("#files").get_by_role("link", name=f"made {HOSTILE}")).to_be_visible()
        assert code.input_value() == CODE
        with page.expect_download() as download:
            page.locator("#files").get_by_role("link", name=f"made {HOSTILE}").click()
        assert download.value.path().read_text() == "made"

        upload = tmp_path / "up.txt"
        upload.write_text("up")
        page.get_by_label("File (up to 100 MiB)").set_input_files(upload)
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("status").first).to_contain_text("up.txt is uploaded")
        page.get_by_role("button", name="Delete up.txt").click()
        expect(page.get_by_role("status").first).to_contain_text("up.txt is deleted")

        page.get_by_label("Language").select_option("Shell")
        page.get_by_role("textbox", name="Code").fill("echo begun; sleep 1000")
        page.get_by_role("button", name="Run").click()
        expect(output).to_have_text("begun\n")
        page.get_by_role("button", name="Interrupt").click()
        expect(page.locator("#ran .badge")).to_have_text("failed")
        expect(page.locator("#ran")).to_contain_text("interrupted")

        page.get_by_text("Terminate", exact=True).click()
        page.get_by_role("button", name="Terminate the session").click()
        expect(page.locator("#facts .badge")).to_have_text("terminated")
        expect(page.get_by_role("textbox", name="Code")).to_have_count(0)


def api_says_go(api: Api, session_id: str) -> None:
    """Makes the file that the code waits for."""
    assert api.put(f"/sessions/{session_id}/files/go", content=b"").status_code == 200


def test_output_goes_on_where_it_was_after_the_connection_was_lost(
    windows: Windows, open_server: Server, open_api: Api, session_page: str
) -> None:
    session_id = session_page.rpartition("/")[2]
    execution_id = open_api.submit(
        session_id, "print('o' + 'ne', flush=True)\nimport time\nwhile True: time.sleep(0.01)"
    )
    open_api.said(execution_id, "one")
    asked: list[str] = []

    def cut_off(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:
            return route.continue_()
        event = {"seq": 1, "type": "stdout", "data": {"text": "first\n"}}
        body = f"retry: 10\nid: 1\nevent: stdout\ndata: {json.dumps(event)}\n\n"
        return route.fulfill(body=body, content_type="text/event-stream")

    with windows.open(open_server.url) as window:
        window.page.route("**/stream?*", cut_off)
        window.page.goto(f"/console/executions/{execution_id}")
        expect(window.page.locator(".output")).to_have_text("first\n")
        while len(asked) == 1:
            window.page.wait_for_timeout(5)  # which lets the browser go on
        window.page.get_by_role("button", name="Interrupt").click()
        expect(window.page.locator(".output")).to_contain_text("KeyboardInterrupt")
        expect(window.page.locator(".output")).not_to_contain_text("one")  # which it has seen, as "first"


def test_what_is_refused_is_said_on_the_page_and_the_code_stays(
    windows: Windows, open_server: Server, session_page: str
) -> None:
    with windows.open(open_server.url) as window:
        page = window.page
        page.goto(session_page)
        page.get_by_text("Event for a handler").click()
        page.get_by_label("JSON").fill("{")
        page.get_by_role("textbox", name="Code").fill("kept")
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("alert")).to_contain_text("must be JSON")
        assert page.get_by_role("textbox", name="Code").input_value() == "kept"
        page.get_by_label("JSON").fill("")
        page.get_by_role("textbox", name="Code").fill("print('better')")
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#ran .output")).to_have_text("better\n")
        expect(page.get_by_role("alert")).to_be_empty()
        # The browser itself and the library say that there was an answer of 400.
        assert all("400" in each for each in window.complaints)
        window.complaints.clear()


def test_a_key_opens_the_console_until_it_is_revoked(
    windows: Windows, keyed_server: Server, keyed_api: Api, admin_key: str, new_key: Callable[..., str]
) -> None:
    key = new_key(HOSTILE, "ann", "read", "execute")
    with windows.open(keyed_server.url) as window:
        page = window.page
        expect(page).to_have_title("Sign in - ipybox")
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        expect(page.locator(".who span")).to_have_text(HOSTILE)
        assert page.get_by_role("link", name="Keys").count() == 0
        assert page.evaluate("document.cookie") == ""

        page.goto("/console/sessions")
        page.get_by_text("New session", exact=True).click()
        page.get_by_role("button", name="Make the session").click()
        expect(page.locator("#facts .badge")).to_have_text("running")
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#ran .output")).to_have_text("Hello from the sandbox\n")
        session_id = page.url.rpartition("/")[2]

        assert keyed_api.delete(f"/keys/{key.split('_')[1]}").status_code == 204
        expect(page).to_have_title("Sign in - ipybox")  # the next poll has led there
        assert all("401" in each for each in window.complaints)
        window.complaints.clear()
        page.get_by_label("Key").fill(admin_key)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="Keys").click()
        expect(page.locator("tr", has_text=HOSTILE).locator(".badge")).to_have_text("revoked")
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_title("Sign in - ipybox")
        assert keyed_api.delete(f"/sessions/{session_id}").status_code == 204


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_pages_can_be_read_by_everybody(
    windows: Windows, open_server: Server, open_api: Api, session_page: str, scheme: str, width: int
) -> None:
    session_id = session_page.rpartition("/")[2]
    open_api.post("/templates", json={"id": "unwell", "name": HOSTILE * 9, "preload": ["no_such_module"], "warm": True})
    done = open_api.run(session_id, f"import sys; print('x' * 300, file=sys.stderr); open('{'long' * 50}', 'w'); 1 / 0")
    open_api.post("/keys", json={"name": HOSTILE, "owner": "ann"})
    paths = ["", "/sessions", f"/sessions/{session_id}", f"/executions/{done['id']}", "/templates", "/templates/unwell"]
    paths += ["/templates/-/new", "/keys", "/audit", "/tests", "/nothing"]
    wrong = {}
    with windows.open(open_server.url, color_scheme=scheme, viewport={"width": width, "height": 800}) as window:
        for path in paths:
            window.page.goto(f"/console{path}")
            for details in window.page.locator("details > summary").all():
                details.click()
            if problems := window.page.evaluate(LOOKS):
                wrong[path] = problems
        window.complaints[:] = [each for each in window.complaints if "404" not in each]  # the last one is not there
    assert wrong == {}


def test_a_page_is_used_with_the_keyboard_alone(windows: Windows, open_server: Server, session_page: str) -> None:
    with windows.open(open_server.url, reduced_motion="reduce") as window:
        page = window.page
        page.goto(session_page)
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            found = page.evaluate(
                "() => { const on = document.activeElement; return on === document.body ? null : "
                "[on.id || on.textContent.trim().slice(0, 20), getComputedStyle(on).outlineStyle] }"
            )
            if found is None:
                break
            assert found[1] != "none", found
            reached.add(found[0])
        assert {"kind", "code", "run-button", "file", "Upload", "Install packages", "Terminate", "Delete"} <= reached


def test_the_report_of_a_test_run_opens_and_runs_nothing(windows: Windows, open_server: Server) -> None:
    with windows.open(open_server.url) as window:
        window.page.goto("/console/tests")
        window.page.get_by_role("link", name="Report of run 1").click()
        expect(window.page.get_by_role("heading", name="Test report")).to_be_visible()
        assert window.page.locator("img[src=x]").count() == 0
        expect(window.page.locator("body")).to_contain_text(re.compile(re.escape(f"test_{HOSTILE}")))
        assert window.page.evaluate("origin") == "null"


def test_the_api_is_tried_out_from_its_documentation_which_loads_nothing_from_elsewhere(
    windows: Windows, keyed_server: Server, admin_key: str
) -> None:
    with windows.open(keyed_server.url, path="/docs") as window:
        page = window.page
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.get_by_role("button", name="Authorize").click()
        page.get_by_label("auth-bearer-value").fill(admin_key)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").click()
        operation = page.locator(".opblock", has=page.locator('[data-path="/api/v1/templates"]')).and_(
            page.locator(".opblock-get")
        )
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table")
        expect(answer.locator(".response-col_status").last).to_contain_text("200")
        expect(answer).to_contain_text('"python"')
        assert {url.partition("/api/")[0].partition("/docs")[0].partition("/openapi")[0] for url in asked} <= {
            keyed_server.url,
            "data:,",
        }
