"""Prepare the next call of a function: fork its process, and rehearse it in the supervisor."""

from . import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .loop import Loop
    from .request import Request
    from .starting import Starter

    Description = dict[str, Any]  # a request, see `frames`

SMALL_REQUEST = 1 << 12  # bytes of a description that is kept
PREFORK_DELAY = 0.0006  # seconds in which the value is on its way and needs the processor


class NextCall:
    """Fork the process of the next call, rehearse it, and keep the description of the last one.

    Args:
        loop: The supervisor's.
        starter: Starts processes.
        requests: What the supervisor serves now, by number.
        rehearse: Serves a description, but starts nothing; see `rehearsal`.
    """

    def __init__(
        self,
        loop: "Loop",
        starter: "Starter",
        requests: "Mapping[int, Request]",
        rehearse: "Callable[[bytes], object]",
    ) -> "None":
        self._loop = loop
        self._starter = starter
        self._requests = requests
        self._rehearse = rehearse  # type: Callable[[bytes], object] | None
        self._is_planned = False
        self._text = b""  # the description of the last call
        self._description = {}  # type: Description
        self._is_plain = False  # it has one step, and that is no actor

    def parse(self, text: "bytes") -> "Description":
        """Return the description of a request, which must not be changed.

        For a call that is repeated it is the object of the last call.

        Raises:
            ValueError: If the text is not JSON.
        """
        if text == self._text:
            return self._description
        return plain_json.loads(text.decode("ascii"))  # type: ignore[no-any-return]

    def note(self, text: "bytes", description: "Description") -> "None":
        """Remember the description of a call."""
        if len(text) <= SMALL_REQUEST:
            self._text, self._description = text, description
            steps = description["steps"]
            self._is_plain = len(steps) == 1 and "actor" not in steps[0]

    def plan(self) -> "None":
        """Prepare the next call soon, also while another one runs by then."""
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_later(PREFORK_DELAY, self._prepare)

    def _prepare(self) -> "None":
        self._is_planned = False
        self._starter.prefork()
        if self._rehearse is None or not self._is_plain or self._requests:
            return
        try:
            self._rehearse(self._text)
        except Exception:  # no memory, for example: calls take a little longer
            self._rehearse = None
