"""What requests and answers look like, for the OpenAPI document. Floor: control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ipybox.control.access.problems import MEDIA_TYPE, problem

_AT = "2026-11-21T17:45:00.000000Z"
_SESSION, _EXECUTION = "sess_20261121_k3v9x0qa", "exec_20261121174502_w81mz4tc"
_CODE = "def handler(event):\n    print('hello')\n    return {'message': f\"Hello, {event['name']}!\"}\n"
_NO_NETWORK: Mapping[str, Any] = {"allowed_domains": [], "denied_domains": []}
_CHECKSUM = "sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
_FILE = "name,age\nAda,36\n"

_TEMPLATE = {
    "id": "data-science",
    "owner": "alice",
    "name": "Data science",
    "image_url": "ipybox",
    "runtime_type": "python3.11",
    "default_cpu_cores": 1.0,
    "default_memory_mb": 1024,
    "default_disk_mb": 1024,
    "default_timeout_sec": 300,
    "default_timeout": 300,
    "default_env_vars": {},
    "max_processes": 128,
    "preload": ["json"],
    "packages": [{"name": "pandas", "version": "==2.3.3"}],
    "package_index_url": None,
    "network": _NO_NETWORK,
    "warm": True,
    "is_active": True,
    "created_at": _AT,
    "updated_at": _AT,
}
_SESSION_ANSWER = {
    "id": _SESSION,
    "owner": "alice",
    "template_id": "python",
    "mode": "stateless",
    "status": "running",
    "status_reason": None,
    "status_detail": None,
    "resource_limit": {"cpu": "1", "memory": "512Mi", "disk": "1Gi", "max_processes": 128},
    "workspace_path": "/workspace",
    "language_runtime": "python3.11",
    "runtime_type": "python3.11",
    "runtime_node": "node-5ec43cec",
    "container_id": "box-c29f878b7aae4330",
    "pod_name": None,
    "epoch": 1,
    "env_vars": {},
    "event": None,
    "tags": {"team": "research"},
    "network": _NO_NETWORK,
    "denied_hosts": {},
    "timeout": 300,
    "python_package_index_url": None,
    "requested_dependencies": [{"name": "pyfiglet", "version": "==1.0.2"}],
    "installed_dependencies": [
        {
            "name": "pyfiglet",
            "version": "1.0.2",
            "install_location": "/packages",
            "install_time": _AT,
            "is_from_template": False,
        }
    ],
    "dependency_install_status": "completed",
    "dependency_install_error": None,
    "dependency_install_started_at": _AT,
    "dependency_install_completed_at": _AT,
    "created_at": _AT,
    "updated_at": _AT,
    "started_at": _AT,
    "completed_at": None,
    "last_activity_at": _AT,
    "expires_at": "2026-11-21T17:50:00.000000Z",
}
_EXECUTION_ANSWER = {
    "id": _EXECUTION,
    "execution_id": _EXECUTION,
    "session_id": _SESSION,
    "status": "completed",
    "status_reason": None,
    "kind": "handler",
    "code": _CODE,
    "language": "python",
    "timeout": 10.0,
    "event": {"name": "World"},
    "exit_code": 0,
    "error_name": None,
    "error_message": None,
    "execution_time": 0.0051,
    "stdout": "hello\n",
    "stderr": "",
    "truncated": False,
    "return_value": {"message": "Hello, World!"},
    "has_return_value": True,
    "metrics": {
        "duration_ms": 5.1,
        "cpu_time_ms": 3.0,
        "peak_memory_mb": 26.3,
        "io_read_bytes": 0,
        "io_write_bytes": 0,
    },
    "artifacts": [
        {
            "path": "report.csv",
            "size": 16,
            "mime_type": "text/csv",
            "type": "artifact",
            "created_at": _AT,
            "checksum": _CHECKSUM,
        }
    ],
    "events": 2,
    "retry_count": 0,
    "created_at": _AT,
    "started_at": _AT,
    "completed_at": _AT,
}
_HEALTH = {"status": "healthy", "version": "1.0.0", "uptime": 3600.0}
_KEY = {
    "id": "h6ubhznpafhd",
    "owner": "alice",
    "name": "laptop",
    "scopes": ["read", "execute"],
    "created_at": _AT,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
    "rotated_from": None,
    "max_sessions": 10,
    "max_executions": None,
}
_PAGE = {"total": 1, "limit": 50, "offset": 0, "has_more": False, "next_cursor": None}

EXAMPLES: Mapping[str, Any] = {
    "TemplateBody": {
        "id": "data-science",
        "name": "Data science",
        "runtime_type": "python3.11",
        "default_memory_mb": 1024,
        "preload": ["json"],
        "network": {"allowed_domains": []},
    },
    "TemplateChanges": {"name": "Data science 2", "default_timeout": 600},
    "SessionBody": {"template_id": "python", "mode": "stateful", "timeout": 300, "tags": {"team": "research"}},
    "InstallBody": {"dependencies": [{"name": "pyfiglet", "version": "1.0.2"}]},
    "RenewBody": {"timeout": 600},
    "ExecuteBody": {
        "code": _CODE,
        "language": "python",
        "timeout": 10,
        "event": {"name": "World"},
        "env_vars": {"GREETING": "hello"},
    },
    "ReadyBody": {"container_id": "box-c29f878b7aae4330", "executor_port": 8080},
    "ExitedBody": {"container_id": "box-c29f878b7aae4330", "exit_code": 0, "exit_reason": "completed"},
    "ReportBody": {
        "status": "success",
        "stdout": "hello\n",
        "exit_code": 0,
        "execution_time": 0.0051,
        "return_value": {"message": "Hello, World!"},
    },
    "KeyBody": {"name": "laptop", "owner": "alice", "scopes": ["read", "execute"], "max_sessions": 10},
    "RotateBody": {"overlap": 3600},
    "multipart/form-data": {"file": _FILE},
    "application/octet-stream": _FILE,
    "Message": {"message": "Template deleted successfully"},
    "TemplateAnswer": _TEMPLATE,
    "SessionAnswer": _SESSION_ANSWER,
    "SessionList": {"items": [_SESSION_ANSWER], **_PAGE},
    "ExecutionTicket": {
        "execution_id": _EXECUTION,
        "session_id": _SESSION,
        "status": "pending",
        "created_at": _AT,
    },
    "ExecutionAnswer": _EXECUTION_ANSWER,
    "ExecutionList": {"items": [_EXECUTION_ANSWER], **_PAGE},
    "EventList": {
        "items": [
            {"seq": 1, "kind": "stdout", "data": {"text": "hello\n"}, "at": _AT},
            {"seq": 2, "kind": "end", "data": {"status": "completed", "reason": None}, "at": _AT},
        ],
        "is_final": True,
    },
    "text/event-stream": 'id: 1\nevent: stdout\ndata: {"seq": 1, "kind": "stdout", "data": {"text": "hello\\n"}, '
    f'"at": "{_AT}"}}\n\n',
    "Interrupted": {"execution_id": _EXECUTION, "interrupted": True},
    "FileList": {
        "session_id": _SESSION,
        "files": [
            {
                "name": "report.csv",
                "path": "report.csv",
                "container_path": "/workspace/report.csv",
                "kind": "file",
                "size": 16,
                "modified_time": _AT,
                "etag": '"08bb36bf993707d88791ddf11b126e7e"',
            }
        ],
        "count": 1,
    },
    "Uploaded": {
        "session_id": _SESSION,
        "file_path": "report.csv",
        "size": 16,
        "checksum": _CHECKSUM,
        "etag": '"08bb36bf993707d88791ddf11b126e7e"',
    },
    "Presigned": {
        "session_id": _SESSION,
        "file_path": "large.parquet",
        "presigned_url": "https://bucket.s3.example.org/large.parquet?X-Amz-Signature=0123",
        "size": 73400320,
    },
    "Health": _HEALTH,
    "DetailedHealth": {
        **_HEALTH,
        "dependencies": {
            "database": {"status": "healthy", "seconds": 0.0008, "dialect": "sqlite"},
            "storage": {"status": "healthy", "kind": "disk", "free_bytes": 62054711296},
            "runtime_nodes": [{"status": "healthy", "name": "node-5ec43cec", "sessions": 1, "executions": 0}],
        },
        "sessions": {"alive": 1, "sandboxes": 1},
        "executions": {"unfinished": 0},
    },
    "SyncAnswer": {
        "status": "success",
        "message": "State synchronised",
        "result": {"resumed": [], "failed": [], "crashed": [], "pending": [], "removed": []},
    },
    "KeyAnswer": _KEY,
    "Identity": {
        "key_id": "h6ubhznpafhd",
        "owner": "alice",
        "scopes": ["execute", "read"],
        "max_sessions": 10,
        "max_executions": None,
    },
    "NewKey": {"key": _KEY, "secret": "ipybox_h6ubhznpafhd_..."},
    "AuditList": {
        "items": [
            {
                "id": 79,
                "at": _AT,
                "actor": "h6ubhznpafhd",
                "owner": "alice",
                "action": "session.create",
                "target": _SESSION,
                "outcome": 201,
                "address": "203.0.113.7",
                "request_id": "req_762d4275da6ece31",
                "detail": {"template_id": "python"},
            }
        ],
        "next_cursor": None,
    },
}
"""By the name of a schema, or by a media type that has none."""

_REFUSALS: Mapping[int, str] = {
    400: "template_id: there is no template 'pyton'",
    401: "this needs a key; send one as 'Authorization: Bearer ipybox_...' or 'X-API-Key: ipybox_...'",
    403: "this needs a key with the scope 'admin'",
    404: f"there is no session {_SESSION!r}",
    408: f"{_EXECUTION} is not finished after 10 s and goes on; ask for its result later",
    409: f"the session {_SESSION!r} is terminated: somebody asked for its end",
    412: 'the file is "08bb36bf993707d88791ddf11b126e7e" by now',
    413: "the body of the request is larger than 4194304 bytes",
    416: "the file has 16 bytes",
    421: "this server is not called 'example.org'; its setting allowed_hosts says by which names it is",
    422: "body.timeout: Input should be less than or equal to 3600",
    429: "there are 10 sessions already, which is the quota; end one, or ask for a larger quota",
    500: "the server failed",
    502: "the object store does not answer",
    503: "the server is about to stop",
    507: "the disk is nearly full",
}


def add_examples(document: dict[str, Any]) -> None:
    """Gives each body of a request and each answer of an OpenAPI document an example, kept once per schema."""
    kept = document["components"].setdefault("examples", {})
    for status, media_type, content in _contents(document):
        name = _schema_name(content.get("schema", {})) or media_type
        value = EXAMPLES.get(name.removeprefix("list-of-"))
        if value is not None and name.startswith("list-of-"):
            value = [value]
        if media_type == MEDIA_TYPE and status in _REFUSALS:
            name = f"Problem-{status}"
            value = problem(status, _REFUSALS[status], instance="/api/v1/...", request_id="req_762d4275da6ece31").body
        if value is not None:
            name = name.replace("/", "-")
            kept[name] = {"value": value}
            content["examples"] = {"example": {"$ref": f"#/components/examples/{name}"}}


def _contents(document: Mapping[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Status (0 for requests), media type, and what is said of it."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield 0, media_type, content
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    yield int(status), media_type, content


def _schema_name(schema: Mapping[str, Any]) -> str:
    for each in (schema, *schema.get("anyOf", ())):
        if "$ref" in each:
            return str(each["$ref"]).rpartition("/")[2]
    if "$ref" in schema.get("items", {}):
        return "list-of-" + str(schema["items"]["$ref"]).rpartition("/")[2]
    return ""
