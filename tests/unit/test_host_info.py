"""What a host has for what runs on it: limits from trees of files, GPUs from a stand-in."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lazycluster._remote import host_info

GIB = 1 << 30
TWO_GPUS = """\
0, Tesla T4, GPU-aaaa1111-0000-0000-0000-000000000000, 15360, 535.161.08
1, NVIDIA A100-SXM4-40GB, GPU-bbbb2222-0000-0000-0000-000000000000, 40960, 535.161.08
"""
UUIDS = [line.split(", ")[2] for line in TWO_GPUS.splitlines()]

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory"
V1_NO_LIMIT = "9223372036854771712\n"


class Host:
    """A tree with the files of a host: 64 GiB, and what a test adds."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree:         1024 kB\n")

    def write(self, path: str, content: str | bytes) -> None:
        target = Path(self.root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    def mounts(self, *lines: str) -> None:
        self.write("proc/self/mountinfo", "".join(line + "\n" for line in lines))

    def groups(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "".join(line + "\n" for line in lines))

    @property
    def cpu_cores(self) -> int:
        return host_info.cpu_cores(self.root)

    @property
    def memory(self) -> int | None:
        return host_info.memory(self.root)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host of 16 cores, all of them allowed, and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    sysconf = os.sysconf
    monkeypatch.setattr(
        os, "sysconf", lambda name: 16 if name == "SC_NPROCESSORS_ONLN" else sysconf(name)
    )
    return Host(tmp_path)


@pytest.fixture
def v2(host):
    """Control groups of version 2; the process is in /outer/inner."""
    host.mounts("23 1 8:1 / / rw - ext4 /dev/sda1 rw", V2_MOUNT)
    host.groups("0::/outer/inner")
    return host


@pytest.fixture
def v1(host):
    """Control groups of version 1; the process is in /outer/inner of each."""
    host.mounts(V1_CPU_MOUNT, V1_MEMORY_MOUNT)
    host.groups("4:memory:/outer/inner", "3:cpu,cpuacct:/outer/inner", "1:name=systemd:/elsewhere")
    return host


def v1_quota(host, folder, quota, period=100000):
    host.write(f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us", f"{quota}\n")
    host.write(f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us", f"{period}\n")


# --- All of it ---


def test_the_keys(host):
    """What `Runtime.info` shows, but the host."""
    keys = {"os", "cpu_cores", "memory", "python_version", "gpus"}
    assert set(host_info.read_host_info(host.root)) == keys


def test_the_values_are_plain(host):
    """JSON gives back what it was given."""
    info = host_info.read_host_info(host.root)
    assert json.loads(json.dumps(info)) == info


def test_the_real_host_has_memory():
    """More than a Python needs, and less than any machine has."""
    assert 16 << 20 < host_info.read_host_info()["memory"] < 1 << 50


def test_the_real_host_has_cores():
    """At least the one that this runs on."""
    assert 1 <= host_info.read_host_info()["cpu_cores"] <= (os.cpu_count() or 1)


def test_python_version():
    """Three numbers."""
    assert host_info.read_host_info()["python_version"] == "{}.{}.{}".format(*sys.version_info[:3])


def test_the_operating_system_begins_as_platform_has_it():
    """System, release and machine."""
    system = os.uname()
    if system.sysname != "Linux":
        assert host_info.operating_system() == platform.platform()
    else:
        names = f"{system.sysname}-{system.release}-{system.machine}"
        assert host_info.operating_system().startswith(names)


def test_the_operating_system_names_glibc():
    """Where it is glibc; wheels depend on its version."""
    name, version = platform.libc_ver()
    if name != "glibc":
        pytest.skip("this system's C library is not glibc")
    assert host_info.operating_system().endswith(f"-with-glibc{version}")


def test_another_c_library_is_not_named(monkeypatch):
    """musl does not know the name that is asked for."""

    def confstr(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "n", "6.1", "v", "armv7l")))
    assert host_info.operating_system() == "Linux-6.1-armv7l"


# --- Without control groups ---


def test_without_limits_all_cores_count(host):
    """There is not even a /proc/self/cgroup."""
    assert host.cpu_cores == 16


def test_affinity_bounds_the_cores(host, monkeypatch):
    """As taskset and cpuset set it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7})
    assert host.cpu_cores == 3


def test_online_bounds_the_cores(host, monkeypatch):
    """lxcfs tells a container its share this way."""
    monkeypatch.setattr(os, "sysconf", lambda name: 5)
    assert host.cpu_cores == 5


def test_without_affinity_the_cores_online_count(host, monkeypatch):
    """macOS has no such call."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert host.cpu_cores == 16


def test_a_refused_affinity_does_not_matter(host, monkeypatch):
    """A filter of system calls may refuse it."""

    def refuse(pid):
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert host.cpu_cores == 16


def test_python_cpu_count_is_not_believed(host_python, tmp_path):
    """From 3.13 on, os.cpu_count() gives what this variable says."""
    info = run(host_python, tmp_path, PYTHON_CPU_COUNT="7777")
    assert info["cpu_cores"] < 7777


def test_where_nothing_tells_the_cores_there_is_one(tmp_path, monkeypatch):
    """It runs on one."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf_names")
    monkeypatch.setattr(os, "sysconf", _no_such_name)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert host_info.cpu_cores(str(tmp_path)) == 1


def test_without_limits_all_memory_counts(host):
    """In bytes."""
    assert host.memory == 64 * GIB


def test_without_proc_the_memory_is_the_systems(tmp_path):
    """By sysconf."""
    expected = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host_info.memory(str(tmp_path)) == expected


def test_without_proc_and_sysconf_sysctl_is_asked(tmp_path, program, monkeypatch):
    """As on macOS."""
    program("sysctl", '[ "$*" = "-n hw.memsize" ] && echo 17179869184')
    monkeypatch.setattr(os, "sysconf", _no_such_name)
    assert host_info.memory(str(tmp_path)) == 16 * GIB


def test_where_nothing_tells_the_memory_it_is_none(tmp_path, program, monkeypatch):
    """Not 0, which would be wrong."""
    program("sysctl", "echo no such name >&2; exit 1")
    monkeypatch.setattr(os, "sysconf", _no_such_name)
    assert host_info.memory(str(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "MemTotal:", "MemTotal: many kB", b"\xff\0\n", "\n\n"])
def test_a_broken_meminfo_is_not_believed(host, content):
    """The system is asked."""
    host.write("proc/meminfo", content)
    assert host.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _no_such_name(name):
    raise ValueError("unrecognized configuration name")


# --- Control groups, version 2 ---


@pytest.mark.parametrize("folder", ["/outer/inner", "/outer", ""])
def test_p21_a_quota_anywhere_on_the_path_bounds_the_cores(v2, folder):
    """The process's own group, one above, the root of what is mounted."""
    v2.write(f"sys/fs/cgroup{folder}/cpu.max", "200000 100000\n")
    assert v2.cpu_cores == 2


@pytest.mark.parametrize(("outer", "inner"), [(2, 8), (8, 2)])
def test_the_least_quota_of_the_path_counts(v2, outer, inner):
    """An outer group bounds the inner ones."""
    v2.write("sys/fs/cgroup/outer/cpu.max", f"{outer}00000 100000\n")
    v2.write("sys/fs/cgroup/outer/inner/cpu.max", f"{inner}00000 100000\n")
    assert v2.cpu_cores == 2


def test_a_quota_of_another_group_does_not_count(v2):
    """One beside the process's own."""
    v2.write("sys/fs/cgroup/outer/other/cpu.max", "100000 100000\n")
    assert v2.cpu_cores == 16


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("1000 100000", 1), ("25000 10000", 3)]
)
def test_a_part_of_a_core_is_rounded_up(v2, quota, cores):
    """1.5 is 2, and less than 1 is 1."""
    v2.write("sys/fs/cgroup/outer/cpu.max", quota)
    assert v2.cpu_cores == cores


