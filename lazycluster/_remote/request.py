"""A request: steps that follow one another, and the input that the manager sends for them."""

import collections
import os

from .._shared import frames, paths
from . import files
from .step_process import StepProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .loop import Loop

    Description = dict[str, Any]  # see `frames`


class Request:
    """Steps that follow one another, and what they share; `frames` explains the description."""

    # What a short call does not change is an attribute of the class, which takes no time.
    index = 0  # of the running step
    wanted = 0  # bytes of the running step's input that it has not got yet
    killed = False  # by the manager
    process = StepProcess()  # none, until the step has started
    outcome = None  # type: Description | None  # as the step has reported it
    is_over = False  # its process has only to exit
    is_usual = False  # a function has returned, and there is nothing else to report
    temporary = None  # type: str | None  # where it writes until the copy is complete
    _input_size = 0
    _unwanted = 0  # bytes of input that an earlier step has left
    _inserted = 0  # bytes that the supervisor has added to the input
    _owed = 0  # bytes taken since the manager last got credit for them
    _has_full_window = False

    def __init__(self, number: "int", description: "Description", loop: "Loop") -> "None":
        self.number = number
        self.steps = description["steps"]  # type: list[Description]
        self.working_dir = description["working_dir"]  # type: str | None
        if description.get("cwd") is not None:
            self.working_dir = _start_directory(self.working_dir, description["cwd"])
        self.environment = description["environment"]  # type: dict[str, str]
        self.task = description.get("task") or number  # type: int  # the task's first request
        self._loop = loop
        self._input = collections.deque()  # type: collections.deque[memoryview]

    def reset_step(self) -> "None":
        """Prepare for a step that starts."""
        self.process = Request.process
        self.outcome = self.temporary = None
        self.is_over = self.is_usual = False

    def want_input(self, count: "int") -> "None":
        """Let the step that starts take `count` bytes of input."""
        self.wanted = count
        if count > frames.CHUNK and not self._has_full_window:
            self._has_full_window = True
            self._give_credit(frames.WINDOW - frames.FIRST_WINDOW)

    def take_input(self, payload: "memoryview") -> "None":
        """Take bytes from the manager; what the step does not take now is copied.

        Raises:
            ValueError: If it is more than the manager has credit for.
        """
        payload = payload[self._drop(len(payload)) :]
        self._input_size += len(payload)
        if self._input_size > frames.WINDOW + frames.CHUNK + self._inserted:
            raise ValueError("more input than was asked for")
        written = 0 if self._input else self._forward_input(payload)
        if written < len(payload):
            self._input.append(memoryview(bytes(payload[written:])))
        if self.process.payload >= 0:
            self.feed()
        else:
            self._settle_credit()

    def insert_input(self, data: "bytes") -> "None":
        """Add bytes behind the input that has come; the manager gets no credit for them."""
        self._input.append(memoryview(data))
        self._input_size += len(data)
        self._inserted += len(data)
        self._owed -= len(data)
        self.feed()

    def feed(self) -> "None":
        """Write the job and the input to the running step, as far as it takes them now."""
        process = self.process
        if process.job and not self._write_job(process):
            self._loop.add_writer(process.payload, lambda _: self.feed())
            return
        while self._input:
            chunk = self._input[0]
            written = self._forward_input(chunk)
            if written < len(chunk):
                self._input[0] = chunk[written:]
                break
            self._input.popleft()
        self._settle_credit()
        if not self.wanted:
            self.close_payload()
        elif self._input and process.payload >= 0:
            self._loop.add_writer(process.payload, lambda _: self.feed())
        else:
            self._loop.remove_writer(process.payload)  # the pipe takes more, without end

    def _write_job(self, process: "StepProcess") -> "bool":
        """Write the rest of the job; return False if the pipe takes no more now.

        The input goes along if it is there: each write wakes the process.
        """
        chunks = [process.job]
        if self._input and len(self._input[0]) <= self.wanted:
            chunks.append(self._input[0])
        try:
            written = os.writev(process.payload, chunks)
        except BlockingIOError:
            return False
        except OSError:  # it has been killed, which `Supervisor` notices elsewhere
            process.job = memoryview(b"")
            return True
        rest = max(0, written - len(process.job))
        process.job = process.job[written:]
        if rest:
            self._take(rest)
            self._input[0] = self._input[0][rest:]
            if not self._input[0]:
                self._input.popleft()
        return not process.job

    def _take(self, count: "int") -> "None":
        self.wanted -= count
        self._input_size -= count
        self._owed += count

    def _forward_input(self, chunk: "memoryview") -> "int":
        """Write what the running step wants and takes now; return how many bytes it was."""
        process = self.process
        if process.payload < 0 or not self.wanted or process.job:
            return 0
        try:
            written = os.write(process.payload, chunk[: self.wanted])
        except BlockingIOError:
            return 0
        except OSError:  # EPIPE: it has ended, or has read what it wanted
            self.close_payload()
            return 0
        self._take(written)
        return written

    def close_payload(self) -> "None":
        """Close the payload pipe: nothing more comes for the step."""
        self._loop.remove_writer(self.process.payload)
        self.process.close_payload()

    def drop_rest(self) -> "None":
        """Drop what the step that has ended left of its input, which the next one must not get."""
        self._unwanted += self.wanted
        self.wanted = 0
        while self._input and self._unwanted:
            chunk = self._input.popleft()
            dropped = self._drop(len(chunk))
            self._input_size -= dropped
            if dropped < len(chunk):
                self._input.appendleft(chunk[dropped:])
        self._settle_credit()

    def _drop(self, count: "int") -> "int":
        """Return how many of the next bytes of input are for a step that has ended."""
        dropped = min(count, self._unwanted)
        self._unwanted -= dropped
        self._owed += dropped
        return dropped

    def _settle_credit(self) -> "None":
        """Give credit for what was taken, a lot at once."""
        # Every wait ends as long as a chunk fits into what is left of the window.
        if self._owed >= (frames.WINDOW // 16 if self._has_full_window else frames.CHUNK):
            self._give_credit(self._owed)
            self._owed = 0

    def _give_credit(self, count: "int") -> "None":
        self._loop.send_json(frames.CREDIT, self.number, {"bytes": count})


def _start_directory(working_dir: "str | None", cwd: "str") -> "str":
    """Return where the steps start; the step fails if it does not exist."""
    folder = None if working_dir is None else files.to_native(working_dir)
    try:
        return files.to_text(paths.expand_directory(files.to_native(cwd), folder))
    except OSError:  # the current folder has gone
        return cwd
