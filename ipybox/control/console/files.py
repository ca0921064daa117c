"""Files of a session, to and from a browser. Floor: control."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ipybox.control.api import files as file_routes
from ipybox.control.api.context import act
from ipybox.control.console.forms import TOKEN, Form, SentForm, check_token, told
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import see
from ipybox.control.console.sessions import session_page
from ipybox.control.console.upload_form import UploadForm
from ipybox.control.console.visitor import Doer, Looker, leave_note, plane_of
from ipybox.control.console.wording import url
from ipybox.errors import IpyboxError

router = APIRouter(prefix="/sessions/{session_id}", route_class=PageRoute)
FilePath = Annotated[str, Query(min_length=1, max_length=4096)]


@router.get("/file", response_model=None)
async def download(request: Request, visitor: Looker, session_id: str, path: FilePath) -> Response:
    """A file, to be saved. It is named in the query, as names of files may be anything."""
    headers = request.headers
    return await file_routes.download(
        request,
        plane_of(request),
        visitor.principal,
        session_id,
        path,
        presign=False,
        range_=headers.get("range"),
        if_range=headers.get("if-range"),
        if_none_match=headers.get("if-none-match"),
    )


@router.post("/files")
async def upload(request: Request, visitor: Doer, session_id: str) -> Response:
    """Writes a file into the directory that the page shows, or to a path that is said."""
    upload = UploadForm(request)
    await upload.begin()
    check_token(request, visitor, upload.fields.get(TOKEN, ""))
    directory = upload.fields.get("directory", "").strip("/")
    name = upload.fields.get("name", "").strip() or upload.file_name.replace("\\", "/").rpartition("/")[2]
    path = f"{directory}/{name}" if directory else name
    act(request, "file.write", session_id, path=path[:200])
    plane = plane_of(request)
    try:
        stored = await plane.files.write(visitor.principal, session_id, path, upload.chunks())
    except IpyboxError as error:
        session = await plane.sessions.get(visitor.principal, session_id)
        status, problem = told(error)
        return await session_page(
            request, visitor, session, path=directory, form=Form(()), status=status, problem=problem
        )
    plane.metrics.uploaded.inc(stored.size)
    note = leave_note(request, visitor, f"{stored.path} is uploaded.")
    return see(url("sessions", session_id, path=directory, note=note) + "#files")


@router.post("/delete-file")
async def delete(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Removes a file."""
    path = form["path"]
    act(request, "file.delete", session_id, path=path[:200])
    await plane_of(request).files.delete(visitor.principal, session_id, path)
    note = leave_note(request, visitor, f"{path} is deleted.")
    return see(url("sessions", session_id, path=path.rpartition("/")[0], note=note) + "#files")