@pytest.mark.parametrize(
    "content",
    ["max 100000\n", "", "\n", "max", "100000", "0 100000", "100000 0", "-1 1", "a b", b"\xff\xfe"],
)
def test_a_quota_that_is_none_bounds_nothing(v2, content):
    """`max`, and what cannot be understood."""
    v2.write("sys/fs/cgroup/outer/cpu.max", content)
    assert v2.cpu_cores == 16


def test_a_large_quota_does_not_add_cores(v2):
    """There are 16."""
    v2.write("sys/fs/cgroup/outer/cpu.max", "6400000 100000")
    assert v2.cpu_cores == 16


@pytest.mark.parametrize("folder", ["/outer/inner", "/outer", ""])
def test_p21_a_limit_anywhere_on_the_path_bounds_the_memory(v2, folder):
    """The process's own group, one above, the root of what is mounted."""
    v2.write(f"sys/fs/cgroup{folder}/memory.max", f"{2 * GIB}\n")
    assert v2.memory == 2 * GIB


@pytest.mark.parametrize(("outer", "inner"), [(2, 8), (8, 2)])
def test_the_least_limit_of_the_path_counts(v2, outer, inner):
    """An outer group bounds the inner ones."""
    v2.write("sys/fs/cgroup/outer/memory.max", f"{outer * GIB}\n")
    v2.write("sys/fs/cgroup/outer/inner/memory.max", f"{inner * GIB}\n")
    assert v2.memory == 2 * GIB


