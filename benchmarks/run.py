"""Compare lazycluster with plain ssh, a mux client, fabric, execnet and mitogen, over a real sshd.

    python benchmarks/run.py                 all rows, printed and written to benchmarks/RESULTS.md
    python benchmarks/run.py command copy    the rows with one of these words in their names

It starts an sshd on loopback. The subjects of a row take turns, one call each, so that a noisy
machine affects all of them. Subjects that are not installed are left out. RESULTS.md has medians
and their ratios to the first subject of the row.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import pickle
import platform
import select
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "scripts"), str(HERE.parent), str(HERE)]

import processor_time  # noqa: E402
import subjects  # noqa: E402

from lazycluster import Runtime, RuntimeTask  # noqa: E402
from loopback_sshd import LoopbackSshd  # noqa: E402

HOSTS = 50
CALLS = 1000  # at once on one host
BIG = 256 << 20  # bytes of the one large file
ROUND_TRIP = 0.02  # seconds
PAUSE = 0.01  # seconds, in which other programs use the caches

Call = Callable[[], object]
Make = Callable[["Site"], Any]  # a context manager that gives a Call


def _says(line: str, keyword: str) -> bool:
    return line.lower().lstrip().startswith(f"{keyword} ")


class Site:
    """An sshd, the ssh_config that leads to it, and files to copy."""

    def __init__(self, sshd: LoopbackSshd, folder: Path, python: Path, delayed_port: int) -> None:
        text = sshd.config_file.read_text()
        lines = [
            line for line in text.splitlines() if not line.lower().lstrip().startswith("host ")
        ]
        common = "\n".join(lines)
        self.config = folder / "config"
        near = " ".join(f"near-{number}" for number in range(HOSTS))
        slow = "\n".join(line for line in lines if not _says(line, "port"))
        self.config.write_text(
            f"Host near {near}\n{common}\nHost far\nPort {delayed_port}\n"
            f"HostKeyAlias [127.0.0.1]:{sshd.port}\n{slow}\n"
        )
        self.folder = folder
        self.python = python
        self.big = folder / "big"
        self.many = folder / "many"
        self.tree = folder / "tree"
        block = os.urandom(1 << 20)
        with open(self.big, "wb") as file:
            for _ in range(BIG >> 20):
                file.write(block)
        for number in range(2000):
            path = self.many / str(number % 20) / str(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(block[: 1000 + number])
        for number in range(20_000):
            path = self.tree / str(number % 200) / str(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(block[: number % 1000])

    def ssh(self, *words: str) -> list[str]:
        """Return the beginning of an ssh command."""
        return ["ssh", "-F", str(self.config), *words]

    @contextmanager
    def runtime(self, host: str = "near") -> Iterator[Runtime]:
        """Open a Runtime that has called a function."""
        runtime = Runtime(host, connection_kwargs={"config_file": self.config})
        try:
            call(runtime, subjects.add, a=1, b=1)
            yield runtime
        finally:
            runtime.cleanup()

    @contextmanager
    def master(self, host: str = "near") -> Iterator[list[str]]:
        """Start a control master; yield the beginning of a mux client's command."""
        path = tempfile.mktemp(dir=self.folder, prefix="m")
        argv = self.ssh("-M", "-N", "-f", "-o", "ControlPersist=yes", "-S", path, host)
        subprocess.run(argv, check=True)
        try:
            yield ["ssh", "-F", str(self.config), "-S", path, host]
        finally:
            subprocess.run(
                ["ssh", "-S", path, "-O", "exit", host], check=False, stderr=subprocess.DEVNULL
            )


def call(runtime: Runtime, function: Callable[..., object], **arguments: object) -> object:
    """Call a function on the host and return its value."""
    task = runtime.execute_function(function, **arguments)
    (value,) = task.function_returns
    task.cleanup()
    runtime.clear_tasks()
    return value


