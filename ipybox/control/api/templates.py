"""Routes of templates. Floor: control."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from ipybox.control.api.answers import Message, TemplateAnswer
from ipybox.control.api.bodies import MIB, TemplateBody, TemplateChanges
from ipybox.control.api.context import Plane, Reader, Templater, act
from ipybox.control.api.documented import problems
from ipybox.control.api.idempotency import IdempotencyKey, Made, Planned, once
from ipybox.control.api.large_bodies import BodyRoute
from ipybox.control.errors import ConflictError
from ipybox.control.records import Template
from ipybox.control.service.ids import now

router = APIRouter(prefix="/templates", tags=["templates"], route_class=BodyRoute)
TemplateId = Annotated[str, Path(min_length=1, max_length=64)]


@router.post(
    "", status_code=201, response_model=TemplateAnswer, responses=problems(409), operation_id="create_template"
)
async def create(
    request: Request, plane: Plane, principal: Templater, body: TemplateBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a template: what sessions are made from. A warm one has its Python ready, with its modules imported."""
    act(request, "template.create", body.id)
    at = now()
    template = Template(
        id=body.id,
        owner=principal.owner,
        name=body.name,
        image_url=body.image_url,
        runtime_type=body.runtime_type,
        limits=body.limits,
        default_timeout=body.default_timeout,
        default_env_vars=body.default_env_vars,
        preload=tuple(body.preload),
        packages=tuple(each.record for each in body.packages),
        package_index_url=body.package_index_url,
        network=body.network.record,
        warm=body.warm,
        created_at=at,
        updated_at=at,
    )

    async def make(planned: Planned | None) -> Made:
        try:
            made = await plane.templates.add(principal, template)
        except ConflictError:
            if planned is None or not planned.is_again:
                raise
            made = await plane.templates.get(body.id)
            if made.owner != principal.owner:
                raise
        return 201, TemplateAnswer.of(made)

    return await once(request, principal, idempotency_key, "template", make)


@router.get("", responses=problems(), operation_id="list_templates")
async def list_templates(
    plane: Plane,
    principal: Reader,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> list[TemplateAnswer]:
    """All templates, oldest first; everybody can use them."""
    page = await plane.templates.list(limit=limit, offset=offset)
    return [TemplateAnswer.of(each) for each in page.items]


@router.get("/{template_id}", responses=problems(404), operation_id="get_template")
async def get(plane: Plane, principal: Reader, template_id: TemplateId) -> TemplateAnswer:
    """One template."""
    return TemplateAnswer.of(await plane.templates.get(template_id))


@router.put("/{template_id}", responses=problems(404, 409), operation_id="update_template")
async def update(
    request: Request, plane: Plane, principal: Templater, template_id: TemplateId, body: TemplateChanges
) -> TemplateAnswer:
    """Change a template. Sessions that are there keep what they have."""
    act(request, "template.update", template_id, fields=sorted(body.model_fields_set))
    changed = await plane.templates.update(principal, template_id, lambda old: _changes(body, old))
    return TemplateAnswer.of(changed)


@router.delete("/{template_id}", responses=problems(404, 409), operation_id="delete_template")
async def delete(request: Request, plane: Plane, principal: Templater, template_id: TemplateId) -> Message:
    """Delete a template. Sessions that were made from it go on."""
    act(request, "template.delete", template_id)
    await plane.templates.remove(principal, template_id)
    return Message(message="Template deleted successfully")


def _changes(body: TemplateChanges, old: Template) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("name", "image_url", "runtime_type", "default_timeout", "default_env_vars", "warm"):
        if (value := getattr(body, name)) is not None:
            found[name] = value
    if body.package_index_url is not None:
        found["package_index_url"] = body.package_index_url
    if body.preload is not None:
        found["preload"] = tuple(body.preload)
    if body.packages is not None:
        found["packages"] = tuple(each.record for each in body.packages)
    if body.network is not None:
        found["network"] = body.network.record
    limits: dict[str, Any] = {}
    for name, field, unit in (
        ("default_cpu_cores", "cpu_cores", 1),
        ("default_memory_mb", "memory_bytes", MIB),
        ("default_disk_mb", "disk_bytes", MIB),
        ("max_processes", "max_processes", 1),
    ):
        if (value := getattr(body, name)) is not None:
            limits[field] = value * unit
    if limits:
        found["limits"] = replace(old.limits, **limits)
    return found
