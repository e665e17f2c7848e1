"""The host's side of the conversation: requests, their steps one after the other, their streams.

There is one thread and one event loop. Standard input is the lifeline. At its end, after four
silent heartbeats, at SIGTERM, SIGHUP or SIGINT, and at malformed frames, the supervisor ends every
process session that it started, removes the temporary directories, and exits.
"""

import _signal as signal  # see `child`
import collections
import errno
import faulthandler
import importlib
import os
import sys

from .._shared import folders, frames, messages, paths
from .._shared.sockets import EXPECTED
from . import channel, child, files, plain_json
from .branches import Branches
from .cleanup_process import CleanupProcess
from .contents import Contents
from .exits import Exits
from .imports import SentModules
from .loop import Loop
from .next_call import NextCall
from .request import Request
from .sessions import POLL_INTERVAL, Sessions, ended_children, out_of_memory_kills
from .starting import Starter
from .step_process import StepProcess
from .streams import read_some

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Description = dict[str, Any]  # a request, a step or an outcome, see `frames`

DRAIN_READS = 64  # reads from a pipe after its step has ended; a child that refills it can go on
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)  # until another step ends


def main(keepalive: "float", orphan_timeout: "float") -> "None":
    """Serve on standard input and output until the manager has gone; see `Supervisor`."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # also for all forked processes
    os.close(null)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(2, 1)  # what else prints, a start hook of this Python for example, goes to ssh's log
    # What kills Python is printed with its lines; in a forked process fd 2 is its output.
    faulthandler.enable(2)
    # Without a terminal a Python program in a step would keep its output until its end.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    supervisor = Supervisor(
        source, sink, null, keepalive, orphan_timeout, SentModules(), Contents()
    )
    try:
        supervisor.run()
    finally:
        supervisor.end()


class Supervisor:
    """Run the steps of requests.

    Args:
        source: The descriptor that the manager's frames come from.
        sink: The descriptor that frames for the manager go to.
        null: `/dev/null`.
        keepalive: Seconds between two heartbeats.
        orphan_timeout: Seconds without a frame until the manager is considered gone.
        modules: What the manager has sent.
        contents: What calls refer to.
        make_starter: Makes what starts processes. Defaults to `Starter`.
    """

    def __init__(
        self,
        source: "int",
        sink: "int",
        null: "int",
        keepalive: "float",
        orphan_timeout: "float",
        modules: "SentModules",
        contents: "Contents",
        make_starter: "Callable[..., Starter]" = Starter,
    ) -> "None":
        self.null = null
        self.keepalive = keepalive
        self.loop = Loop(
            source,
            sink,
            keepalive,
            orphan_timeout,
            self._handle_frame,
            self._start_fresh,
            self._reap,
        )
        self.parts = {}  # type: dict[int, list[bytes]]  # of descriptions, by request
        self.requests = {}  # type: dict[int, Request]
        self.last_request = 0
        self.fresh = []  # type: list[Request]  # have just come, perhaps with their input
        self.waiting = collections.deque()  # type: collections.deque[Request]  # for a resource
        self.running = {}  # type: dict[int, Request]  # by the pid of its running step
        self.exits = Exits(self.loop.call_later)
        # In a branch: the values that it holds.
        self.branches = Branches(self.loop, self._serve_branch, lambda pid: self.sessions.add(pid))  # type: Any
        self.is_branch = False
        self.preload_failure = None  # type: Description | None  # of all functions of a branch
        self.cleanup = CleanupProcess()
        self.sessions = Sessions(self.cleanup.note)
        readers = {
            "output": self._read_output,
            "errors": self._read_errors,
            "channel": self.read_channel,
        }
        self.starter = make_starter(self.loop, null, self.cleanup, readers, modules, contents)
        self.next_call = NextCall(self.loop, self.starter, self.requests, self._rehearse)
        self._rehearsal = None  # type: Any  # until the first function
        # Of the kernel, one and two heartbeats ago.
        self.memory_kills = (out_of_memory_kills(),) * 2  # type: tuple[int | None, int | None]

    def run(self) -> "None":
        """Serve until the manager has gone."""
        self.loop.start()
        self._check_orphaned_sessions()
        hello = {"python": list(sys.version_info[:3]), "pid": os.getpid()}
        self.loop.send_json(frames.HELLO, 0, hello)
        self.cleanup.start(self.null, self._close_all)
        self.loop.run()

    def end(self) -> "None":
        """End everything that steps have started and remove what is temporary."""
        for number in child.END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self.starter.dismiss_preforked()
        self.sessions.end(self.cleanup.handle_reaped)
        self.loop.close_readers()  # removing a folder takes descriptors
        self.cleanup.remove_all()
        self.cleanup.dismiss()

    def _reap(self) -> "None":
        for pid, status in ended_children():
            request = self.running.pop(pid, None)
            if request is not None:
                self.sessions.orphan(pid, request.task)
            for each in (self.cleanup, self.sessions, self.exits):
                each.handle_reaped(pid)
            self.branches.handle_reaped(pid, status)
            if request is not None:
                request.process.status = status
                self._handle_leader_end(request)
            elif self.starter.preforked is not None and pid == self.starter.preforked.pid:
                self.starter.dismiss_preforked()
        self.start_waiting()

    def start_waiting(self) -> "None":
        """Start the steps that wait, as far as that is possible now."""
        for _ in range(len(self.waiting)):
            self._start_step(self.waiting.popleft())

    def _handle_frame(self, kind: "int", number: "int", payload: "Any") -> "None":
        if kind == frames.REQUEST_PART:
            self.parts.setdefault(number, []).append(payload)
        elif kind == frames.REQUEST:
            if number <= self.last_request:
                raise ValueError("request {} twice".format(number))
            self.last_request = number
            text = b"".join(self.parts.pop(number, [])) + payload
            self._start_request(number, text)
        elif kind == frames.INPUT:
            if number in self.requests:
                self.requests[number].take_input(payload)
            else:  # or it ended while this was under way
                self.branches.pass_on(kind, number, payload)
        elif kind == frames.KILL:
            self._start_fresh()
            self._handle_kill(number, payload)
        elif kind == frames.CONTENTS:
            self._start_fresh()
            if number in self.requests:
                self._insert_contents(
                    self.requests[number], plain_json.loads(payload.decode("ascii"))
                )
            else:
                self.branches.pass_on(kind, number, payload)
        elif kind in (frames.MODULES, frames.CONTENT):
            (self.starter.modules if kind == frames.MODULES else self.starter.contents).add(payload)
            self.branches.send_to_all(kind, payload)
        elif kind == frames.FREE:
            self.branches.free(payload.decode("ascii"))

    def _insert_contents(self, request: "Request", keys: "list[str]") -> "None":
        """Let an actor have contents that its next call refers to."""
        contents = self.starter.contents
        contents.expect(keys)
        missing = dict(contents.after(keys, request.process.contents))
        for key in keys:
            data = bytes.fromhex(key) + missing.get(key, b"")
            request.insert_input(messages.encode(messages.REFERENCE, data))

    def _start_request(self, number: "int", text: "bytes") -> "None":
        description = self.next_call.parse(text)
        try:
            if self.branches.take(number, description, text):
                return
        except OSError as error:  # no process or descriptor is left for a branch
            self.loop.send_json(frames.ENDED, number, dict(files.os_failure(error), step=0))
            self.loop.send(frames.FINISHED, number)
            return
        self.requests[number] = request = Request(number, description, self.loop)
        self.fresh.append(request)
        if request.steps[0]["kind"] == "function":
            self.next_call.note(text, description)

    def _start_fresh(self) -> "None":
        """Start the requests that have come, each with its input that came together with it."""
        fresh, self.fresh = self.fresh, []
        for request in fresh:
            self._start_step(request)

    def _serve_branch(
        self,
        source: "int",
        sink: "int",
        stopped: "Any",
        preload: "Description",
        working_dir: "str | None",
    ) -> "None":
        """Serve as a branch, in a new process, until this supervisor closes the pipe."""
        self._close_all()
        self.starter.modules.load_rest()
        module = importlib.import_module(self.starter.modules.load_own("_remote.preloading"))
        module.serve(
            Supervisor,
            source,
            sink,
            stopped,
            self.keepalive,
            self.starter.modules,
            self.starter.contents,
            preload,
            working_dir,
        )

    def _rehearse(self, text: "bytes") -> "None":
        module = sys.modules.get(__package__ + ".rehearsal")  # type: Any  # sent with a function
        if self._rehearsal is None and module is not None:
            self._rehearsal = module.Rehearsal(Supervisor, self)
        if self._rehearsal is not None:
            self._rehearsal.run(text)

    # Starting steps

    def _start_step(self, request: "Request") -> "None":
        if request.killed:
            self._finish(request)
            return
        if self.exits.are_too_many:
            self.waiting.append(request)
            return
        step = request.steps[request.index]
        if self.is_branch and step["kind"] == "function":
            failure = self.preload_failure or self.branches.find_failure(request)
            if failure is not None:
                self._end_step(request, failure)
                return
            if self.branches.is_awaited(request):
                self.waiting.append(request)
                return
        if step.get("operation") == "make_private_directory":
            self._end_step(request, self._make_private_directory())
            return
        try:
            self.starter.start(request)
        except ValueError:  # a NUL, or text that cannot be encoded
            message = "the command, a path or a variable cannot be passed to a process"
            self._end_step(request, {"failure": "os", "message": message})
            return
        except OSError as error:
            if error.errno in SHORTAGES and (self.running or self.exits or self.starter.preforked):
                self.waiting.append(request)
                self.starter.dismiss_preforked()
            else:
                self._end_step(request, files.os_failure(error))
            return
        process = request.process
        self.running[process.pid] = process.request = request
        if process.payload >= 0:
            if request.wanted > frames.CHUNK:
                frames.enlarge_pipe_buffer(process.payload)
            if step["kind"] in ("list", "pack"):
                frames.enlarge_pipe_buffer(process.channel)
            request.feed()  # first, since the process waits for it
        self.sessions.add(process.pid)
        started = b'{"step": %d, "pid": %d}' % (request.index, process.pid)
        self.loop.send(frames.STARTED, request.number, started, may_wait=True)
        if "actor" in step:  # it has taken the process of the next function, and stays
            self.next_call.plan()

    def _make_private_directory(self) -> "Description":
        """Make a directory without a process, which would take 4 ms of a login.

        It is known before it is created, so that no way of ending leaves it behind.
        """
        path = paths.temporary_path()
        self.cleanup.add_temporary(path)
        try:
            paths.make_private_directory(path)
        except OSError as error:
            return files.os_failure(error)
        return {"result": files.to_text(path), "exit_status": 0}

    def _close_all(self) -> "None":
        """Close the supervisor's descriptors in a forked process, which does not own them."""
        for other in self.running.values():
            other.process.close_payload()
        if self.starter.preforked is not None:
            self.starter.preforked.close_payload()
        os.close(self.null)
        self.cleanup.close_in_child()
        self.branches.close_in_child()
        self.loop.close_in_child()

    # The pipes of a running step. Each method reads once and returns whether something may be left.

    def _read_output(self, process: "StepProcess") -> "bool":
        return self._read_stream(process, "output", frames.OUTPUT)

    def _read_errors(self, process: "StepProcess") -> "bool":
        return self._read_stream(process, "errors", frames.ERRORS)

    def _read_stream(self, process: "StepProcess", pipe: "str", kind: "int") -> "bool":
        request = process.request
        fd = getattr(process, pipe)
        if request is not None and request.process is process:
            count = self.loop.relay(fd, kind, request.number)
        else:  # an orphaned session may go on printing: it is read, so that it can, and dropped
            data = read_some(fd, frames.CHUNK)
            count = None if data is None else len(data)
        if count == 0:
            self.starter.close_pipe(process, pipe)
        return bool(count)

    def read_channel(self, process: "StepProcess") -> "bool":
        """Read once from the channel of a process; return whether something may be left."""
        request, cut = process.request, process.messages
        if request is None:  # a pre-forked process has ended
            self.starter.close_pipe(process, "channel")
            return False
        is_actor = "actor" in request.steps[request.index]
        if is_actor:  # what a call has printed comes before its value
            self._drain(process, "output", self._read_output)
        if cut.value_left:
            limit = min(cut.value_left, frames.CHUNK)
            # Else the manager cannot use it before the step has ended.
            may_wait = not is_actor
            count = self.loop.relay(process.channel, frames.VALUE, request.number, may_wait, limit)
            cut.value_left -= count or 0
        else:
            # Of a value in many parts the headers come through here, and the rest is relayed.
            size = channel.HEADER.size if process.is_streaming else channel.READ
            data = read_some(process.channel, size)
            count = None if data is None else len(data)
            try:
                for kind, content in cut.split(data or b""):
                    self._handle_message(request, kind, content)
            except (ValueError, RecursionError):
                count = 0  # a function has written to the pipe; the status says how it ended
            process.is_streaming = cut.value_left > 0
        if count == 0:
            self.starter.close_pipe(process, "channel")
        if request.is_over and self.running.get(process.pid) is request:
            self._end_before_exit(request)
        return bool(count)

    def _handle_message(self, request: "Request", kind: "int", content: "bytes") -> "None":
        if kind == channel.VALUE:
            if content:
                may_wait = "actor" not in request.steps[request.index]
                self.loop.send(frames.VALUE, request.number, content, may_wait)
            return
        if kind == channel.LOGGED:
            for start in range(0, len(content), frames.CHUNK):
                chunk = content[start : start + frames.CHUNK]
                self.loop.send(frames.LOGGED, request.number, chunk, may_wait=True)
            return
        if content == channel.USUAL_OUTCOME:  # to read JSON, and to make it, takes 0.04 ms
            request.is_over = request.is_usual = True
            request.outcome = {"returned": True, "exit_status": 0}
            return
        report = plain_json.loads(content.decode("ascii"))
        if "temporary" in report:
            self._note_temporary(request, files.to_native(report["temporary"]))
        else:
            request.is_over = report.pop("over", False)
            request.outcome = report

    def _note_temporary(self, request: "Request", path: "str | None") -> "None":
        """Note where a copy has its temporary now; where it had one before, there is none."""
        if request.temporary is not None:
            self.cleanup.keep(request.temporary)
        request.temporary = path
        if path is not None:
            self.cleanup.add_temporary(path)

    # The ends of steps

    def _end_before_exit(self, request: "Request") -> "None":
        """End the step of a process that has only its own exit left to do.

        A killed request ends with its processes.
        """
        if request.killed:
            return
        process, task = request.process, request.task
        del self.running[process.pid]
        self._drain(process, "output", self._read_output)
        if request.is_usual:
            usual = b'{"returned": true, "exit_status": 0, "step": %d}' % request.index
            self._go_on(request, usual, succeeded=True)
        else:
            self._end_step(request, {})
        self.loop.flush()  # what follows can wait
        self.exits.add(process.pid)
        self.sessions.orphan(process.pid, task)
        self.starter.close_pipe(process, "channel")
        self.loop.remove_writer(process.payload)
        process.close_payload()

    def _handle_leader_end(self, request: "Request") -> "None":
        """End the step with its leader; the rest of its session may live as long as we do."""
        process = request.process
        for pipe, read in (
            ("output", self._read_output),
            ("errors", self._read_errors),
            ("channel", self.read_channel),
        ):
            self._drain(process, pipe, read)
            if pipe == "channel":  # an orphaned session may go on writing to the others
                self.starter.close_pipe(process, pipe)
        request.close_payload()
        process.remove_script()
        if request.killed:
            self._end_when_killed(request)
        else:
            self._end_step(request, {})

    def _drain(
        self, process: "StepProcess", pipe: "str", read: "Callable[[StepProcess], bool]"
    ) -> "None":
        for _ in range(DRAIN_READS):
            if getattr(process, pipe) < 0 or not read(process):
                break

    def _end_step(self, request: "Request", outcome: "Description") -> "None":
        process = request.process
        outcome = dict(request.outcome or outcome, step=request.index)
        if process.status is not None and os.WIFSIGNALED(process.status):
            outcome["signal"] = os.WTERMSIG(process.status)
            outcome.update(self._find_killer(request, outcome["signal"]))
        elif process.status is not None:
            outcome["exit_status"] = os.WEXITSTATUS(process.status)
        step = request.steps[request.index]
        if step.get("operation") == "remove_tree" and outcome.get("result"):
            self.cleanup.keep(files.to_native(step["arguments"]["path"]))
        if "result" in outcome:
            self._note_socket(step, outcome["result"])
        if request.temporary is not None:
            if "result" not in outcome:  # else it has been renamed to its destination
                folders.remove_tree(request.temporary)
            self._note_temporary(request, None)
        if step["kind"] == "function":  # it may have called os._exit(0)
            succeeded = "returned" in outcome
        else:
            succeeded = outcome.get("exit_status") == 0 and "failure" not in outcome
        self._go_on(request, plain_json.dumps(outcome).encode("ascii"), succeeded)

    def _go_on(self, request: "Request", outcome: "bytes", succeeded: "bool") -> "None":
        """Report the outcome of a step, and start the next one if it has succeeded."""
        if request.steps[request.index]["kind"] == "function":
            self.next_call.plan()
        request.reset_step()
        self.loop.send(frames.ENDED, request.number, outcome)
        request.index += 1
        if succeeded and request.index < len(request.steps):
            request.drop_rest()
            self._start_step(request)
        else:
            self._finish(request)

    def _note_socket(self, step: "Description", result: "Any") -> "None":
        """Note what an operation has found out about the socket of a forward."""
        operation = step.get("operation")
        if operation in ("expect_socket", "socket_identity") and result:
            path = files.to_native(step["arguments"]["path"])
            self.cleanup.add_socket(path, EXPECTED if result is True else result)
        elif operation in ("forget_socket", "remove_socket"):
            self.cleanup.drop_socket(files.to_native(step["arguments"]["path"]))

    def _find_killer(self, request: "Request", number: "int") -> "Description":
        """Return what is known of who has sent a signal to a function, for an outcome."""
        if request.steps[request.index]["kind"] != "function":
            return {}
        if request.killed:
            return {"killer": "manager"}
        kills = out_of_memory_kills()
        if number != signal.SIGKILL or kills is None or self.memory_kills[0] is None:
            return {}
        return {"killer": "memory" if kills > self.memory_kills[0] else "other"}

    def _finish(self, request: "Request") -> "None":
        del self.requests[request.number]
        self.loop.send(frames.FINISHED, request.number)

    def _handle_kill(self, number: "int", payload: "bytes") -> "None":
        """End a request, and what earlier requests of its task have left, here and in branches."""
        content = plain_json.loads(payload.decode("ascii"))
        grace = float(content["grace"])
        if number in self.requests:
            content["task"] = self.requests[number].task
            self._kill_request(self.requests[number], grace)
            self.branches.send_to_all(frames.KILL, plain_json.dumps(content).encode("ascii"))
        else:
            task = self.branches.pass_on(frames.KILL, number, payload) or content.get("task")
            if task is not None:
                self._signal_task(task, 0, grace)

    def _kill_request(self, request: "Request", grace: "float") -> "None":
        """Send SIGTERM to all that the request started, and SIGKILL after the grace.

        A second kill with a shorter grace sends SIGKILL sooner.
        """
        request.killed = True
        if request in self.waiting:
            self.waiting.remove(request)
            self._finish(request)
        self._signal_task(request.task, request.process.pid, grace)

    def _signal_task(self, task: "int", pid: "int", grace: "float") -> "None":
        if grace > 0:
            self.sessions.signal_task(signal.SIGTERM, task, pid)
            self.loop.call_later(
                grace, lambda: self.sessions.signal_task(signal.SIGKILL, task, pid)
            )
        else:
            self.sessions.signal_task(signal.SIGKILL, task, pid)

    def _end_when_killed(self, request: "Request") -> "None":
        """End a killed request's step when all that the task started has gone."""
        if self.sessions.has_living(request.task):
            self.loop.call_later(POLL_INTERVAL, lambda: self._end_when_killed(request))
        else:
            self._end_step(request, {})

    def _check_orphaned_sessions(self) -> "None":
        self.sessions.forget_empty()
        # Two values, since a process with much memory takes a while to end.
        self.memory_kills = (self.memory_kills[1], out_of_memory_kills())
        self.loop.call_later(self.keepalive, self._check_orphaned_sessions)
