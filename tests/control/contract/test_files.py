"""Files over HTTP: in, out, and nowhere else."""

from __future__ import annotations

import hashlib
import os
from typing import Any
from urllib.parse import quote

import pytest

from tests.control.serving import Api, Server


def upload(api: Api, session_id: str, path: str, content: bytes) -> dict[str, object]:
    answer = api.post(
        f"/sessions/{session_id}/files/upload", params={"path": path}, files={"file": ("local.bin", content)}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_an_uploaded_file_is_what_code_reads_and_what_code_writes_can_be_downloaded(api: Api, session: str) -> None:
    content = b"name,value\nx,1\n"
    made = upload(api, session, "uploads/x.csv", content)
    assert made["session_id"] == session
    assert (made["file_path"], made["size"]) == ("uploads/x.csv", len(content))
    assert made["checksum"] == "sha256:" + hashlib.sha256(content).hexdigest()
    assert api.get(f"/sessions/{session}/files/uploads/x.csv").text == content.decode()
    code = "def handler(event):\n    open('result.txt', 'w').write(open('uploads/x.csv').read().upper())"
    assert api.run(session, code)["status"] == "completed"
    found = api.get(f"/sessions/{session}/files/result.txt")
    assert found.content == content.upper()
    assert found.headers["content-disposition"].startswith("attachment")
    assert "result.txt" in found.headers["content-disposition"]
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_file_is_put_with_its_bytes_as_the_body(api: Api, session: str) -> None:
    content = os.urandom(300_000)
    answer = api.put(f"/sessions/{session}/files/deep/er/data.bin", content=content)
    assert answer.status_code == 200
    assert answer.json()["size"] == len(content)
    assert api.get(f"/sessions/{session}/files/deep/er/data.bin").content == content
    again = api.put(f"/sessions/{session}/files/deep/er/data.bin", content=b"")
    assert again.json()["size"] == 0
    assert api.get(f"/sessions/{session}/files/deep/er/data.bin").content == b""


def test_the_list_names_files_with_their_place_and_size(api: Api, own_session: str) -> None:
    assert api.get(f"/sessions/{own_session}/files").json() == {"session_id": own_session, "files": [], "count": 0}
    for path in ("b.txt", "a/1.txt", "a/2.txt"):
        upload(api, own_session, path, path.encode())
    found = api.get(f"/sessions/{own_session}/files").json()
    files = {each["path"]: each for each in found["files"] if each["kind"] == "file"}
    assert sorted(files) == ["a/1.txt", "a/2.txt", "b.txt"]
    assert found["count"] == len(found["files"])
    assert files["a/1.txt"]["name"] == "1.txt"
    assert files["a/1.txt"]["container_path"] == "/workspace/a/1.txt"
    assert files["a/1.txt"]["size"] == 7
    assert files["a/1.txt"]["etag"] == api.get(f"/sessions/{own_session}/files/a/1.txt").headers["etag"]
    everything = [each["path"] for each in found["files"]]
    for path in ("", "/workspace", "/workspace/"):
        whole = api.get(f"/sessions/{own_session}/files", params={"path": path}).json()["files"]
        assert [each["path"] for each in whole] == everything
    for path in ("a", "/workspace/a", "a/"):
        below = api.get(f"/sessions/{own_session}/files", params={"path": path}).json()["files"]
        assert [each["path"] for each in below] == ["a/1.txt", "a/2.txt"]
    assert api.get(f"/sessions/{own_session}/files", params={"limit": 1}).json()["count"] == 1
    for limit in (0, 10_001):
        assert api.get(f"/sessions/{own_session}/files", params={"limit": limit}).status_code == 422
    assert api.get(f"/sessions/{own_session}/files", params={"path": "no"}).status_code == 404
    for path in ("../..", "/etc", "/", "/workspaces", "/workspace/../.."):
        assert api.get(f"/sessions/{own_session}/files", params={"path": path}).status_code == 400, path


def test_parts_of_a_file_are_sent_as_they_are_asked_for(api: Api, session: str) -> None:
    content = bytes(range(256)) * 4
    upload(api, session, "ranges.bin", content)
    url = f"/sessions/{session}/files/ranges.bin"
    whole = api.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    etag = whole.headers["etag"]
    for text, part in (("bytes=0-9", content[:10]), ("bytes=1000-", content[1000:]), ("bytes=-5", content[-5:])):
        answer = api.get(url, headers={"Range": text})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(content)}")
    beyond = api.get(url, headers={"Range": "bytes=2000-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert beyond.headers["content-type"] == "application/problem+json"
    assert api.get(url, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    assert api.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'}).status_code == 200
    same = api.get(url, headers={"If-None-Match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    for text in (etag, "*", f'"other", {etag}'):
        assert api.get(url, headers={"If-Match": text}).status_code == 200
    upload(api, session, "ranges.bin", content[::-1])
    assert api.get(url, headers={"If-None-Match": etag}).status_code == 200
    other = api.get(url, headers={"If-Match": etag, "Range": "bytes=5-"})
    assert (other.status_code, other.headers["content-type"]) == (412, "application/problem+json")


def test_a_condition_that_is_not_kept_is_refused_and_nothing_is_written(api: Api, session: str) -> None:
    url = f"/sessions/{session}/files/kept.txt"
    etag = api.put(url, content=b"kept").json()["etag"]
    form = {"file": ("f", b"other")}
    for condition in ({"If-Match": etag}, {"If-None-Match": "*"}, {"If-Unmodified-Since": "x"}):
        for answer in (
            api.put(url, content=b"other", headers=condition),
            api.delete(url, headers=condition),
            api.post(f"/sessions/{session}/files/upload?path=kept.txt", files=form, headers=condition),
        ):
            assert answer.status_code == 400
            assert answer.json()["detail"].startswith(f"{next(iter(condition))}: ")
    assert api.get(url).content == b"kept"


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "a/../../../etc/passwd",
        "",
        ".",
        "..",
        "a\0b",
        "x" * 5000,
        "a/" * 600,
    ],
    ids=lambda path: ascii(path)[:20],
)
def test_a_path_that_leads_elsewhere_is_refused(api: Api, session: str, path: str) -> None:
    answer = api.post(f"/sessions/{session}/files/upload", params={"path": path}, files={"file": b"x"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "raw",
    [
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2fetc%2fpasswd",
        "a%00b",
        "..%5c..%5cetc",
        "%252e%252e%252fetc",
        "%c0%ae%c0%ae/etc/passwd",
        "....//etc/passwd",
        ".%2e/outside",
    ],
)
def test_percent_encoded_tricks_lead_nowhere(server: Server, session: str, raw: str) -> None:
    """Sent as they are: a client library would take out the dots before."""
    import http.client

    host, port = server.url.removeprefix("http://").split(":")
    for method, body in (("GET", None), ("PUT", b"x"), ("DELETE", None)):
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request(method, f"/api/v1/sessions/{session}/files/{raw}", body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert b"root:" not in content
        if method == "GET":
            assert answer.status in (400, 404)
        assert answer.status < 500


@pytest.mark.parametrize(
    "name", ["Grüße 世界 🎉.txt", "a b;c\"d'e.txt", "100%25.txt", "plus+and&=#?.txt", "-rf", "~", "a\nb", "\\"]
)
def test_any_name_comes_back_as_it_was(api: Api, own_session: str, name: str) -> None:
    made = upload(api, own_session, name, b"x")
    assert made["file_path"] == name
    found = api.get(f"/sessions/{own_session}/files/{quote(name, safe='')}")
    assert (found.status_code, found.content) == (200, b"x")
    assert found.headers["content-disposition"].isascii()
    assert api.get(f"/sessions/{own_session}/files").json()["files"][0]["path"] == name
    assert api.delete(f"/sessions/{own_session}/files/{quote(name, safe='')}").status_code == 200


def test_links_that_code_made_are_not_followed(api: Api, own_session: str) -> None:
    code = (
        "import os\n"
        "def handler(event):\n"
        "    os.symlink('/etc/passwd', 'file'); os.symlink('/etc', 'directory'); os.symlink('/', 'root')\n"
        "    os.mkfifo('fifo')\n"
    )
    assert api.run(own_session, code)["status"] == "completed"
    for path in ("file", "directory/passwd", "root/etc/passwd", "fifo"):
        answer = api.get(f"/sessions/{own_session}/files/{path}")
        assert answer.status_code in (400, 404), path
        assert "root:" not in answer.text
        assert api.put(f"/sessions/{own_session}/files/{path}", content=b"x").status_code in (200, 400, 404, 409)
    with open("/etc/passwd", "rb") as file:
        assert file.read() != b"x"


def test_a_deleted_file_is_gone(api: Api, session: str) -> None:
    upload(api, session, "gone.txt", b"x")
    answer = api.delete(f"/sessions/{session}/files/gone.txt")
    assert (answer.status_code, answer.json()) == (200, {"message": "File deleted successfully"})
    assert api.get(f"/sessions/{session}/files/gone.txt").status_code == 404
    assert api.delete(f"/sessions/{session}/files/gone.txt").status_code == 404
    assert api.run(session, "import os\ndef handler(e): return os.path.exists('gone.txt')")["return_value"] is False


def test_what_does_not_exist_is_not_found(api: Api, session: str) -> None:
    answer = api.get(f"/sessions/{session}/files/none.txt")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    for method in ("get", "delete"):
        assert getattr(api, method)("/sessions/sess_none/files/x").status_code == 404
    assert api.put("/sessions/sess_none/files/x", content=b"x").status_code == 404
    assert api.post("/sessions/sess_none/files/upload", params={"path": "x"}, files={"file": b"x"}).status_code == 404


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(api: Api, session: str) -> None:
    for content in (b"x" * (20 * 1024**2 + 1), b"x" * (25 * 1024**2)):
        answer = api.put(f"/sessions/{session}/files/large.bin", content=content)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        form = api.post(f"/sessions/{session}/files/upload", params={"path": "large.bin"}, files={"file": content})
        assert form.status_code == 413
    assert api.get(f"/sessions/{session}/files/large.bin").status_code == 404
    upload(api, session, "large.bin", b"x" * (20 * 1024**2))
    found = api.get(f"/sessions/{session}/files/large.bin", params={"presign": False})
    assert found.headers["content-length"] == str(20 * 1024**2)
    assert api.delete(f"/sessions/{session}/files/large.bin").status_code == 200


def test_a_chunked_body_that_is_too_large_is_refused_as_well(api: Api, session: str) -> None:
    answer = api.put(f"/sessions/{session}/files/large.bin", content=(b"x" * 1024**2 for _ in range(21)))
    assert answer.status_code == 413
    assert api.get(f"/sessions/{session}/files/large.bin").status_code == 404


def test_more_than_the_sessions_disk_is_refused(api: Api) -> None:
    session_id = api.running_session(disk="2Mi")
    assert api.put(f"/sessions/{session_id}/files/one", content=b"x" * 1024**2).status_code == 200
    answer = api.put(f"/sessions/{session_id}/files/two", content=b"x" * 1024**2 * 2)
    assert answer.status_code == 507
    assert api.get(f"/sessions/{session_id}/files/two").status_code == 404
    api.delete(f"/sessions/{session_id}")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nhalf"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=other\r\n\r\nx\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"nonsense"),
    ],
)
def test_a_form_that_is_none_is_refused_and_leaves_nothing(
    api: Api, session: str, content_type: str, body: bytes
) -> None:
    answer = api.post(
        f"/sessions/{session}/files/upload",
        params={"path": "form.bin"},
        content=body,
        headers={"Content-Type": content_type},
    )
    assert answer.status_code == 400, answer.text
    assert api.get(f"/sessions/{session}/files/form.bin").status_code == 404


def test_a_presigned_url_needs_an_object_store(api: Api, session: str, elsewhere: dict[str, Any]) -> None:
    upload(api, session, "plain.txt", b"x")
    answer = api.get(f"/sessions/{session}/files/plain.txt", params={"presign": True})
    assert answer.status_code == (200 if "workspace_url" in elsewhere else 400)
    assert api.get(f"/sessions/{session}/files/plain.txt", params={"presign": False}).status_code == 200


def test_a_file_above_ten_megabytes_is_sent_from_the_disk(api: Api, session: str, elsewhere: dict[str, Any]) -> None:
    content = os.urandom(1024**2) * 11
    upload(api, session, "eleven.bin", content)
    params = {"presign": False} if "workspace_url" in elsewhere else None
    assert api.get(f"/sessions/{session}/files/eleven.bin", params=params).content == content
    assert api.delete(f"/sessions/{session}/files/eleven.bin").status_code == 200