def test_memory_high_is_no_limit(v2):
    """Beyond it the system is slow to give, but gives."""
    v2.write("sys/fs/cgroup/outer/memory.high", f"{GIB}\n")
    assert v2.memory == 64 * GIB


@pytest.mark.parametrize("content", ["max\n", "", "\n", "0", "-1", "1G", "1 GiB"[1:], b"\xff"])
def test_a_limit_that_is_none_bounds_nothing(v2, content):
    """`max`, and what cannot be understood."""
    v2.write("sys/fs/cgroup/outer/memory.max", content)
    assert v2.memory == 64 * GIB


def test_a_limit_above_what_there_is_adds_no_memory(v2):
    """There are 64 GiB."""
    v2.write("sys/fs/cgroup/outer/memory.max", f"{128 * GIB}")
    assert v2.memory == 64 * GIB


def test_a_folder_in_the_place_of_a_file_bounds_nothing(v2):
    """Nor does it raise."""
    Path(v2.root, "sys/fs/cgroup/outer/cpu.max").mkdir(parents=True)
    assert v2.cpu_cores == 16


# --- Version 1, and both at once ---


@pytest.mark.parametrize("folder", ["/outer/inner", "/outer", ""])
def test_a_v1_quota_anywhere_on_the_path_bounds_the_cores(v1, folder):
    """Quota and period lie in two files there."""
    v1_quota(v1, folder, 300000)
    assert v1.cpu_cores == 3


@pytest.mark.parametrize("quota", ["-1", "0", "", "x"])
def test_a_v1_quota_that_is_none_bounds_nothing(v1, quota):
    """-1 is none."""
    v1_quota(v1, "/outer", quota)
    assert v1.cpu_cores == 16


def test_a_v1_quota_without_its_period_bounds_nothing(v1):
    """One number says nothing."""
    v1.write("sys/fs/cgroup/cpu,cpuacct/outer/cpu.cfs_quota_us", "100000")
    assert v1.cpu_cores == 16


