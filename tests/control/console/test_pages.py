"""Pages of a server without keys, over plain HTTP."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from ipybox.control.app import create_app
from ipybox.control.settings import ServerSettings
from tests.control.console.site import HOSTILE, Site, shown, tags_of
from tests.control.serving import Api, eventually

pytestmark = pytest.mark.sandbox

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGES = ("", "/sessions", "/templates", "/templates/python", "/templates/-/new", "/keys", "/audit", "/tests")
FOREVER = "while True:\n    import time; time.sleep(0.01)"


def _ran(site: Site, session_page: str, code: str, kind: str = "python:cell", **fields: str) -> httpx.Response:
    """The page of an execution, when it has ended."""
    page = site.sent(f"{session_page}/run", {"code": code, "kind": kind, **fields}, session_page)
    return eventually(lambda: site.get(page), lambda seen: "data-stream" not in seen.text)


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_a_page_lets_nothing_be_loaded_or_run_but_what_is_ours(site: Site, path: str) -> None:
    answer = site.get(f"/console{path}")
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-store"
    for tag, attributes in tags_of(answer.text):
        assert tag not in ("style", "iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith(("on", "hx-on", "hx-vals")) or name == "style"]
        assert all(attributes[name].startswith(("/", "#")) for name in ("href", "src", "action") if name in attributes)
        assert tag != "script" or attributes["src"].startswith("/console/static/")
    assert '<html lang="en">' in answer.text
    assert re.search(r"<title>[^<]+ - ipybox</title>", answer.text)
    assert answer.text.count("<h1") == answer.text.count("<main") == 1


def test_what_is_not_there_is_a_page_that_says_so(site: Site) -> None:
    for path in (
        "/nothing",
        "/sessions/sess_none",
        "/executions/exec_none",
        "/templates/none",
        "/tests/0/99",
        "/tests/9/1",
    ):
        answer = site.get(f"/console{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
    assert site.get("/console/tests/x/1").status_code == 422
    assert site.get("/console/").headers["location"] == "/console"


def test_without_its_setting_there_is_no_console(tmp_path: Path) -> None:
    async def status(console: bool) -> int:
        app = create_app(ServerSettings(state_dir=str(tmp_path), console=console))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/console/sign-in")).status_code

    assert asyncio.run(status(False)) == 404
    assert asyncio.run(status(True)) == 503  # as it is not started


def test_static_files_are_kept_for_good_under_a_name_that_changes_with_them(site: Site) -> None:
    urls = set(re.findall(r"/console/static/[^\"]+", site.get("/console").text))
    assert {url.rpartition("/")[2] for url in urls} == {"console.css", "console.js", "htmx.min.js", "favicon.svg"}
    for url in urls:
        answer = site.get(url)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert site.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
        assert site.get(re.sub(r"/[0-9a-f]{16}/", "/0123456789abcdef/", url)).status_code == 404


def test_a_form_that_is_not_from_a_page_of_ours_is_refused(site: Site, open_api: Api) -> None:
    before = open_api.get("/sessions").json()["total"]
    fields = {"template_id": "python", "mode": "stateless"}
    answer = site.post("/console/sessions", data=fields)
    assert answer.status_code == 403
    assert "load its page again" in shown(answer)
    assert site.post("/console/sessions", data={**fields, "form_token": "0" * 64}).status_code == 403
    answer = site.post(
        "/console/sessions", data={**fields, "form_token": site.token()}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    answer = site.post("/console/sessions", json={**fields, "form_token": site.token()})
    assert answer.status_code == 400
    assert open_api.get("/sessions").json()["total"] == before


def test_a_form_that_is_wrong_comes_back_with_what_was_typed(site: Site) -> None:
    answer = site.submit("/console/sessions", {"template_id": "python", "tags": HOSTILE})
    assert answer.status_code == 422
    assert "That did not work" in shown(answer)
    assert HOSTILE in shown(answer)
    assert "<img src=x" not in answer.text
    answer = site.submit("/console/sessions", {"template_id": "python", "timeout": "none"})
    assert answer.status_code == 422
    assert "timeout" in shown(answer)


def test_a_session_goes_its_way_without_scripts(site: Site, open_api: Api) -> None:
    page = site.sent("/console/sessions", {"template_id": "python", "mode": "stateless", "tags": f"x={HOSTILE}\r\ny=z"})
    session_id = page.rpartition("/")[2]
    assert open_api.session_when(session_id, "running", "failed")["tags"] == {"x": HOSTILE, "y": "z"}
    assert session_id in site.get("/console/sessions", params={"tag": f"x={HOSTILE}", "status": "running"}).text
    assert session_id not in site.get("/console/sessions", params={"tag": "x=other"}).text
    assert session_id not in site.get("/console/sessions", params={"status": "failed", "template": "python"}).text

    said = _ran(
        site, page, "def handler(event):\r\n    print('hi')\r\n    return event", "python:handler", event='{"a": 1}'
    )
    assert "completed" in shown(said)
    assert re.search(r'Return value .*"a": 1', shown(said))
    assert "two lines" in shown(_ran(site, page, "echo two \\\r\n  lines", "shell:"))

    assert "kept for longer" in site.follow(f"{page}/renew", {"timeout": "600"}, page)
    assert "The session has ended" in site.follow(f"{page}/terminate", None, page)
    ended = site.get(page).text
    assert "terminated" in ended
    assert f"{page}/run" not in ended
    assert 'hx-trigger="every' not in ended
    answer = site.submit(f"{page}/run", {"code": "1", "kind": "shell:"})
    assert answer.status_code == 409
    assert "are deleted" in site.follow(f"{page}/delete", None, page)
    assert site.get(page).status_code == 404


def test_code_and_what_it_says_are_shown_as_text(site: Site, session_page: str) -> None:
    code = (
        f"print({HOSTILE!r}); print('\\x1b[31mred\\x1b[0m \\u202e')\nfrom IPython.display import HTML\nHTML('<b id=x>')"
    )
    page = _ran(site, session_page, code)
    for text in (HOSTILE, "red \\u202e", "<IPython.core.display.HTML object>"):
        assert text in shown(page).replace("  ", " ")
    assert "<img src=x" not in page.text
    assert "<b id=x>" not in page.text
    assert "<img src=x" not in site.get(session_page).text
    execution_page = str(page.url.path)
    assert site.get(f"{execution_page}/text").content.decode().startswith(HOSTILE)
    assert site.get(f"{execution_page}/text").headers["content-disposition"] == 'attachment; filename="stdout.txt"'


def test_a_poll_brings_nothing_while_nothing_is_new(site: Site, session_page: str) -> None:
    part = re.search(r'hx-get="([^"]+part=facts[^"]+)"', site.get(session_page).text)
    assert part is not None
    url = part[1].replace("&amp;", "&")
    answer = site.get(url, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert site.get(re.sub("seen=.*", "seen=other", url)).status_code == 200
    gone = site.get("/console/sessions/none?part=facts", headers={"HX-Request": "true"})
    assert (gone.status_code, gone.content, gone.headers["hx-refresh"]) == (404, b"", "true")


def test_a_run_that_is_refused_says_so_where_the_script_puts_it(site: Site, session_page: str) -> None:
    fields = {"form_token": site.token(session_page), "code": "1", "kind": "python:cell", "event": "{"}
    answer = site.post(f"{session_page}/run", data=fields, headers={"HX-Request": "true"})
    assert answer.status_code == 400
    assert answer.headers["hx-retarget"] == "#problem"
    assert "must be JSON" in shown(answer)
    answer = site.post(f"{session_page}/run", data={**fields, "form_token": ""}, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-retarget"]) == (403, "#problem")
    whole = site.post(f"{session_page}/run", data=fields)
    assert whole.status_code == 400
    assert "must be JSON" in shown(whole)


def test_an_execution_can_be_interrupted_and_its_stream_read(site: Site, session_page: str) -> None:
    page = site.sent(f"{session_page}/run", {"code": f"print('begun', flush=True)\n{FOREVER}", "kind": "python:cell"})
    with site.stream("GET", f"{page}/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert any("begun" in line for line in lines)
        assert "data-stream" in site.get(page).text
        assert "It was interrupted" in site.follow(f"{page}/interrupt", None, session_page)
        assert any(line == "event: end" for line in lines)
    again = site.get(f"{page}/stream", headers={"Last-Event-ID": "1"}).text
    assert '"text": "begun' not in again
    assert "event: end" in again


@pytest.mark.parametrize(
    "name", ["plain.txt", HOSTILE, "two\nlines", "100%25.txt", "déjà vu ☃", "a#b?c=d&e", "..\\up", "trail. ", "%FF"]
)
def test_a_file_of_any_name_goes_up_down_and_away(site: Site, open_api: Api, session_page: str, name: str) -> None:
    session_id = session_page.rpartition("/")[2]
    assert open_api.run(session_id, f"open({name!r}, 'w').write('old')")["status"] == "completed"
    page = site.get(session_page)
    assert "<img src=x" not in page.text
    paths = [
        httpx.URL(each.replace("&amp;", "&")).params["path"]
        for each in re.findall(r'href="([^"]+/file\?[^"]+)"', page.text)
    ]
    (path,) = [each for each in paths if site.get(f"{session_page}/file", params={"path": each}).content == b"old"]
    answer = site.get(f"{session_page}/file", params={"path": path})
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; frame")
    assert "is deleted" in site.follow(f"{session_page}/delete-file", {"path": path}, session_page)
    assert site.get(f"{session_page}/file", params={"path": path}).status_code == 404


def test_a_file_is_uploaded_under_its_name_or_another_one_into_the_directory_shown(
    site: Site, session_page: str
) -> None:
    answer = site.upload(session_page, "C:\\data\\here.bin", b"\0\1\2", directory="up/there")
    assert answer.status_code == 303, shown(answer)
    assert site.get(f"{session_page}/file", params={"path": "up/there/here.bin"}).content == b"\0\1\2"
    assert "up/there/here.bin is uploaded" in shown(site.get(answer.headers["location"]))
    assert site.upload(session_page, "x", b"other", name="up/named").status_code == 303
    assert site.get(f"{session_page}/file", params={"path": "up/named"}).content == b"other"
    for name in ("../out", "/etc/out", "up"):
        answer = site.upload(session_page, "x", b"bad", name=name)
        assert answer.status_code == 400
        assert "That did not work" in shown(answer)
    assert site.get(session_page, params={"path": "up/none"}).status_code == 200
    assert site.get(session_page, params={"path": "../.."}).status_code == 200


def test_an_upload_without_a_token_or_a_file_changes_nothing(site: Site, session_page: str) -> None:
    url = f"{session_page}/files"
    assert site.post(url, data={"form_token": "0"}, files={"file": ("sneaked", b"x")}).status_code == 403
    assert site.post(url, files={"file": ("sneaked", b"x")}).status_code == 403
    token = site.token(session_page)
    assert site.post(url, files={"form_token": (None, token)}).status_code == 400
    assert site.post(url, data={"form_token": token}).status_code == 400
    head = b'--b\r\nContent-Disposition: form-data; name="form_token"\r\n\r\n' + token.encode() + b"\r\n"
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="sneaked"\r\n\r\nhalf'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert site.post(url, content=head, headers=kind).status_code == 400
    assert site.get(f"{session_page}/file", params={"path": "sneaked"}).status_code == 404


def test_packages_that_can_not_be_told_apart_are_refused_before_anything_is_done(site: Site, session_page: str) -> None:
    answer = site.submit(f"{session_page}/install", {"packages": "../evil"}, session_page)
    assert answer.status_code == 422
    assert "../evil" in shown(answer)


def test_a_template_is_made_changed_and_deleted(site: Site, open_api: Api) -> None:
    new = "/console/templates/-/new"
    fields = {"id": "forms", "name": HOSTILE, "warm": "yes", "preload": "no_such_module_at_all", "cpu_cores": "0.5"}
    fields |= {"env_vars": "A=b=c", "packages": "", "allowed_domains": "example.org\r\n*.example.com", "timeout": "120"}
    page = site.sent("/console/templates", fields, new).partition("?")[0]
    reason = eventually(lambda: shown(site.get(page)), lambda text: "failed" in text)
    assert "no_such_module_at_all" in reason
    assert HOSTILE in reason
    assert "no_such_module_at_all" in shown(site.get("/console"))
    made = open_api.get("/templates/forms").json()
    assert made["default_env_vars"] == {"A": "b=c"}
    assert made["network"]["allowed_domains"] == ["example.org", "*.example.com"]

    refused = site.submit(page, {**fields, "timeout": "1"}, page)
    assert refused.status_code == 422
    assert "timeout" in shown(refused)
    assert "The template is changed" in site.follow(page, {**fields, "preload": "", "name": "Tame"}, page)
    eventually(lambda: shown(site.get(page)), lambda text: "Tame warm" in text)
    assert open_api.get("/templates/forms").json()["preload"] == []
    assert site.submit("/console/templates", {**fields, "name": "Other"}, new).status_code == 409
    assert "is deleted" in site.follow(f"{page}/delete", None, page)
    assert site.get(page).status_code == 404
    assert f"{page}/delete" not in site.get("/console/templates/python").text


def test_the_secret_of_a_key_is_shown_once(site: Site) -> None:
    page = site.sent(
        "/console/keys", {"name": HOSTILE, "owner": "ann", "scopes": ["read"], "days": "3"}, "/console/keys"
    )
    first = site.get(page)
    secret = re.search(r"ipybox_([a-z2-7]{12})_[a-z2-7]{52}", first.text)
    assert secret is not None
    assert "only appearance" in first.text
    assert "<img src=x" not in first.text
    for again in (page, "/console/keys"):
        text = site.get(again).text
        assert secret[0] not in text
        assert secret[1] in text

    rotated = site.follow(f"/console/keys/{secret[1]}/rotate", {"overlap": "0"}, "/console/keys")
    newer = re.search(r"ipybox_([a-z2-7]{12})_[a-z2-7]{52}", rotated)
    assert newer is not None
    assert "does not count any more" in site.follow(f"/console/keys/{newer[1]}/revoke", None, "/console/keys")
    assert f"/console/keys/{newer[1]}/revoke" not in site.get("/console/keys").text
    assert site.submit(f"/console/keys/{newer[1]}/rotate", {"overlap": "0"}, "/console/keys").status_code == 409
    assert site.submit("/console/keys", {"name": "x", "owner": "ann"}, "/console/keys").status_code == 422


def test_what_was_done_is_in_the_audit_log_with_who_and_from_where(site: Site, open_api: Api) -> None:
    page = site.sent("/console/sessions", {"template_id": "python"})
    session_id = page.rpartition("/")[2]
    site.follow(f"{page}/delete", None, page)
    entries = shown(site.get("/console/audit", params={"target": session_id}))
    assert re.search(rf"local session.delete {session_id} .*127.0.0.1 .*local session.create {session_id}", entries)
    assert "No entry is like that" in site.get("/console/audit", params={"actor": HOSTILE}).text


def test_the_report_of_a_test_run_is_shut_off_from_the_console(site: Site, results: tuple[Path, Path]) -> None:
    listing = site.get("/console/tests")
    assert "There are no results yet" in listing.text
    assert "<img src=x" not in listing.text
    assert HOSTILE in shown(listing)
    assert not results[1].exists()
    report = site.get("/console/tests/0/1")
    assert report.headers["content-security-policy"].endswith("frame-ancestors 'none'; sandbox")
    assert "script-src" not in report.headers["content-security-policy"]
    assert "1 of 2 tests did not succeed" in shown(report)
    assert "<img src=x" not in report.text
    assert site.get("/console/tests/1/1").status_code == 404
    assert not results[1].exists()
