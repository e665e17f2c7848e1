"""Rehearse a call in the supervisor, before the call comes.

After a fork the first write to a page copies it, which takes two microseconds, and a call writes to
some fifty pages of the supervisor: most of them hold code and types, whose references are counted.
A second supervisor in the same process uses the same ones. It serves a call from a pipe, which
stands for the manager and for the process that it would start, and sends frames to `/dev/null`.
"""

import math
import os

from .._shared import frames
from . import channel
from .starting import Starter
from .step_process import StepProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .request import Request

_NO_PID = 1 << 30  # the highest one of Linux has 22 bits
_INPUT = frames.encode(frames.INPUT, 1, b"-")
_OUTCOME = b"".join(
    [
        channel.HEADER.pack(channel.VALUE, 1) + b"-",
        channel.HEADER.pack(channel.OUTCOME, len(channel.USUAL_OUTCOME)),
        channel.USUAL_OUTCOME,
    ]
)


class _NoStarter(Starter):
    """Start nothing, whatever the call is."""

    def _start_command(self, request: "Request", step: "dict[str, Any]") -> "NoReturn":
        raise OSError("this is a rehearsal")

    def _fork(self, warm: "bool") -> "NoReturn":
        raise OSError("this is a rehearsal")


class Rehearsal:
    """A second supervisor, which never runs its loop and owns no descriptor.

    Args:
        make: The class `Supervisor`, which imports this module later.
        supervisor: The one that serves the manager.
    """

    def __init__(self, make: "Any", supervisor: "Any") -> "None":
        self._null = supervisor.null  # type: int
        sent = supervisor.starter.modules, supervisor.starter.contents
        ends = self._null, self._null, self._null
        self._double = make(*ends, math.inf, math.inf, *sent, make_starter=_NoStarter)
        self._double.is_branch = supervisor.is_branch
        self._double.branches = supervisor.branches

    def run(self, text: "bytes") -> "None":
        """Serve a call of a function, from its frames to its outcome.

        Args:
            text: The description of a request of one step, which has been served; see `frames`.
        """
        process = StepProcess()
        try:
            reader, writer = os.pipe()
        except OSError:  # no descriptor is left
            return
        try:
            os.set_blocking(reader, False)
            os.set_blocking(writer, False)  # a pipe may hold a page only, see pipe(7)
            process.output = reader
            process.channel = os.dup(reader)
            process.payload = os.dup(self._null)
            self._serve(text, process, writer)
        except OSError:
            pass
        finally:
            process.close()
            os.close(writer)

    def _serve(self, text: "bytes", process: "StepProcess", writer: "int") -> "None":
        double, starter = self._double, self._double.starter
        for left in (double.requests, double.running, double.waiting):
            left.clear()
        process.pid = _NO_PID
        process.modules = starter.modules.count
        process.contents = len(starter.contents.complete)
        starter.preforked = process
        double.last_request = 0
        request = frames.encode(frames.REQUEST, 1, text) + _INPUT
        if os.write(writer, request) < len(request):
            return
        double.loop.read_manager(process.output)
        if process.request is not None:
            os.write(writer, _OUTCOME)
            double.read_channel(process)
        double.loop.flush()
