"""How a client's execution takes what a fake kernel says: as it takes everything, but for scripted ends and images.
Floor: testing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipybox.errors import ExecutionError, KernelDiedError
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter, has_image
from ipybox.kernel_mgr.wire import Message
from ipybox.output_limit import OutputLimit
from ipybox.outputs import DisplayOutput, ErrorOutput, Event, ExecutionResult
from ipybox.paths import PinnedDirectory
from ipybox.testing.script import told
from ipybox.testing.scripted_messages import ScriptedBundle, ScriptedReply


class ScriptedState(ExecutionState):
    """Follows one execution, and ends it as its script says.

    Args:
        execution_id, limit, spill, owns_spill: As for :class:`ExecutionState`.
        is_attached: Whether somebody else's execution is followed. What happened to the other's connection is
            nothing to this one.
    """

    def __init__(
        self,
        execution_id: str,
        limit: OutputLimit | None = None,
        spill: PinnedDirectory | None = None,
        owns_spill: bool = False,
        *,
        is_attached: bool = False,
    ) -> None:
        super().__init__(execution_id, limit, spill, owns_spill)
        self._is_attached = is_attached
        self._scripted: ScriptedReply | None = None

    def feed(self, message: Message) -> list[Event]:
        """Takes a message and returns what it means."""
        events = super().feed(message)
        if isinstance(message, ScriptedReply) and self._concerns_us(message.error):
            self._scripted = message
        return [self._with_image(event) for event in events]

    def failure(self) -> ErrorOutput | None:
        """The exception that ended the code. Raises what the script says."""
        if self._scripted is not None and self._scripted.error is not None:
            raise told(
                self._scripted.error,
                result=self.result(),
                execution_id=self.execution_id,
                cursor=self._scripted.sequence,
            )
        return super().failure()

    def result(self) -> ExecutionResult:
        """What there is so far; at the end, what the script says."""
        if self._scripted is not None and self._scripted.result is not None and self.is_over:
            return self._scripted.result
        return super().result()

    def _concerns_us(self, error: BaseException | None) -> bool:
        return not self._is_attached or error is None or isinstance(error, ExecutionError | KernelDiedError)

    def _with_image(self, event: Event) -> Event:
        if isinstance(event, DisplayOutput) and isinstance(event.data, ScriptedBundle) and not has_image(event.data):
            image = event.data.image
            return event if image is None else self.attach_image(event, image)
        return event  # where an image is among the formats, whoever is to save it says where it is


class ScriptedImages(ImageWriter):
    """Saves the images that a script shows, but for those of which it says where they are."""

    async def save(self, data: Mapping[str, Any]) -> Path | None:
        """Saves the image of a mime bundle, or returns where it is already; None when it has none."""
        if isinstance(data, ScriptedBundle) and data.is_saved:
            return data.image
        return await super().save(data)