@pytest.mark.parametrize("folder", ["/outer/inner", "/outer", ""])
def test_a_v1_limit_anywhere_on_the_path_bounds_the_memory(v1, folder):
    """Each controller has a tree of its own there."""
    v1.write(f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes", f"{3 * GIB}\n")
    assert v1.memory == 3 * GIB


def test_an_absurd_v1_limit_is_none(v1):
    """2**63 less a page is what stands where none is set."""
    v1.write("sys/fs/cgroup/memory/outer/memory.limit_in_bytes", V1_NO_LIMIT)
    assert v1.memory == 64 * GIB


def test_an_absurd_v1_limit_is_none_where_nothing_else_is_known(v1, program, monkeypatch):
    """It is not the memory of the host."""
    v1.write("sys/fs/cgroup/memory/outer/memory.limit_in_bytes", V1_NO_LIMIT)
    os.remove(os.path.join(v1.root, "proc/meminfo"))
    program("sysctl", "exit 1")
    monkeypatch.setattr(os, "sysconf", _no_such_name)
    assert v1.memory is None


def test_each_v1_controller_has_its_own_path(v1):
    """A limit in the folder that another controller's path names is not the process's."""
    v1.groups("4:memory:/a", "3:cpu,cpuacct:/b")
    v1.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", f"{3 * GIB}")
    v1.write("sys/fs/cgroup/memory/b/memory.limit_in_bytes", f"{GIB}")
    assert v1.memory == 3 * GIB


def test_hybrid_takes_the_least_of_both(v1):
    """Version 2 below /sys/fs/cgroup/unified, with the memory, version 1 with the rest."""
    unified = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    v1.mounts(V1_CPU_MOUNT, V1_MEMORY_MOUNT, unified)
    v1.groups("4:memory:/a", "3:cpu,cpuacct:/a", "0::/user.slice")
    v1.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", f"{3 * GIB}")
    v1.write("sys/fs/cgroup/unified/user.slice/memory.max", f"{2 * GIB}")
    assert v1.memory == 2 * GIB


def test_hybrid_finds_the_quota_in_version_1(v1):
    """The mount of version 2 has no controllers there."""
    unified = V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    v1.mounts(unified, V1_CPU_MOUNT, V1_MEMORY_MOUNT)
    v1.groups("4:memory:/a", "3:cpu,cpuacct:/a", "0::/user.slice")
    v1_quota(v1, "/a", 400000)
    v1.write("sys/fs/cgroup/unified/user.slice/cgroup.procs", "1\n")
    assert v1.cpu_cores == 4


# --- Where it is mounted, and what is seen of it ---


def folders(host, controller="memory"):
    found = host_info.cgroup_folders(host.root, controller)
    return [os.path.relpath(folder, host.root) for folder in found]


def test_the_folders_go_from_the_process_up_to_the_mount(v2):
    """Its own group first."""
    assert folders(v2) == [
        "sys/fs/cgroup/outer/inner",
        "sys/fs/cgroup/outer",
        "sys/fs/cgroup",
    ]


def test_a_mount_elsewhere_is_found(v2):
    """systemd's place is not everybody's."""
    v2.mounts(V2_MOUNT.replace("/sys/fs/cgroup", "/dev/cg"))
    assert folders(v2)[-1] == "dev/cg"


def test_blanks_in_a_mount_point_are_read(v2):
    r"""mountinfo has \040 for a blank."""
    v2.mounts(V2_MOUNT.replace("/sys/fs/cgroup", r"/a\040b\134c"))
    assert folders(v2)[-1] == "a b\\c"


def test_a_path_may_have_colons(v2):
    """Only the first two of a line divide it."""
    v2.groups("0::/a:b")
    assert folders(v2)[0] == "sys/fs/cgroup/a:b"


def test_any_bytes_may_be_in_a_path(v2):
    """They need not be UTF-8."""
    v2.write("proc/self/cgroup", b"0::/\xff\n")
    v2.write(os.fsdecode(b"sys/fs/cgroup/\xff/memory.max"), f"{GIB}")
    assert v2.memory == GIB


def test_any_number_of_optional_fields(v2):
    """None, or several; a dash ends them."""
    v2.mounts(
        V2_MOUNT.replace(" shared:4 -", " -"),
        V2_MOUNT.replace(" shared:4 -", " shared:4 master:1 propagate_from:2 -"),
    )
    assert folders(v2).count("sys/fs/cgroup/outer") == 2


def test_a_namespace_hides_what_is_above(v2):
    """In a container: the process is in `/`, and `/` is mounted."""
    v2.groups("0::/")
    assert folders(v2) == ["sys/fs/cgroup"]


def test_a_container_without_a_namespace_sees_its_part(v2):
    """Its group is mounted, and the path begins with that."""
    v2.mounts(V2_MOUNT.replace(" / /sys", " /docker/1a2b /sys"))
    v2.groups("0::/docker/1a2b/lower")
    assert folders(v2) == ["sys/fs/cgroup/lower", "sys/fs/cgroup"]


def test_a_v1_container_without_a_namespace_sees_its_part(v1):
    """As Docker does it with version 1."""
    v1.mounts(V1_MEMORY_MOUNT.replace(" / /sys", " /docker/1a2b /sys"))
    v1.groups("4:memory:/docker/1a2b")
    v1.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}")
    assert v1.memory == GIB


