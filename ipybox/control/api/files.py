"""Routes of files. Floor: control."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ipybox.control.api.answers import FileAnswer, FileList, Message, Presigned, Uploaded
from ipybox.control.api.context import Executor, Plane, Reader, act
from ipybox.control.api.documented import problems
from ipybox.control.api.multipart import file_of
from ipybox.control.api.rendering import fields_of, rendered
from ipybox.control.api.sessions import SessionId
from ipybox.control.errors import RequestRefusedError
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.storage import attachment, ranges
from ipybox.control.storage.files import OpenedFile, StoredFile


class _AnyPath(Convertor[str]):
    """A path that may hold line breaks, as names of files do."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_path", _AnyPath())
router = APIRouter(prefix="/sessions/{session_id}/files", tags=["files"])
LARGE = 10 * 1024 * 1024
"""Bytes from which on a file is fetched from the object store itself, if there is one."""
FilePath = Annotated[str, Path(min_length=1, max_length=4096, description="Relative to the workspace.")]
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}
_BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, or where it can be had.",
        "content": {
            "*/*": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/Presigned"}},
        },
    },
    206: {
        "description": "The part of it that was asked for.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "It is the one that you have."},
}


@router.get("", response_model=FileList, responses=problems(404, 409), operation_id="list_files")
async def list_files(
    plane: Plane,
    principal: Reader,
    session_id: SessionId,
    path: Annotated[str, Query(max_length=4096, description="A directory, relative to the workspace.")] = "",
    limit: Annotated[int, Query(ge=1, le=10000)] = 1000,
    recursive: Annotated[bool, Query(description="Also what is in directories below.")] = True,
) -> Response:
    """Files of a session, by name."""
    found = await plane.files.list(principal, session_id, _relative(path), limit=limit, recursive=recursive)
    files = (fields_of(_file(each)) for each in found)
    return await rendered({"session_id": session_id, "files": files, "count": len(found)})


@router.post("/upload", responses=problems(404, 408, 409, 507, 502), openapi_extra=_FORM, operation_id="upload_file")
async def upload(
    request: Request,
    plane: Plane,
    principal: Executor,
    session_id: SessionId,
    path: Annotated[str, Query(min_length=1, max_length=4096, description="Relative to the workspace.")],
) -> Uploaded:
    """Write a file into a session's workspace, as a form with the field `file`. Directories are made as needed."""
    _refuse_conditions(request)
    act(request, "file.write", session_id, path=path[:200])
    chunks = file_of(request.headers.get("content-type", ""), _body(request))
    return _uploaded(session_id, await plane.files.write(principal, session_id, path, chunks), plane)


@router.put(
    "/{file_path:any_path}", responses=problems(404, 408, 409, 507, 502), openapi_extra=_BYTES, operation_id="put_file"
)
async def put(
    request: Request, plane: Plane, principal: Executor, session_id: SessionId, file_path: FilePath
) -> Uploaded:
    """Write a file into a session's workspace; the body is its content."""
    _refuse_conditions(request)
    act(request, "file.write", session_id, path=file_path[:200])
    return _uploaded(session_id, await plane.files.write(principal, session_id, file_path, _body(request)), plane)


