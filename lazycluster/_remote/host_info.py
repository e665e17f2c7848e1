"""Describe this host: system, cores, memory, Python and GPUs that a program can use here.

In a container, the limits of its control groups count, see cgroups(7), proc_pid_mountinfo(5) and
Documentation/admin-guide/cgroup-v2.rst of the kernel. `proc` and the control groups are below
`root`.
"""

import contextlib
import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Gpu = dict[str, Any]  # id, name, uuid, memory, driver_version

PROGRAM_TIMEOUT = 10.0  # seconds; nvidia-smi may first wake the GPUs, or hang in a driver
NO_LIMIT = 1 << 60  # bytes; version 1 prints 2**63 less a page if there is no limit
NVIDIA_SMI = [
    "nvidia-smi",
    "--query-gpu=index,name,uuid,memory.total,driver_version",
    "--format=csv,noheader,nounits",
]


def is_executable(name: "str") -> "bool":
    """Return True if a program of that name is found on the PATH."""
    import shutil

    return shutil.which(name) is not None


def read_host_info(root: "str" = "/", timeout: "float" = PROGRAM_TIMEOUT) -> "dict[str, Any]":
    """Return everything, as plain values; `timeout` is nvidia-smi's, in seconds."""
    return {
        "os": operating_system(),
        "cpu_cores": cpu_cores(root),
        "memory": memory(root),
        "python_version": "%d.%d.%d" % sys.version_info[:3],
        "gpus": gpus(timeout),
    }


def operating_system() -> "str":
    """Return what platform.platform() does: "Linux-6.1.0-18-amd64-x86_64-with-glibc2.36"."""
    system = os.uname()
    if system.sysname != "Linux":
        import platform  # costs 20 ms, and on Python 3.6 a process for `uname -p`

        return platform.platform()
    name = "{0.sysname}-{0.release}-{0.machine}".format(system)
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # not glibc
        libc = ""
    return name + "-with-" + libc.replace(" ", "") if libc else name


