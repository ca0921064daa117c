"""Pages of templates. Floor: control."""

from __future__ import annotations

import sys
from typing import Any, get_args

from fastapi import APIRouter, Request, Response

from ipybox.control.access.scopes import Scope
from ipybox.control.api.bodies import MIB, RuntimeType, TemplateBody
from ipybox.control.api.context import act
from ipybox.control.console.forms import Form, Refused, SentForm, texts, told
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import page, see
from ipybox.control.console.visitor import Looker, TemplateMaker, Visitor, leave_note, plane_of
from ipybox.control.console.wording import url
from ipybox.control.records import Template
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.service.ids import now
from ipybox.control.service.templates import BUILT_IN, runtime_problem

router = APIRouter(prefix="/templates", route_class=PageRoute)
_MOST = 200
_RUNTIMES = get_args(RuntimeType)


@router.get("")
async def templates(request: Request, visitor: Looker) -> Response:
    """All of them."""
    plane = plane_of(request)
    found = await plane.templates.list(limit=_MOST, offset=0)
    rows = [(each, *_state(plane, each)) for each in found.items]
    return page(request, "templates.html", rows=rows, total=found.total, most=_MOST)


@router.get("/-/new")
async def new(request: Request, visitor: TemplateMaker) -> Response:
    """The form for a new one."""
    return _form_page(request, _fields_of(None))


@router.post("")
async def create(request: Request, visitor: TemplateMaker, form: SentForm) -> Response:
    """Makes one."""
    act(request, "template.create", form["id"][:64])
    try:
        made = await plane_of(request).templates.add(visitor.principal, _record(form, form["id"], visitor))
    except Refused as error:
        status, problem = told(error)
        return _form_page(request, form, status=status, problem=problem)
    return see(url("templates", made.id, note=leave_note(request, visitor, "The template is made.")))


@router.get("/{template_id}")
async def template(request: Request, visitor: Looker, template_id: str) -> Response:
    """One of them."""
    return await _template_page(request, visitor, template_id)


@router.post("/{template_id}")
async def update(request: Request, visitor: TemplateMaker, template_id: str, form: SentForm) -> Response:
    """Changes one."""
    plane = plane_of(request)
    old = await plane.templates.get(template_id)
    act(request, "template.update", old.id)
    try:
        new = _record(form, old.id, visitor)
        changes: dict[str, Any] = {name: getattr(new, name) for name in _CHANGED}
        await plane.templates.update(visitor.principal, old.id, lambda _: changes)
    except Refused as error:
        status, problem = told(error)
        return await _template_page(request, visitor, old.id, form=form, status=status, problem=problem)
    text = "The template is changed. Sessions that are there keep what they have."
    return see(url("templates", old.id, note=leave_note(request, visitor, text)))


@router.post("/{template_id}/delete")
async def delete(request: Request, visitor: TemplateMaker, template_id: str, form: SentForm) -> Response:
    """Deletes one."""
    act(request, "template.delete", template_id)
    await plane_of(request).templates.remove(visitor.principal, template_id)
    return see(url("templates", note=leave_note(request, visitor, f"The template {template_id} is deleted.")))


_CHANGED = (
    "name",
    "runtime_type",
    "limits",
    "default_timeout",
    "default_env_vars",
    "preload",
    "packages",
    "package_index_url",
    "network",
    "warm",
)


async def _template_page(
    request: Request,
    visitor: Visitor,
    template_id: str,
    *,
    form: Form | None = None,
    status: int = 200,
    problem: str | None = None,
) -> Response:
    plane = plane_of(request)
    found = await plane.templates.get(template_id)
    word, reason = _state(plane, found)
    is_theirs = found.owner == visitor.principal.owner or visitor.principal.sees_all
    return page(
        request,
        "template.html",
        status,
        template=found,
        state=word,
        reason=reason,
        may_change=is_theirs and visitor.principal.allows(Scope.TEMPLATES),
        is_built_in=found.id == BUILT_IN,
        form=form or _fields_of(found),
        was_sent=form is not None,
        runtimes=_RUNTIMES,
        problem=problem,
    )


def _form_page(request: Request, form: Form, status: int = 200, problem: str | None = None) -> Response:
    return page(request, "template_new.html", status, form=form, runtimes=_RUNTIMES, problem=problem)


def _state(plane: ControlPlane, template: Template) -> tuple[str, str]:
    """Whether its Python is ready, and why not."""
    if not template.is_active:
        return "not active", ""
    if problem := runtime_problem(template.runtime_type):
        return "failed", problem
    if not template.warm:
        return "on demand", ""
    if template.id in plane.templates.failures:
        return "failed", plane.templates.failures[template.id]
    return ("warm", "") if plane.templates.is_warm(template.id) else ("not warm yet", "")


def _record(form: Form, template_id: str, visitor: Visitor) -> Template:
    body = TemplateBody.model_validate(
        {
            "id": template_id,
            "name": form["name"],
            "default_env_vars": form.pairs("env_vars"),
            "preload": form.parts("preload"),
            "packages": form.packages("packages"),
            "package_index_url": form.word("package_index_url"),
            "network": {
                "allowed_domains": form.parts("allowed_domains"),
                "denied_domains": form.parts("denied_domains"),
            },
            "warm": form.flag("warm"),
            **form.only_said(
                runtime_type=form.word("runtime_type"),
                default_cpu_cores=form.word("cpu_cores"),
                default_memory_mb=form.word("memory_mb"),
                default_disk_mb=form.word("disk_mb"),
                default_timeout=form.word("timeout"),
                max_processes=form.word("max_processes"),
            ),
        }
    )
    at = now()
    return Template(
        id=body.id,
        owner=visitor.principal.owner,
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


def _fields_of(template: Template | None) -> Form:
    """The fields of the form, as they are to begin with."""
    body = TemplateBody(id="new", name="new")
    limits = body.limits if template is None else template.limits
    fields = {
        "runtime_type": _own_runtime() if template is None else template.runtime_type,
        "cpu_cores": f"{limits.cpu_cores:g}",
        "memory_mb": str(limits.memory_bytes // MIB),
        "disk_mb": str(limits.disk_bytes // MIB),
        "max_processes": str(limits.max_processes),
        "timeout": str(body.default_timeout if template is None else template.default_timeout),
    }
    if template is not None:
        fields |= {
            "id": template.id,
            "name": template.name,
            "env_vars": texts(template.default_env_vars),
            "preload": " ".join(template.preload),
            "packages": "\n".join(each.requirement for each in template.packages),
            "package_index_url": template.package_index_url or "",
            "allowed_domains": "\n".join(template.network.allowed_domains),
            "denied_domains": "\n".join(template.network.denied_domains),
        }
    if template is None or template.warm:
        fields["warm"] = "yes"
    return Form(fields.items())


def _own_runtime() -> str:
    """The Python that this server runs, if it has a name; sessions get that one whatever the template says."""
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return own if own in _RUNTIMES else str(_RUNTIMES[0])