def test_the_mount_of_a_group_beside_limits_others(v2):
    """`/docker/1a2b` is not above `/docker/1a2b3c`."""
    v2.mounts(V2_MOUNT.replace(" / /sys", " /docker/1a2b /sys"))
    v2.groups("0::/docker/1a2b3c")
    assert folders(v2) == []


def test_a_mount_from_outside_of_the_namespace_is_above(v2):
    """What lies between has no names in here; the mount itself bounds the process."""
    v2.mounts(V2_MOUNT.replace(" / /sys", " /../.. /sys"))
    v2.groups("0::/")
    assert folders(v2) == ["sys/fs/cgroup"]


def test_path_and_mount_may_both_be_outside_of_the_namespace(v2):
    """The process was moved there after the namespace was made."""
    v2.mounts(V2_MOUNT.replace(" / /sys", " /../.. /sys"))
    v2.groups("0::/../../other")
    assert folders(v2) == ["sys/fs/cgroup/other", "sys/fs/cgroup"]


@pytest.mark.parametrize(
    ("path", "mounted"), [("/../other", "/"), ("/../..", "/.."), ("/", "/../other")]
)
def test_a_mount_that_is_not_above_bounds_nothing(v2, path, mounted):
    """The process is outside of what is mounted."""
    v2.mounts(V2_MOUNT.replace(" / /sys", f" {mounted} /sys"))
    v2.groups("0::" + path)
    assert folders(v2) == []


def test_folders_that_are_not_there_bound_nothing(v2):
    """A path that does not exist in here; what is above still counts."""
    v2.groups("0::/not/here")
    v2.write("sys/fs/cgroup/memory.max", f"{GIB}")
    assert v2.memory == GIB


def test_other_file_systems_are_no_control_groups(v2):
    """Whatever they are mounted from."""
    v2.mounts("50 1 0:9 / /sys/fs/cgroup rw - tmpfs cgroup2 rw,memory")
    assert folders(v2) == []


@pytest.mark.parametrize("name", ["cgroup", "mountinfo"])
@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"0:/", b":::::", b"- - -", b"a b c d e f - cgroup2 x", b"\0\xff \0"]
)
def test_broken_tables_bound_nothing(v2, name, content):
    """Nor do they raise."""
    v2.write("sys/fs/cgroup/memory.max", f"{GIB}")
    v2.write(f"proc/self/{name}", content)
    assert v2.memory in (GIB, 64 * GIB)


def test_a_mount_point_that_no_file_can_have_does_not_matter(v2):
    """A NUL in it."""
    v2.mounts(V2_MOUNT.replace("/sys/fs", r"/sys\000"))
    assert v2.memory == 64 * GIB


# --- GPUs ---


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts scripts in front on PATH."""
    folder = tmp_path / "bin"

    def make(name, script):
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text("#!/bin/sh\n" + script + "\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make


@pytest.fixture
def nvidia_smi(program, tmp_path, monkeypatch):
    """A stand-in that prints a text, or runs a script."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(text="", script=""):
        (tmp_path / "printed").write_bytes(text if isinstance(text, bytes) else text.encode())
        program("nvidia-smi", f"cat '{tmp_path}/printed'\n{script}")

    return make


def ids():
    return [gpu["id"] for gpu in host_info.gpus()]


def test_one_gpu(nvidia_smi):
    """What is told of it; its memory in bytes."""
    nvidia_smi("0, Tesla T4, GPU-aaaa1111, 15360, 535.161.08\n")
    assert host_info.gpus() == [
        {
            "id": 0,
            "name": "Tesla T4",
            "uuid": "GPU-aaaa1111",
            "memory": 15360 << 20,
            "driver_version": "535.161.08",
        }
    ]


def test_two_gpus(nvidia_smi):
    """In the order of nvidia-smi."""
    nvidia_smi(TWO_GPUS)
    assert [gpu["name"] for gpu in host_info.gpus()] == ["Tesla T4", "NVIDIA A100-SXM4-40GB"]


