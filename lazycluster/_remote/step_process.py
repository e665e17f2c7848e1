"""The process of a step: its fork, and the supervisor's ends of its pipes."""

import os

from . import child, streams
from .channel import Messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401 - stands in a comment

PIPES = ("output", "channel", "payload")  # of a fork


class StepProcess:
    """The leader of a step's process session, and our ends of its pipes, -1 where there is none.

    Attributes:
        pid: Its pid; 0 before it is started.
        status: Its wait status; None until it has ended.
        output: What it prints.
        errors: The standard error of a command, if it is separate.
        channel: Its value, what it logs and its outcome, see `channel`.
        payload: Where its job and its input are written; a command's standard input.
        job: What is still to be written to the payload before any input.
        modules: How many modules had been imported when it was forked.
        contents: How many contents had come then.
        messages: Cuts what comes through the channel.
        request: The request whose step it runs; None while it has no job.
        script: The file that a long command was written to.
    """

    # What most processes do not change is an attribute of the class, which takes no time.
    pid = 0
    status = None  # type: int | None
    output = errors = channel = payload = -1
    is_streaming = False  # parts of a value follow one another
    job = memoryview(b"")
    modules = contents = 0
    request = None  # type: Any
    script = None  # type: str | None

    def __init__(self) -> "None":
        self.messages = Messages()

    def start_fork(self, warm: "bool", contents: "dict[str, bytes]") -> "None":
        """Fork a process that waits for its job, and has no other descriptors than its own.

        Raises:
            OSError: If there are no descriptors or processes left; everything is closed then.
        """
        theirs = {}  # type: dict[str, int]

        def run() -> "None":
            streams.close_all_but({0, 1, 2, *theirs.values()})
            child.main(warm=warm, contents=contents, **theirs)

        try:
            for name in PIPES:
                reader, writer = os.pipe()
                ours, theirs[name] = (writer, reader) if name == "payload" else (reader, writer)
                setattr(self, name, ours)
            child.prepare_fork()
            self.pid = child.fork(run)
        except OSError:
            self.close()
            raise
        finally:
            for fd in theirs.values():
                os.close(fd)

    def close(self) -> "None":
        """Close our ends of the pipes, none of which is in the loop."""
        for name in (*PIPES, "errors"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def close_payload(self) -> "None":
        """Close the payload: nothing more comes for the step."""
        if self.payload >= 0:
            os.close(self.payload)
            self.payload = -1

    def remove_script(self) -> "None":
        """Remove the file that a long command was written to."""
        if self.script is not None:
            os.unlink(self.script)
            self.script = None
