"""The host's half of the conversation: requests, their steps one after the other, their streams.

One thread and one selector. Standard input is the lifeline: at its end, at four silent heartbeats,
at SIGTERM, SIGHUP or SIGINT, and at bytes that are no frame, every process group that was started
here is ended, the temporary directories are removed, and the supervisor leaves.
"""

import collections
import errno
import importlib
import json
import os
import signal
import sys
import time

from .._shared import folders, frames, paths
from .._shared.operations import OPERATIONS, STEP_MODULES
from . import child, loop, step_process
from .child import to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Description = dict[str, Any]  # a request, a step or an outcome, as JSON has it

LEFTOVER_GRACE, POLL = step_process.LEFTOVER_GRACE, step_process.POLL
DRAIN_READS = 64  # of a pipe after its step has ended; one that is refilled does not hold it up
SPARE_DELAY = 0.001  # seconds, in which the value is on its way, and needs the processor
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # until another step ends


def main(keepalive: "float") -> "int":
    """Talk on standard input and output until the manager has gone; the exit status."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what else prints, a start hook of this Python say, goes to ssh's log
    supervisor = Supervisor(source, sink, null, keepalive)
    try:
        supervisor.run()
    finally:
        supervisor.end()
    return 0


class Request:
    """Steps that follow one another, and what they share."""

    def __init__(self, number: "int", description: "Description") -> "None":
        self.number = number
        self.steps = description["steps"]  # type: list[Description]
        self.working_dir = description["working_dir"]  # type: str | None
        self.environment = description["environment"]  # type: dict[str, str]
        self.task = description.get("task") or number  # type: int  # its first request
        self.index = 0  # of the running step
        self.process = step_process.StepProcess()  # of the running step
        self.told = bytearray()  # by the running step, of a line that is not complete
        self.outcome = {}  # type: Description  # what the running step has told
        self.temporary = None  # type: str | None  # what it writes to before it is whole
        self.wanted = 0  # bytes of input still to come for the running step
        self.input = collections.deque()  # type: collections.deque[memoryview]
        self.input_size = 0
        self.owed = 0  # bytes taken since the manager was last told that it may send more
        self.widened = False
        self.killed = False


class Supervisor:
    """See the module."""

    def __init__(self, source: "int", sink: "int", null: "int", keepalive: "float") -> "None":
        self.null = null
        self.keepalive = keepalive
        self.loop = loop.Loop(source, sink, keepalive, self._handle, self._reap)
        self.parts = {}  # type: dict[int, list[bytes]]
        self.requests = {}  # type: dict[int, Request]
        self.last_request = 0
        self.waiting = collections.deque()  # type: collections.deque[Request]
        self.running = {}  # type: dict[int, Request]  # by the pid of its running step
        self.spare = None  # type: step_process.StepProcess | None  # forked, and without a job
        self.leftovers = {}  # type: dict[int, Request]  # by the session that an ended step led
        self.temporary = set()  # type: set[str]
        self.heir = step_process.Heir()
        self.scripts = None  # type: str | None
        self.modules = child.Modules()

    def run(self) -> "None":
        """Serve until the manager has gone."""
        self._look_after_leftovers()
        self._tell(frames.HELLO, 0, {"python": list(sys.version_info[:3]), "pid": os.getpid()})
        self.heir.start(self.null, self._close_all)
        self.loop.run()

    def _reap(self) -> "None":
        for pid, status in ended_children():
            self.heir.is_reaped(pid)
            if pid in self.running:
                request = self.running.pop(pid)
                request.process.status = status
                self._leader_ended(request)
            elif self.spare is not None and pid == self.spare.pid:
                self._dismiss_spare()
        for _ in range(len(self.waiting)):
            self._start_step(self.waiting.popleft())

    def _tell(
        self, kind: "int", request: "int", content: "Description", hold: "bool" = False
    ) -> "None":
        self.loop.send(kind, request, json.dumps(content).encode("ascii"), hold)

    # From the manager

    def _handle(self, kind: "int", number: "int", payload: "Any") -> "None":
        if kind == frames.REQUEST_PART:
            self.parts.setdefault(number, []).append(payload)
        elif kind == frames.REQUEST:
            if number <= self.last_request:
                raise ValueError("request {} twice".format(number))
            self.last_request = number
            text = b"".join(self.parts.pop(number, [])) + payload
            self.requests[number] = Request(number, json.loads(text.decode("ascii")))
            self._start_step(self.requests[number])
        elif kind == frames.INPUT:
            self._take_input(number, payload)
        elif kind == frames.KILL:
            if number in self.requests:
                grace = json.loads(payload.decode("ascii"))["grace"]
                self._kill_request(self.requests[number], float(grace))
        elif kind == frames.MODULES:
            self.modules.add(payload)

    def _take_input(self, number: "int", payload: "memoryview") -> "None":
        request = self.requests.get(number)
        if request is None:
            return  # it ended while this was under way
        request.input_size += len(payload)
        if request.input_size > frames.WINDOW + frames.CHUNK:
            raise ValueError("more input than was asked for")
        # At once if that goes, as what waits has to be copied.
        written = 0 if request.input else self._hand_on(request, payload)
        if written < len(payload):
            request.input.append(memoryview(bytes(payload[written:])))
        if request.process.payload >= 0:
            self._feed(request)

    # Steps

    def _start_step(self, request: "Request") -> "None":
        if request.killed:
            self._finish(request)
            return
        step = request.steps[request.index]
        request.process = step_process.StepProcess()
        del request.told[:]
        request.outcome, request.temporary = {}, None
        try:
            if step["kind"] == "command":
                self._start_command(request, step)
            else:
                self._start_fork(request, step)
        except (OSError, ValueError) as error:
            process = request.process
            for fd in (process.output, process.value, process.tell):
                if fd >= 0:
                    self.loop.close_reader(fd)
            process.close_payload()
            process.remove_script()
            if isinstance(error, ValueError):  # a NUL, or text that is no bytes
                self._end_step(request, {"failure": "os", "message": "it holds what no file can"})
            elif error.errno in SHORT_OF and (self.running or self.spare):
                request.process = step_process.StepProcess()
                self.waiting.append(request)
                self._dismiss_spare()
            else:
                self._end_step(request, child.os_failure(error))
            return
        process = request.process
        self.running[process.pid] = process.request = request
        if process.payload >= 0:
            self._hand_job(process)
        self.heir.leads(process.pid)
        told = {"step": request.index, "pid": process.pid}
        self._tell(frames.STARTED, request.number, told, hold=True)
        if step["kind"] == "command":
            self.loop.read_from(process.output, lambda _: self._read_output(process))
        else:
            if request.wanted > frames.CHUNK:
                frames.enlarge_pipe_buffer(process.payload)
            if step["kind"] == "pack":
                frames.enlarge_pipe_buffer(process.value)
            self._feed(request)

    def _start_command(self, request: "Request", step: "Description") -> "None":
        if self.scripts is None:
            self.scripts = paths.temporary_path()
        if (
            len(step["command"]) * 4 > step_process.LONG_COMMAND
            and self.scripts not in self.temporary
        ):
            self._is_temporary(self.scripts)
            paths.make_private_directory(self.scripts)
        environment = dict(os.environb)
        for name, value in request.environment.items():
            environment[to_bytes(name)] = to_bytes(value)
        request.process.start_command(
            to_bytes(step["command"]),
            to_bytes(step["shell"]) if step.get("shell") else step_process.account_shell(),
            None if request.working_dir is None else to_bytes(request.working_dir),
            environment,
            self.null,
            os.path.join(self.scripts, str(request.number)),
        )

    def _start_fork(self, request: "Request", step: "Description") -> "None":
        kind = step["kind"]
        missing = None  # type: str | None
        if kind == "function":
            self._want_input(request, step["input"])
            if child.is_this_python(step["python"]):
                missing = self.modules.load("cloudpickle")
        else:
            self._load(OPERATIONS[step["operation"]] if kind == "operation" else STEP_MODULES[kind])
            if kind == "unpack":
                self._want_input(request, sys.maxsize)  # the stream says where it ends
        arguments = dict(step.get("arguments", {}))
        if step.get("operation") == "make_private_directory":
            # Known before it is made, so that no way of ending leaves it behind.
            arguments["path"] = paths.temporary_path()
            self._is_temporary(arguments["path"])
        job = child.encode_job(
            {
                "step": step,
                "working_dir": request.working_dir,
                "environment": request.environment,
                "missing": missing,
                "module": _host_name(OPERATIONS.get(step.get("operation", ""), "")),
                "arguments": arguments,
            }
        )
        request.process = self._forked()
        request.process.job = memoryview(job)

    def _forked(self) -> "step_process.StepProcess":
        """A process for a job: the spare one, if that is as good as a new one."""
        spare = self.spare
        if spare is not None and spare.modules == self.modules.count and spare.value >= 0:
            self.spare = None
            return spare
        self._dismiss_spare()  # it lacks a module, or has just been killed
        return self._fork(warm=False)

    def _fork(self, warm: "bool") -> "step_process.StepProcess":
        process = step_process.StepProcess()
        process.modules = self.modules.count
        try:
            process.start_fork(self._close_all, warm)
        except OSError:
            for fd in (process.output, process.value, process.tell, process.payload):
                if fd >= 0:
                    os.close(fd)
            raise
        self.loop.read_from(process.output, lambda _: self._read_output(process))
        self.loop.read_from(process.value, lambda _: self._read_value(process))
        self.loop.read_from(process.tell, lambda _: self._read_told(process))
        os.set_blocking(process.payload, False)
        return process

    def _fork_spare(self) -> "None":
        """Have a process wait for the next function: that saves it most of the time it takes."""
        if self.spare is not None:
            return
        try:
            self.spare = self._fork(warm=True)
        except OSError:  # then the next one is forked when it comes
            return

    def _dismiss_spare(self) -> "None":
        """It has ended, or ends by itself when it sees that there is no job."""
        spare, self.spare = self.spare, None
        if spare is not None:
            for fd in (spare.output, spare.value, spare.tell):
                if fd >= 0:
                    self.loop.close_reader(fd)
            spare.close_payload()

    def _load(self, name: "str") -> "Any":
        """Import a module of ours; most come with the bootstrap, some at their first use."""
        self.modules.load(_host_name(name))
        return importlib.import_module(_host_name(name))

    def _want_input(self, request: "Request", count: "int") -> "None":
        request.wanted = count
        if count > frames.CHUNK and not request.widened:
            request.widened = True
            self._give_credit(request, frames.WINDOW - frames.FIRST_WINDOW)

    def _close_all(self) -> "None":
        """In a forked process: the supervisor's descriptors are not its own."""
        for other in self.running.values():
            if other.process.payload >= 0:
                os.close(other.process.payload)
        if self.spare is not None:
            self.spare.close_payload()
        os.close(self.null)
        self.heir.close_in_child()
        self.loop.close_in_child()

    # The streams of a running step. Each reads once and says whether something may be left.

    def _read_output(self, process: "step_process.StepProcess") -> "bool":
        request = process.request
        if request is not None and request.process is process:
            count = self.loop.relay(process.output, frames.OUTPUT, request.number)
        else:  # what a step left behind may go on printing: that is read, so that it can, and lost
            data = read_some(process.output)
            count = None if data is None else len(data)
        if count == 0:
            self.loop.close_reader(process.output)
            process.output = -1
        return bool(count)

    def _read_value(self, process: "step_process.StepProcess") -> "bool":
        request = process.request
        if request is None:  # a spare one has ended
            count = 0  # type: int | None
        else:
            # Nobody can use it before the step has ended.
            count = self.loop.relay(process.value, frames.VALUE, request.number, hold=True)
        if count == 0:
            self.loop.close_reader(process.value)
            process.value = -1
        return bool(count)

    def _read_told(self, process: "step_process.StepProcess") -> "bool":
        request = process.request
        data = read_some(process.tell)
        if data == b"" or request is None or len(request.told) > frames.MAX_PAYLOAD:
            self.loop.close_reader(process.tell)
            process.tell = -1
        elif data:
            request.told += data
            *lines, rest = bytes(request.told).split(b"\n")
            request.told[:] = rest
            for line in lines:
                self._take_told(request, line)
        return bool(data)

    def _take_told(self, request: "Request", line: "bytes") -> "None":
        try:
            told = json.loads(line.decode("ascii"))
        except ValueError:
            return  # a function has found the pipe; the status says how it ended
        if isinstance(told, dict) and "temporary" in told:
            request.temporary = child.to_native(told["temporary"])
            self._is_temporary(request.temporary)
        elif isinstance(told, dict):
            request.outcome = told

    def _feed(self, request: "Request") -> "None":
        """Hand on to the running step what has come for it, as far as it takes it now."""
        process = request.process
        if not self._hand_job(process):
            self.loop.write_to(process.payload, lambda _: self._feed(request))
            return
        while request.input:
            piece = request.input[0]
            written = self._hand_on(request, piece)
            if written < len(piece):
                request.input[0] = piece[written:]
                break
            request.input.popleft()
        # As long as a piece fits into what is left of the window there is an end to every wait.
        if request.owed >= (frames.WINDOW // 16 if request.widened else frames.CHUNK):
            self._give_credit(request, request.owed)
            request.owed = 0
        if not request.wanted:
            self._close_payload(process)
        elif request.input and process.payload >= 0:
            self.loop.write_to(process.payload, lambda _: self._feed(request))
        else:
            self.loop.stop_writing(process.payload)  # there is room, which would wake us again

    @staticmethod
    def _hand_job(process: "step_process.StepProcess") -> "bool":
        """Write the job, if that is still to be done; False if the pipe takes no more now."""
        while process.job:
            try:
                process.job = process.job[os.write(process.payload, process.job) :]
            except BlockingIOError:
                return False
            except OSError:  # it has been killed, which is noticed elsewhere
                process.job = memoryview(b"")
        return True

    def _hand_on(self, request: "Request", piece: "memoryview") -> "int":
        """Write what the running step wants and takes now; how many bytes it was."""
        process = request.process
        if process.payload < 0 or not request.wanted or process.job:
            return 0
        try:
            written = os.write(process.payload, piece[: request.wanted])
        except BlockingIOError:
            return 0
        except OSError:  # EPIPE: it ended, or read what it wanted
            request.wanted = 0
            return 0
        request.wanted -= written
        request.input_size -= written
        request.owed += written
        return written

    def _close_payload(self, process: "step_process.StepProcess") -> "None":
        self.loop.stop_writing(process.payload)
        process.close_payload()

    def _give_credit(self, request: "Request", count: "int") -> "None":
        self._tell(frames.CREDIT, request.number, {"bytes": count})

    # Their ends

    def _leader_ended(self, request: "Request") -> "None":
        """The step ends with its leader; what is left of its group lives as long as we do."""
        process = request.process
        for name, read in (
            ("output", self._read_output),
            ("value", self._read_value),
            ("tell", self._read_told),
        ):
            for _ in range(DRAIN_READS):
                if getattr(process, name) < 0 or not read(process):
                    break
        for name in ("value", "tell"):
            if getattr(process, name) >= 0:
                self.loop.close_reader(getattr(process, name))
                setattr(process, name, -1)
        self._close_payload(process)
        process.remove_script()
        self._is_left_over(process.pid, request)  # whether there is any is looked at later
        if request.killed:
            self._end_when_all_have(request)
        else:
            self._end_step(request, {})

    def _end_step(self, request: "Request", outcome: "Description") -> "None":
        process = request.process
        outcome = dict(request.outcome or outcome, step=request.index)
        if process.status is not None and os.WIFSIGNALED(process.status):
            outcome["signal"] = os.WTERMSIG(process.status)
        elif process.status is not None:
            outcome["exit_status"] = os.WEXITSTATUS(process.status)
        step = request.steps[request.index]
        if step.get("operation") == "remove_tree" and outcome.get("result"):
            self._is_no_longer_temporary(child.to_native(step["arguments"]["path"]))
        if request.temporary is not None:  # it has its real name by now, or is to go
            if "result" not in outcome:
                folders.remove_tree(request.temporary)
            self._is_no_longer_temporary(request.temporary)
        request.process = step_process.StepProcess()
        self._tell(frames.ENDED, request.number, outcome)
        if step["kind"] == "function":
            self.loop.later(SPARE_DELAY, self._fork_spare)
        request.index += 1
        good = outcome.get("exit_status") == 0 and "failure" not in outcome
        if good and request.index < len(request.steps):
            self._start_step(request)
        else:
            self._finish(request)

    def _finish(self, request: "Request") -> "None":
        del self.requests[request.number]
        self.loop.send(frames.FINISHED, request.number)

    # Killing

    def _kill_request(self, request: "Request", grace: "float") -> "None":
        """SIGTERM to all that the request started, SIGKILL after the grace; again: sooner."""
        request.killed = True
        if request in self.waiting:
            self.waiting.remove(request)
            self._finish(request)
        if grace > 0:
            self._signal(request, signal.SIGTERM)
            self.loop.later(grace, lambda: self._signal(request, signal.SIGKILL))
        else:
            self._signal(request, signal.SIGKILL)

    def _sessions(self, request: "Request") -> "set[int]":
        return {number for number, other in self.leftovers.items() if other.task == request.task}

    def _signal(self, request: "Request", number: "int") -> "None":
        process = request.process
        led = {process.pid} if process.pid and process.status is None else set()
        step_process.signal_sessions(self._sessions(request) | led, number, led)

    def _end_when_all_have(self, request: "Request") -> "None":
        """End a killed request's step when all it started has gone, as terminate() promises."""
        if step_process.living_groups(self._sessions(request)):
            self.loop.later(POLL, lambda: self._end_when_all_have(request))
        else:
            self._end_step(request, {})

    def _look_after_leftovers(self) -> "None":
        """Forget sessions that have nobody left, before their numbers are given again."""
        self._forget_empty_sessions()
        self.loop.later(self.keepalive, self._look_after_leftovers)

    def _forget_empty_sessions(self) -> "None":
        living = step_process.living_groups(set(self.leftovers))
        for session in set(self.leftovers) - set(living):
            del self.leftovers[session]
            self.heir.is_empty(session)

    def _is_left_over(self, session: "int", request: "Request") -> "None":
        self.leftovers[session] = request
        self.heir.has_ended(session)

    def _is_temporary(self, path: "str") -> "None":
        self.temporary.add(path)
        self.heir.is_temporary(path)

    def _is_no_longer_temporary(self, path: "str") -> "None":
        self.temporary.discard(path)
        self.heir.is_kept(path)

    def end(self) -> "None":
        """End all that steps have started, remove what is temporary; the last thing done."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self._dismiss_spare()
        for number in (signal.SIGTERM, signal.SIGKILL):
            led = set(self.running)
            step_process.signal_sessions(led | set(self.leftovers), number, led)
            until = time.monotonic() + LEFTOVER_GRACE
            while time.monotonic() < until:
                for pid, _ in ended_children():
                    self.heir.is_reaped(pid)
                    if pid in self.running:
                        self._is_left_over(pid, self.running.pop(pid))
                self._forget_empty_sessions()
                if not self.running and not self.leftovers:
                    break
                time.sleep(POLL)
        self.loop.close_readers()  # to remove a tree takes descriptors
        for path in self.temporary:
            folders.remove_tree(path)
        self.heir.dismiss()


def _host_name(name: "str") -> "str":
    """Return the full name here of a module that the manager calls `name`."""
    return "{}.{}".format(__package__.rpartition(".")[0], name)


def read_some(fd: "int") -> "bytes | None":
    """What is there; empty at the end of the file, None when nothing is there now."""
    try:
        return os.read(fd, frames.CHUNK)
    except BlockingIOError:
        return None


def ended_children() -> "list[tuple[int, int]]":
    """Pid and status of each child that has ended; each is given once."""
    found = []  # type: list[tuple[int, int]]
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))