def run(runtime: Runtime, *commands: str) -> str:
    """Run commands as one task and return the output of the last one."""
    task = RuntimeTask()
    for command in commands:
        task.run_command(command)
    runtime.execute_task(task, execute_async=False)
    runtime.clear_tasks()
    return task.execution_log[-1]


def output(argv: list[str]) -> bytes:
    """Return the output of a program."""
    return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


PERSISTENT = """
import pickle, struct, sys
read, write = sys.stdin.buffer, sys.stdout.buffer
while True:
    head = read.read(8)
    if len(head) < 8: break
    import cloudpickle
    function, arguments = pickle.loads(read.read(struct.unpack(">Q", head)[0]))
    value = cloudpickle.dumps(function(**arguments))
    write.write(struct.pack(">Q", len(value)) + value)
    write.flush()
"""


class PersistentPython:
    """The lower bound of a call: one Python on the host, without isolation, logs or errors."""

    def __init__(self, site: Site, host: str = "near") -> None:
        import cloudpickle

        cloudpickle.register_pickle_by_value(subjects)
        folder = os.path.dirname(os.path.dirname(cloudpickle.__file__))
        line = f"PYTHONPATH={folder} {site.python} -u -c '{PERSISTENT}'"
        self._dumps = cloudpickle.dumps
        self.process = subprocess.Popen(
            site.ssh(host, line), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def call(self, function: Callable[..., object], **arguments: object) -> object:
        """Call a function and return its value."""
        pipes = self.process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        data = self._dumps((function, arguments))
        pipes.stdin.write(struct.pack(">Q", len(data)) + data)
        pipes.stdin.flush()
        (length,) = struct.unpack(">Q", pipes.stdout.read(8))
        return pickle.loads(pipes.stdout.read(length))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def persistent(
    site: Site, host: str, function: Callable[..., object], **arguments: object
) -> Iterator[Call]:
    """Make a call by PersistentPython."""
    floor = PersistentPython(site, host)
    try:
        yield lambda: floor.call(function, **arguments)
    finally:
        floor.close()


@contextmanager
def execnet_gateway(site: Site, host: str) -> Iterator[Any]:
    """Open an execnet gateway."""
    import execnet

    gateway = execnet.makegateway(f"ssh=-F {site.config} {host}//python={site.python}")
    try:
        yield gateway
    finally:
        gateway.exit()
        execnet.default_group.terminate(5)


@contextmanager
def mitogen_context(site: Site, host: str) -> Iterator[Any]:
    """Open a mitogen context."""
    import mitogen.master

    broker = mitogen.master.Broker()
    try:
        router = mitogen.master.Router(broker)
        router.max_message_size = 1 << 30
        yield router.ssh(
            hostname=host,
            python_path=str(site.python),
            ssh_args=["-F", str(site.config)],
            check_host_keys="ignore",
            compression=False,
        )
    finally:
        broker.shutdown()
        broker.join()


@contextmanager
def fabric_connection(site: Site, host: str) -> Iterator[Any]:
    """Open a fabric Connection."""
    import fabric

    config = fabric.Config(runtime_ssh_path=str(site.config))
    with fabric.Connection(host, config=config) as connection:
        yield connection


@contextmanager
def _always(call: Call) -> Iterator[Call]:
    yield call


def _command_rows(host: str) -> dict[str, Make]:
    @contextmanager
    def ours(site: Site, shell: str | None = None) -> Iterator[Call]:
        with site.runtime(host) as runtime:
            yield lambda: runtime.run("echo hi", shell=shell)

    @contextmanager
    def mux(site: Site) -> Iterator[Call]:
        with site.master(host) as client:
            yield lambda: output([*client, "echo hi"])

    @contextmanager
    def fabric(site: Site) -> Iterator[Call]:
        with fabric_connection(site, host) as connection:
            yield lambda: connection.run("echo hi", hide=True, in_stream=False)

    @contextmanager
    def execnet(site: Site) -> Iterator[Call]:
        with execnet_gateway(site, host) as gateway:
            yield lambda: gateway.remote_exec(subjects.execnet_command).receive()

    @contextmanager
    def mitogen(site: Site) -> Iterator[Call]:
        with mitogen_context(site, host) as context:
            yield lambda: context.call(subjects.mitogen_command)

    return {
        "mux client": mux,
        "lazycluster, the account's shell": ours,
        "lazycluster, /bin/sh": lambda site: ours(site, "/bin/sh"),
        "execnet": execnet,
        "mitogen": mitogen,
        "fabric": fabric,
    }


def _function_rows(host: str) -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime(host) as runtime:
            yield lambda: runtime.call(subjects.add, 1, 2)

    @contextmanager
    def task(site: Site) -> Iterator[Call]:
        with site.runtime(host) as runtime:
            yield lambda: call(runtime, subjects.add, a=1, b=2)

    @contextmanager
    def execnet(site: Site) -> Iterator[Call]:
        with execnet_gateway(site, host) as gateway:
            yield lambda: gateway.remote_exec(subjects.execnet_add, a=1, b=2).receive()

    @contextmanager
    def mitogen(site: Site) -> Iterator[Call]:
        with mitogen_context(site, host) as context:
            yield lambda: context.call(subjects.add, 1, 2)

    return {
        "persistent Python (floor)": lambda site: persistent(site, host, subjects.add, a=1, b=2),
        "lazycluster": ours,
        "lazycluster, as a task": task,
        "execnet": execnet,
        "mitogen": mitogen,
    }


def _repeated(count: int, call_once: Call) -> Call:
    def calls() -> None:
        for _ in range(count):
            call_once()

    return calls


def _function_rows_without_pauses(count: int) -> dict[str, Make]:
    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        with persistent(site, "near", subjects.add, a=1, b=2) as call_once:
            yield _repeated(count, call_once)

    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:
            yield _repeated(count, lambda: runtime.call(subjects.add, 1, 2))

    return {"persistent Python (floor)": floor, "lazycluster": ours}


def _preload_rows() -> dict[str, Make]:
    importlib.import_module("pandas")

    @contextmanager
    def preloaded(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:
            view = runtime.with_options(preload=["numpy", "pandas"])
            yield lambda: view.call(subjects.group)

    @contextmanager
    def imported(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:
            yield lambda: runtime.call(subjects.group)

    return {"lazycluster, preloaded": preloaded, "lazycluster, imported by each call": imported}


def _actor_rows(count: int) -> dict[str, Make]:
    """Compare calls of a process that stays, so many one after the other."""
    repeated = functools.partial(_repeated, count)

    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        with persistent(site, "near", subjects.add, a=1, b=2) as call_once:
            yield repeated(call_once)

    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime, runtime.actor(subjects.Adder) as actor:
            yield repeated(lambda: actor.add(1, 2))

    @contextmanager
    def execnet(site: Site) -> Iterator[Call]:
        with execnet_gateway(site, "near") as gateway:
            channel = gateway.remote_exec(subjects.execnet_adder)

            def call_once() -> None:
                channel.send((1, 2))
                channel.receive()

            yield repeated(call_once)

    @contextmanager
    def mitogen(site: Site) -> Iterator[Call]:
        with mitogen_context(site, "near") as context:
            yield repeated(lambda: context.call(subjects.add, 1, 2))

    return {
        "persistent Python (floor)": floor,
        "lazycluster, an actor": ours,
        "execnet, a channel": execnet,
        "mitogen": mitogen,
    }


def _connect_rows() -> dict[str, Make]:
    def ours(site: Site) -> object:
        runtime = Runtime("near", connection_kwargs={"config_file": site.config})
        value = call(runtime, subjects.add, a=1, b=2)
        # What comes after the value is not what is measured.
        threading.Thread(target=runtime.cleanup).start()
        return value

    def execnet(site: Site) -> object:
        import execnet

        gateway = execnet.makegateway(f"ssh=-F {site.config} near//python={site.python}")
        value = gateway.remote_exec(subjects.execnet_add, a=1, b=2).receive()
        gateway.exit()
        return value

    @contextmanager
    def mitogen(site: Site) -> Iterator[Call]:
        import mitogen.master

        broker = mitogen.master.Broker()
        router = mitogen.master.Router(broker)

        def connect() -> object:
            context = router.ssh(
                hostname="near",
                python_path=str(site.python),
                ssh_args=["-F", str(site.config)],
                check_host_keys="ignore",
                compression=False,
            )
            value = context.call(subjects.add, 1, 2)
            context.shutdown()
            return value

        try:
            yield connect
        finally:
            broker.shutdown()
            broker.join()

    return {
        "ssh HOST true": lambda site: _always(lambda: output(site.ssh("near", "true"))),
        "lazycluster": lambda site: _always(lambda: ours(site)),
        "execnet": lambda site: _always(lambda: execnet(site)),
        "mitogen": mitogen,
    }


def _task_rows() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime("far") as runtime:
            yield lambda: run(runtime, *["true"] * 5)

    @contextmanager
    def round_trip(_site: Site) -> Iterator[Call]:
        yield lambda: time.sleep(ROUND_TRIP)

    return {"the round trip itself": round_trip, "lazycluster": ours}


def _bulk_rows(arguments: bool) -> dict[str, Make]:
    data = os.urandom(100_000_000)
    function = subjects.size if arguments else subjects.zeros
    given = {"data": data} if arguments else {"count": len(data)}

    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:
            yield lambda: call(runtime, function, **given)

    return {
        "persistent Python (floor)": lambda site: persistent(site, "near", function, **given),
        "lazycluster": ours,
    }


def _share_rows() -> dict[str, Make]:
    def data() -> Any:
        return importlib.import_module("numpy").ones(25_000_000)

    @contextmanager
    def shared(site: Site) -> Iterator[Call]:
        array = data()
        with site.runtime() as runtime, runtime.share(array) as table:
            yield lambda: runtime.call(subjects.touch, table)

    @contextmanager
    def sent(site: Site) -> Iterator[Call]:
        array = data()
        with site.runtime() as runtime:
            yield lambda: runtime.call(subjects.touch, array)

    return {"lazycluster, shared": shared, "lazycluster, sent with each call": sent}


def _copy_rows(source: str, sending: bool) -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        path = str(getattr(site, source))
        copy = str(site.folder / f"{source}-ours")

        def copy_it() -> None:
            if sending:
                runtime.send_file(path, copy)
            else:
                runtime.get_file(path, copy)
            shutil.rmtree(copy, ignore_errors=True)

        with site.runtime() as runtime:
            yield copy_it

    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        path, copy = getattr(site, source), site.folder / f"{source}-floor"
        with site.master() as client:
            remote, local = f"cat >'{copy}'", f"cat '{path}'"
            if source == "many":
                remote, local = f"mkdir '{copy}' && tar x -C '{copy}'", f"tar c -C '{path}' ."
            there, here = (remote, local) if sending else (local, remote)

            def copy_it() -> None:
                near = subprocess.Popen(
                    ["/bin/sh", "-c", here],
                    stdin=None if sending else subprocess.PIPE,
                    stdout=subprocess.PIPE if sending else None,
                )
                pipes = {"stdin": near.stdout} if sending else {"stdout": near.stdin}
                far = subprocess.Popen([*client, there], **pipes)  # type: ignore[call-overload]
                for pipe in pipes.values():
                    assert pipe is not None
                    pipe.close()
                assert far.wait() == near.wait() == 0
                shutil.rmtree(copy, ignore_errors=True)

            yield copy_it

    name = "tar" if source == "many" else "cat"
    return {f"{name} through a control master": floor, "lazycluster": ours}


def _changed_rows(sending: bool) -> dict[str, Make]:
    @contextmanager
    def changing(site: Site, name: str, copy_all: Callable[[str, str], object]) -> Iterator[Call]:
        """Change one file of 20,000 before each copy of the folder's contents."""
        copy = site.folder / f"tree-{name}-{sending}"
        copy.mkdir()

        sizes = itertools.count(1000)  # rsync sees no change of equal size in the same second

        def copy_it() -> None:
            data = os.urandom(next(sizes))
            (site.tree / "0/0").write_bytes(data)
            copy_all(f"{site.tree}/", f"{copy}/")
            assert (copy / "0/0").read_bytes() == data

        yield copy_it

    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:
            method = runtime.send_file if sending else runtime.get_file
            make = changing(site, "ours", lambda *paths: method(*paths, only_changed=True))
            with make as copy_it:
                yield copy_it

    @contextmanager
    def rsync(site: Site) -> Iterator[Call]:
        with site.master() as client:

            def copy_all(source: str, target: str) -> None:
                host = f"{client[-1]}:"
                paths = [source, host + target] if sending else [host + source, target]
                argv = ["rsync", "-rlt", "-e", shlex.join(client[:-1]), *paths]
                subprocess.run(argv, check=True)

            with changing(site, "rsync", copy_all) as copy_it:
                yield copy_it

    if shutil.which("rsync") is None:
        return {"lazycluster": ours}
    return {"rsync -rlt through a control master": rsync, "lazycluster, only_changed": ours}


def _many_commands() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with site.runtime() as runtime:

            def all_at_once() -> None:
                tasks = [RuntimeTask().run_command("sleep 0.5") for _ in range(300)]
                for task in tasks:
                    runtime.execute_task(task)
                for task in tasks:
                    task.join()
                    assert task.error is None, task.error
                runtime.clear_tasks()

            yield all_at_once

    @contextmanager
    def one(_site: Site) -> Iterator[Call]:
        yield lambda: time.sleep(0.5)

    return {"the sleep itself": one, "lazycluster": ours}


def _many_functions() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site, preload: Sequence[str] = ()) -> Iterator[Call]:
        with site.runtime() as whole:
            runtime = whole.with_options(preload=preload)

            def all_at_once() -> None:
                futures = [runtime.submit(subjects.add, number, 1) for number in range(CALLS)]
                assert [future.result() for future in futures] == list(range(1, CALLS + 1))

            yield all_at_once

    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        with persistent(site, "near", subjects.add, a=1, b=2) as once:
            yield lambda: [once() for _ in range(CALLS)]

    rows = {"persistent Python (floor), one after the other": floor, "lazycluster": ours}
    if _is_there("pandas"):
        rows["lazycluster, pandas preloaded"] = lambda site: ours(site, ["numpy", "pandas"])
    return rows


NAMES = [f"near-{number}" for number in range(HOSTS)]


def _connect(site: Site, name: str) -> Runtime:
    keywords = {"config_file": site.config, "connect_timeout": 100}
    return Runtime(name, connection_kwargs=keywords)


@contextmanager
def _runtimes(site: Site) -> Iterator[list[Runtime]]:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        runtimes = list(pool.map(lambda name: _connect(site, name), NAMES))
        try:
            yield runtimes
        finally:
            list(pool.map(Runtime.cleanup, runtimes))


def _login_rows() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        closing: list[Runtime] = []
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            try:
                yield lambda: closing.extend(pool.map(lambda name: _connect(site, name), NAMES))
            finally:
                list(pool.map(Runtime.cleanup, closing))

    @contextmanager
    def ssh(site: Site) -> Iterator[Call]:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            yield lambda: list(pool.map(lambda name: output(site.ssh(name, "true")), NAMES))

    return {"ssh HOST true, 16 at a time": ssh, "lazycluster": ours}


def _warm_command_rows() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site, shell: str | None = None) -> Iterator[Call]:
        with _runtimes(site) as runtimes:

            def all_of_them() -> None:
                tasks = [
                    (runtime, RuntimeTask().run_command("true", shell=shell))
                    for runtime in runtimes
                ]
                for runtime, task in tasks:
                    runtime.execute_task(task)
                for runtime, task in tasks:
                    task.join()
                    runtime.clear_tasks()

            yield all_of_them

    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        with ExitStack() as stack:
            shells = [stack.enter_context(_shell(site, name)) for name in NAMES]
            yield lambda: ask_all(shells, b"/bin/true; echo $?\n", lambda data: data == b"0\n")

    return {
        "50 shells that stay, one select loop (floor)": floor,
        "lazycluster, the account's shell": ours,
        "lazycluster, /bin/sh": lambda site: ours(site, "/bin/sh"),
    }


@contextmanager
def _shell(site: Site, name: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = site.ssh(name, "exec /bin/sh")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


def ask_all(
    processes: list[subprocess.Popen[bytes]], question: bytes, is_whole: Callable[[bytes], bool]
) -> None:
    """Write to all processes, and wait until the answer of each is whole, in one loop."""
    answers = {}
    poller = select.poll()
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        answers[process.stdout.fileno()] = b""
        poller.register(process.stdout.fileno(), select.POLLIN)
        process.stdin.write(question)
        process.stdin.flush()
    while answers:
        for fd, _ in poller.poll():
            answers[fd] += os.read(fd, 1 << 16)
            if is_whole(answers[fd]):
                poller.unregister(fd)
                del answers[fd]


def _warm_function_rows() -> dict[str, Make]:
    @contextmanager
    def ours(site: Site) -> Iterator[Call]:
        with _runtimes(site) as runtimes:

            def all_of_them() -> None:
                futures = [runtime.submit(subjects.add, 1, 2) for runtime in runtimes]
                assert [future.result() for future in futures] == [3] * HOSTS

            yield all_of_them

    @contextmanager
    def floor(site: Site) -> Iterator[Call]:
        import cloudpickle

        with ExitStack() as stack:
            pythons = [PersistentPython(site, name) for name in NAMES]
            for python in pythons:
                stack.callback(python.close)
                python.call(subjects.add, a=1, b=2)
            data = cloudpickle.dumps((subjects.add, {"a": 1, "b": 2}))
            question = struct.pack(">Q", len(data)) + data
            size = 8 + len(cloudpickle.dumps(3))
            yield lambda: ask_all(
                [python.process for python in pythons], question, lambda data: len(data) == size
            )

    return {"50 Pythons that stay, one select loop (floor)": floor, "lazycluster": ours}


def _import_rows() -> dict[str, Make]:
    def importer(line: str) -> Make:
        argv = [sys.executable, "-c", line]
        variables = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        return lambda _site: _always(lambda: subprocess.run(argv, check=True, env=variables))

    rows = {
        "the interpreter itself": importer("pass"),
        "import lazycluster": importer("import lazycluster"),
        "from lazycluster import Runtime": importer("from lazycluster import Runtime"),
    }
    for name in ("execnet", "mitogen.master", "fabric"):
        if shutil.which(sys.executable) and _is_there(name.partition(".")[0]):
            rows[f"import {name}"] = importer(f"import {name}")
    return rows


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


ROWS: dict[str, tuple[int, Callable[[], dict[str, Make]]]] = {
    "connect and first function": (15, _connect_rows),
    "command": (100, lambda: _command_rows("near")),
    "function, each in a fresh process here": (100, lambda: _function_rows("near")),
    "function after a pause of 10 ms": (100, lambda: _function_rows("near")),
    "100 functions, back to back": (20, lambda: _function_rows_without_pauses(100)),
    "call of an actor": (300, lambda: _actor_rows(1)),
    "100 calls of an actor, back to back": (30, lambda: _actor_rows(100)),
    "command at a round trip of 20 ms": (20, lambda: _command_rows("far")),
    "function at a round trip of 20 ms": (20, lambda: _function_rows("far")),
    "task of five commands at a round trip of 20 ms": (20, _task_rows),
    "argument of 100 MB": (5, lambda: _bulk_rows(arguments=True)),
    "value of 100 MB": (5, lambda: _bulk_rows(arguments=False)),
    "function that reads 1000 elements of an array of 200 MB": (10, _share_rows),
    "function that uses pandas, a groupby": (30, _preload_rows),
    "copy of a 256 MiB file to the host": (7, lambda: _copy_rows("big", sending=True)),
    "copy of a 256 MiB file from the host": (7, lambda: _copy_rows("big", sending=False)),
    "copy of a folder of 2000 files to the host": (7, lambda: _copy_rows("many", sending=True)),
    "copy of a folder of 2000 files from the host": (7, lambda: _copy_rows("many", sending=False)),
    "second copy of 20,000 files to the host": (7, lambda: _changed_rows(sending=True)),
    "second copy of 20,000 files from the host": (7, lambda: _changed_rows(sending=False)),
    "300 commands of 0.5 s at once": (3, _many_commands),
    f"{CALLS} functions at once on one host": (3, _many_functions),
    f"connect {HOSTS} hosts": (3, _login_rows),
    f"`true` on {HOSTS} connected hosts": (10, _warm_command_rows),
    f"a function on {HOSTS} connected hosts": (10, _warm_function_rows),
    "import": (15, _import_rows),
}


PAUSES = {"function after a pause of 10 ms": PAUSE}  # before each call, by row


def measure(
    site: Site, rounds: int, makers: dict[str, Make], pause: float
) -> dict[str, list[float]]:
    """Return the seconds of each call by its subject, without the first call of each."""
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        for name, make in makers.items():
            try:
                calls[name] = stack.enter_context(make(site))
            except ImportError:
                continue
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + 1):
            for name, once in calls.items():
                time.sleep(pause)
                began = time.perf_counter()
                once()
                if number:
                    times[name].append(time.perf_counter() - began)
    return times


def table(times: dict[str, list[float]]) -> str:
    """Return a table of medians and of their ratios to the first."""
    medians = {name: statistics.median(values) * 1000 for name, values in times.items()}
    first = next(iter(medians.values()))
    lines = ["| | median ms | min ms | ratio |", "| --- | --: | --: | --: |"]
    for name, median in medians.items():
        low = min(times[name]) * 1000
        lines.append(f"| {name} | {median:.3g} | {low:.3g} | {median / first:.2f} |")
    return "\n".join(lines)


def memory(site: Site) -> str:
    """Measure the memory of one more host, on the manager and on the host; Linux only."""

    def of(*pids: int, field: str = "Private_") -> float:
        """Return the private or resident megabytes of processes, on average."""
        kilobytes = 0
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(field):
                    kilobytes += int(line.split()[1])
        return kilobytes / 1000 / len(pids)

    def children(pid: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    with ExitStack() as stack:
        few = [stack.enter_context(site.runtime(f"near-{number}")) for number in range(5)]
        before = of(os.getpid())
        more = [stack.enter_context(site.runtime(f"near-{number}")) for number in range(5, 45)]
        after = of(os.getpid())
        guards = [pid for pid in children(os.getpid()) if b"lazycluster-guard" in _argv(pid)]
        sshs = [pid for guard in guards for pid in children(guard) if b"ssh\0" in _argv(pid)]
        supervisor = call(few[0], os.getppid)
        assert isinstance(supervisor, int)
        resting = of(supervisor, field="Rss")
        task = RuntimeTask().run_command("head -c 1000000000 /dev/zero")
        few[0].execute_task(task, execute_async=False)
        loaded = of(supervisor, field="Rss")
        figures = {
            "manager, for each further host, its own": (after - before) / len(more),
            "ssh, for each host, its own": of(*sshs),
            "guard, for each host, its own": of(*guards),
            "supervisor, after functions, resident": resting,
            "supervisor, after another GB of output, resident": loaded,
        }
    lines = ["| | MB |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {name} | {value:.2f} |" for name, value in figures.items())])