def test_the_gpus_are_in_the_whole(nvidia_smi, host):
    """As read() gives them."""
    nvidia_smi(TWO_GPUS)
    assert [gpu["id"] for gpu in host_info.read_host_info(host.root)["gpus"]] == [0, 1]


def test_what_nvidia_smi_is_asked(nvidia_smi, tmp_path):
    """Fields in the order that they are read in."""
    nvidia_smi(script=f"printf '%s\\n' \"$@\" > '{tmp_path}/argv'")
    host_info.gpus()
    assert (tmp_path / "argv").read_text().splitlines() == [
        "--query-gpu=index,name,uuid,memory.total,driver_version",
        "--format=csv,noheader,nounits",
    ]


def test_without_nvidia_smi_there_are_no_gpus(tmp_path, monkeypatch):
    """The usual host."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host_info.gpus() == []


def test_an_nvidia_smi_that_cannot_run_finds_no_gpus(program, tmp_path):
    """Made for another processor, say."""
    program("nvidia-smi", "")
    (tmp_path / "bin/nvidia-smi").write_bytes(b"\x7fELF")
    assert host_info.gpus() == []


def test_an_nvidia_smi_that_fails_finds_no_gpus(nvidia_smi):
    """Whatever it printed before."""
    nvidia_smi(TWO_GPUS, script="exit 9")
    assert host_info.gpus() == []


def test_an_nvidia_smi_that_hangs_finds_no_gpus(nvidia_smi):
    """A driver may never answer."""
    nvidia_smi(TWO_GPUS, script="exec sleep 1000")
    assert host_info.gpus(0.2) == []


def test_what_holds_the_output_of_nvidia_smi_holds_up_nothing(nvidia_smi, tmp_path):
    """A child of a wrapper."""
    nvidia_smi(script=f"sleep 1000 & echo $! > '{tmp_path}/pid'; wait")
    try:
        assert host_info.gpus(1) == []
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_hanging_nvidia_smi_is_killed(nvidia_smi, tmp_path):
    """It does not stay behind, not even as a zombie."""
    nvidia_smi(script=f"echo $$ > '{tmp_path}/pid'; exec sleep 1000")
    host_info.gpus(1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No devices were found\n",
        "Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver, 1, 2, 3\n",
        "0\n0,\n0,,\n,,,,\n",
        "²,a,b,1,c\n",
        b"\xff\xfe\0\x80" * 1000,
    ],
)
def test_garbage_is_no_gpu(nvidia_smi, text):
    """Nor does it raise."""
    nvidia_smi(text)
    assert host_info.gpus() == []


def test_messages_between_the_gpus_do_not_matter(nvidia_smi):
    """A warning of a damaged infoROM, say."""
    nvidia_smi("WARNING: infoROM is corrupted at gpu 0000:1A:00.0\n" + TWO_GPUS)
    assert ids() == [0, 1]


def test_a_name_may_have_commas(nvidia_smi):
    """They are not quoted in this CSV."""
    nvidia_smi("0, Quadro, Edition 2, really, GPU-1, 100, 535\n")
    assert host_info.gpus()[0]["name"] == "Quadro, Edition 2, really"


@pytest.mark.parametrize("word", ["[N/A]", "[Insufficient Permissions]", "[Not Supported]", "x"])
def test_memory_that_is_not_told_is_none(nvidia_smi, word):
    """In a container with a part of a GPU, and where CPU and GPU share it."""
    nvidia_smi(f"0, NVIDIA GB10, GPU-1, {word}, 580.65\n")
    assert host_info.gpus()[0]["memory"] is None


def test_a_name_that_is_not_told_is_none(nvidia_smi):
    """Every field may be in brackets."""
    nvidia_smi("0, [Unknown Error], [N/A], 100, [N/A]\n")
    gpu = host_info.gpus()[0]
    assert (gpu["name"], gpu["uuid"], gpu["driver_version"]) == (None, None, None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        (" 1 , 0 ", [1, 0]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("1,1", [1]),
        (UUIDS[1], [1]),
        ("GPU-bbbb", [1]),
        ("GPU-bbbb,GPU-aaaa", [1, 0]),
        ("GPU-", []),
        ("GPU-cccc", []),
    ],
)
def test_cuda_visible_devices(nvidia_smi, monkeypatch, visible, expected):
    """Numbers or the beginnings of UUIDs, in that order, up to the first that is not there."""
    nvidia_smi(TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ids() == expected


def test_a_gpu_without_a_uuid_is_not_chosen_by_one(nvidia_smi, monkeypatch):
    """Nor does it raise."""
    nvidia_smi("0, [N/A], [N/A], [N/A], [N/A]\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    assert ids() == []


def test_a_part_of_a_gpu_counts(nvidia_smi, monkeypatch):
    """nvidia-smi cannot be asked for its memory."""
    nvidia_smi(TWO_GPUS.splitlines()[1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert host_info.gpus() == [
        {
            "id": 1,
            "name": "NVIDIA A100-SXM4-40GB",
            "uuid": "MIG-1234",
            "memory": None,
            "driver_version": "535.161.08",
        }
    ]


def test_a_part_that_names_its_gpu_is_of_that(nvidia_smi, monkeypatch):
    """As drivers before 470 wrote it."""
    nvidia_smi(TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"MIG-{UUIDS[1]}/1/0")
    assert ids() == [1]


def test_a_part_of_one_of_several_gpus_has_no_number(nvidia_smi, monkeypatch):
    """Its UUID does not tell which."""
    nvidia_smi(TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert ids() == [None]


def test_a_part_of_no_gpu_does_not_count(nvidia_smi, monkeypatch):
    """nvidia-smi knows of none."""
    nvidia_smi("No devices were found\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert ids() == []


# --- Every Python that a host may have ---


def run(python, root, **environment):
    """What the module reads below `root` when that Python runs it on its own."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import host_info; "
        "print(json.dumps(host_info.read_host_info(sys.argv[2])))"
    )
    return json.loads(python_prints(python, code, str(root), **environment))


