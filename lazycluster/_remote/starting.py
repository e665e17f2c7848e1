"""Start the processes of steps: commands, forks, and the fork that waits for the next function."""

import collections
import importlib
import os
import sys

from .._shared.operations import OPERATIONS, STEP_MODULES
from . import child, files, interpreter
from .imports import is_own_python
from .step_process import StepProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .cleanup_process import CleanupProcess
    from .contents import Contents
    from .imports import SentModules
    from .loop import Loop
    from .request import Request

    Description = dict[str, Any]  # see `frames`


SMALL_JOB = 1 << 13  # bytes of a job that is kept for the next call

# The job of a step, for a process that has so many contents. A call that is repeated has the same
# step, since its description is parsed once.
_Job = collections.namedtuple("_Job", "step working_dir contents data")


class Starter:
    """Start processes, whose pipes the loop reads.

    Args:
        loop: The supervisor's.
        null: `/dev/null`.
        cleanup: Knows what is temporary.
        readers: Read once from a pipe of a process, by the name of the pipe.
        modules: What the manager has sent.
        contents: What calls refer to.

    Attributes:
        preforked: The process that waits for the next function, or None.
    """

    def __init__(
        self,
        loop: "Loop",
        null: "int",
        cleanup: "CleanupProcess",
        readers: "Mapping[str, Callable[[StepProcess], object]]",
        modules: "SentModules",
        contents: "Contents",
    ) -> "None":
        self.modules = modules
        self.contents = contents
        self.preforked = None  # type: StepProcess | None
        self._loop = loop
        self._null = null
        self._cleanup = cleanup
        self._readers = readers
        self._last_job = _Job(None, None, 0, b"")
        self._commands = None  # type: Any  # until the first one

    def start(self, request: "Request") -> "None":
        """Start the process of the request's step, which gets its job later.

        Raises:
            ValueError: If the command, a path or a variable cannot be passed to a process.
            OSError: If it cannot be started.
        """
        step = request.steps[request.index]
        (self._start_command if step["kind"] == "command" else self._start_fork)(request, step)

    def _start_command(self, request: "Request", step: "Description") -> "None":
        if self._commands is None:
            module = importlib.import_module(self.modules.load_own(STEP_MODULES["command"]))
            self._commands = module.Commands(self._null, self._cleanup)
        request.process = StepProcess()
        request.want_input(step.get("input") or 0)
        self._commands.start(request, step)
        for pipe in ("output", "errors"):
            if getattr(request.process, pipe) >= 0:
                self._add_reader(request.process, pipe)

    def _start_fork(self, request: "Request", step: "Description") -> "None":
        if step["kind"] == "function":
            request.want_input(step["input"])
        elif step["kind"] == "unpack" or step.get("options", {}).get("only_changed"):
            request.want_input(sys.maxsize)  # the stream or the list says where it ends
        known = self._last_job if step is self._last_job.step else None
        job = None if known else self._describe(request, step)
        request.process = process = self._take_process()
        if (
            known
            and known.working_dir == request.working_dir
            and known.contents <= process.contents
        ):
            data = known.data
        else:
            job = job or self._describe(request, step)
            data = self._encode(job, process)
            if len(data) <= SMALL_JOB and not job["read_at_start"] and not job["contents"]:
                self._last_job = _Job(step, request.working_dir, process.contents, data)
        process.job = memoryview(data)

    def _describe(self, request: "Request", step: "Description") -> "Description":
        """Return the job of a step."""
        kind = step["kind"]
        missing = None  # type: str | None
        module = ""
        read_at_start = []  # type: list[str]
        if kind == "function":
            if is_own_python(step["python"]):
                missing = self.modules.load_for_functions()
                self.contents.decode = self.modules.decode
                read_at_start = interpreter.read_at_start(request.environment)
        else:
            name = OPERATIONS[step["operation"]] if kind == "operation" else STEP_MODULES[kind]
            module = self.modules.load_own(name)
        self.contents.expect(step.get("contents", ()))
        arguments = dict(step.get("arguments", {}))
        job = {"step": step, "missing": missing, "module": module}  # type: Description
        job.update(arguments=arguments, read_at_start=read_at_start)
        working_dir, variables = files.to_settings(request.working_dir, request.environment)
        job.update(working_dir=working_dir, variables=variables)
        return job

    def _encode(self, job: "Description", process: "StepProcess") -> "bytes":
        """Return a job as a process reads it, with the contents that it lacks."""
        keys = job["step"].get("contents", ())
        if not job["read_at_start"]:
            return child.encode_job(job, self.contents.after(keys, process.contents))
        process.contents = 0  # the new Python has only those of its job
        data = child.encode_job(job, self.contents.after(keys, 0))
        snapshot = interpreter.snapshot()
        return child.encode_job(dict(job, snapshot=len(snapshot)), []) + snapshot + data

    def _take_process(self) -> "StepProcess":
        """Return a process for a job: the pre-forked one, if it has all modules, or a new one."""
        process = self.preforked
        if process is not None and process.modules == self.modules.count and process.channel >= 0:
            self.preforked = None
            return process
        self.dismiss_preforked()  # it lacks a module, or has just been killed
        return self._fork(warm=False)

    def _fork(self, warm: "bool") -> "StepProcess":
        process = StepProcess()
        process.modules, process.contents = self.modules.count, len(self.contents.complete)
        process.start_fork(warm, self.contents.complete)
        for pipe in ("output", "channel"):
            self._add_reader(process, pipe)
        os.set_blocking(process.payload, False)
        return process

    def prefork(self) -> "None":
        """Fork a process for the next function, which saves most of the time that a call takes."""
        self.modules.load_rest()
        self.modules.prepare_contents()
        if self.preforked is None:
            try:
                self.preforked = self._fork(warm=True)
            except OSError:
                return  # the next function gets a process of its own, or the error

    def dismiss_preforked(self) -> "None":
        """Close the pipes of the pre-forked process, which ends it."""
        process, self.preforked = self.preforked, None
        if process is not None:
            for pipe in ("output", "channel"):
                self.close_pipe(process, pipe)
            process.close_payload()

    def close_pipe(self, process: "StepProcess", pipe: "str") -> "None":
        """Stop reading from a pipe of a process, and close it; a second call does nothing."""
        fd = getattr(process, pipe)
        if fd >= 0:
            setattr(process, pipe, -1)
            self._loop.close_reader(fd)

    def _add_reader(self, process: "StepProcess", pipe: "str") -> "None":
        read = self._readers[pipe]
        self._loop.add_reader(getattr(process, pipe), lambda _: read(process))