def processor_times(site: Site, sshd: LoopbackSshd) -> str:
    """Measure the processor time of a call in each process that it needs; Linux only."""
    with site.runtime() as runtime:
        supervisor = call(runtime, os.getppid)
        assert isinstance(supervisor, int)
        sshds = sshd.connection_pids()
        parts: dict[str, Callable[[], float]] = {
            "manager": time.process_time,
            "supervisor": lambda: processor_time.own(supervisor),
            "processes of the steps": lambda: processor_time.ended_children(supervisor),
            "sshd": lambda: sum(map(processor_time.own, sshds)),
        }
        calls: dict[str, Call] = {
            "function": lambda: runtime.call(subjects.add, 1, 2),
            "function as a task": lambda: call(runtime, subjects.add, a=1, b=2),
            "command (`/bin/sh`)": lambda: runtime.run("true", shell="/bin/sh"),  # noqa: S604
        }
        lines = [f"| ms | {' | '.join(parts)} |", f"| --- |{' --: |' * len(parts)}"]
        for pause in (0.0, PAUSE):
            for name, once in calls.items():
                found = processor_time.measure(once, 300, parts, pause)
                figures = " | ".join(f"{value:.2f}" for value in found.values())
                lines.append(f"| {name}{', with pauses' if pause else ''} | {figures} |")
    return "\n".join(lines)