def cpu_cores(root: "str" = "/") -> "int":
    """Return the minimum of the cores online, the cores allowed here, and the quotas; at least 1.

    A quota of 1.5 cores counts as 2: two threads have something to do, if not all the time.
    """
    try:  # not os.cpu_count(): from Python 3.13 on, PYTHON_CPU_COUNT replaces it
        counts = [os.sysconf("SC_NPROCESSORS_ONLN")]
    except (OSError, ValueError):
        counts = [os.cpu_count() or 0]
    # What taskset and cpuset allow; macOS has none, and a filter of system calls may refuse it.
    with contextlib.suppress(AttributeError, OSError):
        counts.append(len(os.sched_getaffinity(0)))
    for folder in cgroup_folders(root, "cpu"):
        words = _words(folder, "cpu.max")
        if not words:
            words = _words(folder, "cpu.cfs_quota_us") + _words(folder, "cpu.cfs_period_us")
        quota, period = ([_natural(word) for word in words] + [0, 0])[:2]
        if quota and period:
            counts.append(-(-quota // period))
    return min((count for count in counts if count > 0), default=1)


def memory(root: "str" = "/") -> "int | None":
    """Return the minimum of the installed memory and the limits, in bytes; None if unknown.

    `memory.high` and version 1's soft limit do not count: beyond these the system gives memory,
    slowly, and Kubernetes sets `memory.high` below the limit that its users ask for. Nor does swap.
    """
    amounts = [_installed(root)]
    for folder in cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            amounts += [_natural(word) for word in _words(folder, name)[:1]]
    return min((amount for amount in amounts if 0 < amount < NO_LIMIT), default=None)


def _installed(root: "str") -> "int":
    """Return the bytes of installed memory; 0 if unknown."""
    for line in _lines(root, "proc/meminfo"):  # lxcfs puts the container's share there
        words = line.split()
        if len(words) > 1 and words[0] == "MemTotal:" and _natural(words[1]):
            return _natural(words[1]) << 10
    with contextlib.suppress(OSError, ValueError):  # macOS may lack the first
        pages = os.sysconf("SC_PHYS_PAGES")
        if pages > 0:
            return pages * os.sysconf("SC_PAGE_SIZE")
    return _natural(_printed(["sysctl", "-n", "hw.memsize"], PROGRAM_TIMEOUT).strip())


def cgroup_folders(root: "str", controller: "str") -> "list[str]":
    """Return the folders of the control groups that limit this process: its own and all parents.

    Both versions of control groups may be mounted at once, anywhere, each perhaps more than once;
    a container often sees only the lower part of the path. The controller is "cpu" or "memory".
    """
    paths = {}  # type: dict[str, str]
    for line in _lines(root, "proc/self/cgroup"):  # number:controllers:path
        fields = line.split(":", 2)
        if len(fields) == 3:
            for name in fields[1].split(","):  # of version 2: ""
                paths[name] = fields[2]
    found = []
    for line in _lines(root, "proc/self/mountinfo"):
        # number, parent, device, the path mounted, where, options, optional fields - type, source,
        # options of the file system
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(" "), system.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        path = None  # type: str | None
        if kind[0] == "cgroup2":
            path = paths.get("")
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            path = paths.get(controller)
        below = None if path is None else _below(path, _unescaped(fields[3]))
        if below is not None:
            folder = os.path.join(root, _unescaped(fields[4]).lstrip("/"))
            found += [os.path.join(folder, *below[:end]) for end in range(len(below), -1, -1)]
    return found


def _below(path: "str", mounted: "str") -> "list[str] | None":
    """Return the names on the way from the mounted control group down to this process's own.

    Both paths are relative to the root of this process's cgroup namespace, and start with `/..` if
    they are above or beside it. None if the mounted group is not a parent: it limits others.
    """
    names, above = (list(filter(None, text.split("/"))) for text in (path, mounted))
    below = names[len(above) :]
    if names[: len(above)] == above:
        return None if ".." in below else below
    # If it only goes up, and further: the groups in between are not visible in here.
    return [] if set(above) == {".."} else None


def _unescaped(field: "str") -> "str":
    r"""Return a path of mountinfo without its escapes, \040 for a blank and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)


def gpus(timeout: "float" = PROGRAM_TIMEOUT) -> "list[Gpu]":
    """Return a dictionary for each NVIDIA GPU that programs see here; none without nvidia-smi.

    `id` is nvidia-smi's number, `memory` in bytes; what the driver does not report is None.
    CUDA_VISIBLE_DEVICES chooses and orders the GPUs as it does for CUDA. Its numbers are read as
    nvidia-smi's, which is right if all GPUs are alike, or with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = []
    for line in _printed(NVIDIA_SMI, timeout).splitlines():
        index, _, rest = line.partition(",")
        fields = [field.strip() for field in rest.rsplit(",", 3)]  # a name may have commas
        if not _is_natural(index.strip()) or len(fields) != 4:
            continue  # a message
        name, uuid, size, driver = (None if field[:1] == "[" else field for field in fields)
        found.append(
            {
                "id": int(index),
                "name": name,
                "uuid": uuid,
                "memory": _natural(size or "") << 20 or None,  # MiB; unknown of a part of a GPU
                "driver_version": driver,
            }
        )
    return found if visible is None else _visible(found, visible)


def _visible(found: "list[Gpu]", visible: "str") -> "list[Gpu]":
    """Return the GPUs in CUDA_VISIBLE_DEVICES, in its order, up to the first unknown one."""
    chosen = []  # type: list[Gpu]
    for word in visible.split(","):
        word = word.strip()
        if word.startswith("MIG-") and found:
            chosen.append(_part(found, word))
            continue
        matches = [
            gpu
            for gpu in found
            if word == str(gpu["id"])
            or (word.startswith("GPU-") and (gpu["uuid"] or "").startswith(word))
        ]
        if len(matches) != 1:
            break
        if matches[0] not in chosen:
            chosen += matches
    return chosen


def _part(found: "list[Gpu]", uuid: "str") -> "Gpu":
    """Return a part of a GPU (MIG); nvidia-smi lists only whole ones."""
    wholes = [gpu for gpu in found if gpu["uuid"] and gpu["uuid"] in uuid]  # before driver 470
    whole = wholes[0] if wholes else found[0] if len(found) == 1 else {}
    part = {"id": whole.get("id"), "name": whole.get("name"), "uuid": uuid, "memory": None}
    return dict(part, driver_version=found[0]["driver_version"])


def _lines(folder: "str", name: "str") -> "list[str]":
    """Return the lines of a file; none if it cannot be read."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return os.fsdecode(file.read()).split("\n")
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return []


def _words(folder: "str", name: "str") -> "list[str]":
    return " ".join(_lines(folder, name)[:1]).split()


def _is_natural(word: "str") -> "bool":
    return re.match(r"[0-9]{1,30}\Z", word) is not None


def _natural(word: "str") -> "int":
    """Return a number; 0 for `max`, -1 and anything else that is not a natural number."""
    return int(word) if _is_natural(word) else 0


def _printed(argv: "list[str]", timeout: "float") -> "str":
    """Return what a program prints; nothing if it is missing, fails, or takes longer."""
    import subprocess  # loaded in the supervisor, but not needed on most hosts

    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        output, _ = process.communicate(timeout=timeout)
    except OSError:
        return ""
    except subprocess.TimeoutExpired:
        # Not subprocess.run: it would then wait for a process that hangs in a driver and cannot be
        # killed, and for every process that holds the pipe.
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):  # then init will wait for it
            process.wait(1)
        return ""
    return output.decode("utf-8", "replace") if process.returncode == 0 else ""
