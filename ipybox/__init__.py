"""ipybox runs Python that nobody reviewed, in stateful IPython kernels.

Names are resolved on first use, so ``import ipybox`` imports no third party, and using the client never imports
what only the gateway needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "CollectionError": "ipybox.errors",
    "BlockingSandbox": "ipybox.command.blocking",
    "CanExecuteCommand": "ipybox.command.driver",
    "Cancellation": "ipybox.command.cancellation",
    "ClearOutput": "ipybox.outputs",
    "CommandDriver": "ipybox.command.driver",
    "ConnectionLostError": "ipybox.errors",
    "DisplayOutput": "ipybox.outputs",
    "ErrorOutput": "ipybox.outputs",
    "ExecResult": "ipybox.command.result",
    "ExecutionError": "ipybox.errors",
    "ExecutionNotFoundError": "ipybox.errors",
    "ExecutionPolicy": "ipybox.command.policy",
    "ExecutionResult": "ipybox.outputs",
    "ExecutionTimeoutError": "ipybox.errors",
    "ExitStatus": "ipybox.exit_status",
    "GatewayConnectionError": "ipybox.errors",
    "GatewayError": "ipybox.errors",
    "GatewayFullError": "ipybox.errors",
    "GatewayStartError": "ipybox.errors",
    "ImageWriteError": "ipybox.errors",
    "InputRequest": "ipybox.outputs",
    "IpyboxError": "ipybox.errors",
    "KernelClient": "ipybox.kernel_mgr.client",
    "KernelDiedError": "ipybox.errors",
    "KernelError": "ipybox.errors",
    "KernelGateway": "ipybox.kernel_mgr.server",
    "KernelStartError": "ipybox.errors",
    "NetworkAccess": "ipybox.outputs",
    "OutputLimit": "ipybox.output_limit",
    "OutputLostError": "ipybox.errors",
    "PolicyError": "ipybox.errors",
    "PolicyNotEnforcedError": "ipybox.errors",
    "PortInUseError": "ipybox.errors",
    "PreloadError": "ipybox.errors",
    "ProgramStartError": "ipybox.errors",
    "ReplayedError": "ipybox.errors",
    "ResultsFileError": "ipybox.errors",
    "ResultsFileFormatError": "ipybox.errors",
    "ReportFormatError": "ipybox.errors",
    "Sandbox": "ipybox.command.sandbox",
    "SandboxEndedError": "ipybox.errors",
    "SandboxExpiredError": "ipybox.errors",
    "SandboxFileError": "ipybox.errors",
    "SandboxUnavailableError": "ipybox.errors",
    "StreamOutput": "ipybox.outputs",
    "UnexpectedCommandError": "ipybox.errors",
    "UnexpectedExecutionError": "ipybox.errors",
    "UnknownLanguageError": "ipybox.errors",
    "UnknownTemplateError": "ipybox.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from ipybox.command.blocking import BlockingSandbox as BlockingSandbox
    from ipybox.command.cancellation import Cancellation as Cancellation
    from ipybox.command.driver import CanExecuteCommand as CanExecuteCommand
    from ipybox.command.driver import CommandDriver as CommandDriver
    from ipybox.command.policy import ExecutionPolicy as ExecutionPolicy
    from ipybox.command.result import ExecResult as ExecResult
    from ipybox.command.sandbox import Sandbox as Sandbox
    from ipybox.errors import CollectionError as CollectionError
    from ipybox.errors import ConnectionLostError as ConnectionLostError
    from ipybox.errors import ExecutionError as ExecutionError
    from ipybox.errors import ExecutionNotFoundError as ExecutionNotFoundError
    from ipybox.errors import ExecutionTimeoutError as ExecutionTimeoutError
    from ipybox.errors import GatewayConnectionError as GatewayConnectionError
    from ipybox.errors import GatewayError as GatewayError
    from ipybox.errors import GatewayFullError as GatewayFullError
    from ipybox.errors import GatewayStartError as GatewayStartError
    from ipybox.errors import ImageWriteError as ImageWriteError
    from ipybox.errors import IpyboxError as IpyboxError
    from ipybox.errors import KernelDiedError as KernelDiedError
    from ipybox.errors import KernelError as KernelError
    from ipybox.errors import KernelStartError as KernelStartError
    from ipybox.errors import OutputLostError as OutputLostError
    from ipybox.errors import PolicyError as PolicyError
    from ipybox.errors import PolicyNotEnforcedError as PolicyNotEnforcedError
    from ipybox.errors import PortInUseError as PortInUseError
    from ipybox.errors import PreloadError as PreloadError
    from ipybox.errors import ProgramStartError as ProgramStartError
    from ipybox.errors import ReplayedError as ReplayedError
    from ipybox.errors import ReportFormatError as ReportFormatError
    from ipybox.errors import ResultsFileError as ResultsFileError
    from ipybox.errors import ResultsFileFormatError as ResultsFileFormatError
    from ipybox.errors import SandboxEndedError as SandboxEndedError
    from ipybox.errors import SandboxExpiredError as SandboxExpiredError
    from ipybox.errors import SandboxFileError as SandboxFileError
    from ipybox.errors import SandboxUnavailableError as SandboxUnavailableError
    from ipybox.errors import UnexpectedCommandError as UnexpectedCommandError
    from ipybox.errors import UnexpectedExecutionError as UnexpectedExecutionError
    from ipybox.errors import UnknownLanguageError as UnknownLanguageError
    from ipybox.errors import UnknownTemplateError as UnknownTemplateError
    from ipybox.exit_status import ExitStatus as ExitStatus
    from ipybox.kernel_mgr.client import KernelClient as KernelClient
    from ipybox.kernel_mgr.server import KernelGateway as KernelGateway
    from ipybox.output_limit import OutputLimit as OutputLimit
    from ipybox.outputs import ClearOutput as ClearOutput
    from ipybox.outputs import DisplayOutput as DisplayOutput
    from ipybox.outputs import ErrorOutput as ErrorOutput
    from ipybox.outputs import ExecutionResult as ExecutionResult
    from ipybox.outputs import InputRequest as InputRequest
    from ipybox.outputs import NetworkAccess as NetworkAccess
    from ipybox.outputs import StreamOutput as StreamOutput


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ipybox' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