@router.get(
    "/{file_path:any_path}",
    response_class=StreamingResponse,
    response_model=None,
    responses={**_CONTENT, **problems(404, 409, 412, 416, 502)},
    operation_id="download_file",
)
async def download(
    request: Request,
    plane: Plane,
    principal: Reader,
    session_id: SessionId,
    file_path: FilePath,
    presign: Annotated[
        bool | None,
        Query(description="A URL in place of the bytes; by itself for large files when there is an object store."),
    ] = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A file of a session's workspace."""
    opened = await plane.files.open(principal, session_id, file_path)
    async with _Kept(opened) as hold:
        if presign or (presign is None and opened.size >= LARGE and range_ is None):
            url = await plane.files.presigned(principal, session_id, file_path)
            if url is not None:
                said = Presigned(session_id=session_id, file_path=file_path, presigned_url=url, size=opened.size)
                return JSONResponse(said.model_dump(mode="json"))
            if presign:
                raise RequestRefusedError("this server has no object store; leave it out", "presign")
        headers = {
            "ETag": opened.etag,
            "Accept-Ranges": "bytes",
            "Last-Modified": ranges.http_date(opened.modified_at),
            "Content-Disposition": attachment.content_disposition(file_path),
            "X-Content-Type-Options": "nosniff",
        }
        if if_match is not None and not _is_among(if_match, opened.etag):
            raise HTTPException(412, f"the file is {opened.etag} by now")
        if if_none_match is not None and _matches(if_none_match, opened.etag):
            return Response(status_code=304, headers=headers)
        part = ranges.requested_range(range_, opened.size, if_range=if_range, etag=opened.etag)
        start, stop = (0, opened.size) if part is None else (part.start, part.stop)
        headers["Content-Length"] = str(stop - start)
        if part is not None:
            headers["Content-Range"] = part.content_range
        hold.hand_over()
        plane.metrics.downloaded.inc(stop - start)
        return _FileResponse(opened, start, stop, 200 if part is None else 206, headers)


@router.delete("/{file_path:any_path}", responses=problems(404, 409, 502), operation_id="delete_file")
async def delete(
    request: Request, plane: Plane, principal: Executor, session_id: SessionId, file_path: FilePath
) -> Message:
    """Remove a file of a session's workspace."""
    _refuse_conditions(request)
    act(request, "file.delete", session_id, path=file_path[:200])
    await plane.files.delete(principal, session_id, file_path)
    return Message(message="File deleted successfully")


def _relative(path: str) -> str:
    """Of a directory, as the model's clients name it: from the workspace on or with it."""
    if path.rstrip("/") == "/workspace" or path.startswith("/workspace/"):
        path = path.removeprefix("/workspace").lstrip("/")
    return path.rstrip("/") or path


def _is_among(if_match: str, etag: str) -> bool:
    """RFC 9110, section 13.1.1."""
    wanted = {each.strip() for each in if_match.split(",")}
    return "*" in wanted or etag in wanted


def _refuse_conditions(request: Request) -> None:
    """Code may change a file at any moment, so that nobody can promise to write over one version of it only."""
    for name in ("If-Match", "If-None-Match", "If-Unmodified-Since"):
        if name in request.headers:
            raise RequestRefusedError("files are written and removed whatever is there; leave it out", name)


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, section 13.1.2; what is weak is as good as what is strong here."""
    wanted = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return "*" in wanted or etag in wanted


class _FileResponse(StreamingResponse):
    """Closes the file when it was sent, or could not be, or nobody was there any more."""

    def __init__(self, opened: OpenedFile, start: int, stop: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(opened.chunks(start, stop), status, headers, opened.mime_type)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        async with self._opened:
            await super().__call__(scope, receive, send)


class _Kept:
    """Closes a file on the way out, unless it was handed over to who sends it."""

    def __init__(self, opened: OpenedFile) -> None:
        self._opened, self._is_ours = opened, True

    def hand_over(self) -> None:
        self._is_ours = False

    async def __aenter__(self) -> _Kept:
        await self._opened.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._is_ours:
            await self._opened.__aexit__(None, None, None)


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise RequestRefusedError("the body ends in the middle") from None


def _uploaded(session_id: str, stored: StoredFile, plane: ControlPlane) -> Uploaded:
    plane.metrics.uploaded.inc(stored.size)
    return Uploaded(
        session_id=session_id, file_path=stored.path, size=stored.size, checksum=stored.checksum or "", etag=stored.etag
    )


def _file(stored: StoredFile) -> FileAnswer:
    return FileAnswer(
        name=stored.name,
        path=stored.path,
        container_path=stored.container_path,
        kind=stored.kind,
        size=stored.size,
        modified_time=stored.modified_time,
        etag=stored.etag,
    )