def _argv(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _lend(python: Path, name: str) -> None:
    """Let the host's Python have a package that is installed here, if it is."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return
    here = Path(spec.origin)
    there = python / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    if not spec.submodule_search_locations:
        (there / here.name).symlink_to(here)
        return
    for source in (here.parent, here.parent.with_name(f"{name}.libs")):
        if source.is_dir():
            (there / source.name).symlink_to(source)


def versions() -> str:
    """Return the versions of the subjects and of the machine."""
    ssh = subprocess.run(["ssh", "-V"], check=True, capture_output=True, text=True).stderr.strip()
    found = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("cloudpickle", "execnet", "mitogen", "fabric")
        if _is_there(name)
    ]
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} processors; {platform.system()} "
        f"{platform.release()}; Python {platform.python_version()}; {ssh}; {', '.join(found)}."
    )


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """Start a proxy that adds a round trip; yield its port."""
    argv = [sys.executable, str(HERE / "delay.py"), str(port), str(ROUND_TRIP / 2)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())


def main(words: list[str]) -> None:
    """Measure the rows that have one of the words in their names."""
    rows = {
        name: row for name, row in ROWS.items() if not words or any(word in name for word in words)
    }
    command = " ".join(["python benchmarks/run.py", *words])
    lines = ["# Results", "", f"    {command}", "", versions()]
    with ExitStack() as stack:
        options = ["MaxStartups 500"]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lcbench-")))
        os.environ["LAZYCLUSTER_HOME"] = str(folder)
        # The host's Python has nothing installed: what a .pth file imports would be in each login.
        python = folder / "python"
        venv.create(python, symlinks=True)
        for package in ("numpy", "pandas", "dateutil", "pytz", "tzdata", "six"):
            _lend(python, package)
        sshd = stack.enter_context(LoopbackSshd(sshd_config=options, path=[python / "bin"]))
        port = stack.enter_context(delayed(sshd.port))
        site = Site(sshd, folder, python / "bin" / f"python3.{sys.version_info[1]}", port)
        for name, (rounds, makers) in rows.items():
            try:
                subjects_of_row = makers()
            except ImportError:
                continue
            found = table(measure(site, rounds, subjects_of_row, PAUSES.get(name, 0.0)))
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", found]
            print("\n".join(lines[-4:]), flush=True)
        if not words or "processor" in words:
            lines += ["", "## Processor time of a call", "", processor_times(site, sshd)]
            print("\n".join(lines[-4:]), flush=True)
        if not words or "memory" in words:
            lines += ["", "## Memory", "", memory(site)]
            print("\n".join(lines[-4:]), flush=True)
    if not words:
        notes = (HERE / "notes.md").read_text()
        (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n\n" + notes)


if __name__ == "__main__":
    main(sys.argv[1:])