def python_prints(python, code, *arguments, **environment):
    argv = [python, "-B", "-s", "-W", "error", "-c", code, os.path.dirname(host_info.__file__)]
    return subprocess.run(
        [*argv, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=200,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_each_python_reads_the_limits(host_python, v2):
    """From the same files."""
    v2.write("sys/fs/cgroup/outer/cpu.max", "50000 100000")
    v2.write("sys/fs/cgroup/outer/memory.max", f"{GIB}")
    info = run(host_python, v2.root)
    assert (info["cpu_cores"], info["memory"]) == (1, GIB)


def test_each_python_reads_the_gpus(host_python, nvidia_smi, tmp_path):
    """By a program."""
    nvidia_smi(TWO_GPUS)
    assert [gpu["id"] for gpu in run(host_python, tmp_path)["gpus"]] == [0, 1]


def test_each_python_outlives_a_hanging_nvidia_smi(host_python, nvidia_smi):
    """With what its own subprocess does at a timeout."""
    nvidia_smi(TWO_GPUS, script="exec sleep 1000")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import host_info; "
    code += "print(host_info.gpus(0.2))"
    assert python_prints(host_python, code) == b"[]\n"


def test_each_python_reads_names_of_any_bytes(host_python, v2):
    """In the C locale, where Python 3.6 takes names for ASCII."""
    v2.write("proc/self/cgroup", "0::/gruppe-ä\n")
    v2.write("sys/fs/cgroup/gruppe-ä/memory.max", f"{GIB}")
    info = run(host_python, v2.root, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert info["memory"] == GIB


def test_each_python_says_its_version(host_python, tmp_path):
    """That of the host, not of the manager."""
    expected = python_prints(
        host_python, "import sys; print('%d.%d.%d' % sys.version_info[:3], end='')"
    )
    assert run(host_python, tmp_path)["python_version"] == expected.decode()


def test_the_import_loads_nothing_costly(host_python):
    """The supervisor waits for it. It has contextlib and re anyway."""
    code = (
        "import contextlib, re, sys; sys.path.insert(0, sys.argv[1]); "
        "before = set(sys.modules); "
        "import host_info; print(sorted(set(sys.modules) - before))"
    )
    assert python_prints(host_python, code) == b"['host_info']\n"
