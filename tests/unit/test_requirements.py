"""What a host is and has, compared with requirements and shown as a table."""

from __future__ import annotations

import dataclasses

import pytest

from lazycluster._runtime.host_info import HostInfo
from lazycluster.exceptions import LazyclusterError

GPU = {"id": 0, "name": "A100", "uuid": "GPU-1", "memory": 40 << 30, "driver_version": "535"}
INFO = HostInfo("web", "Linux-6.1", 4, (8 << 30) + 1, "3.11.2", [GPU])
ANYTHING = {"gpu_required": False, "min_memory": None, "min_cpu_cores": None}


@pytest.mark.parametrize(
    ("required", "met"),
    [
        ({}, True),
        ({"gpu_required": True}, True),
        ({"min_memory": 8 << 10}, True),
        ({"min_memory": (8 << 10) + 1}, False),
        ({"min_cpu_cores": 4}, True),
        ({"min_cpu_cores": 5}, False),
        ({"gpu_required": True, "min_memory": 1, "min_cpu_cores": 5}, False),
    ],
)
def test_host_meets_requirements(required, met):
    """Memory is required in MB of 2**20 bytes."""
    assert (INFO.find_lack(**{**ANYTHING, **required}) is None) is met


def test_host_without_a_gpu_does_not_meet_a_required_gpu():
    """Neither cores nor memory make up for it."""
    assert dataclasses.replace(INFO, gpus=[]).find_lack(**{**ANYTHING, "gpu_required": True})


def test_unknown_memory_is_an_error_only_where_memory_is_required():
    """The error names the host."""
    info = dataclasses.replace(INFO, memory=None)
    assert info.find_lack(**{**ANYTHING, "min_cpu_cores": 1}) is None
    with pytest.raises(LazyclusterError, match=r"^web does not report its memory"):
        info.find_lack(**{**ANYTHING, "min_memory": 0})


def test_table():
    """One line for each fact; what is unknown is called so or left out."""
    assert INFO.format().splitlines() == [
        "host              web",
        "operating system  Linux-6.1",
        "Python            3.11.2",
        "CPU cores         4",
        "memory            8192 MB",
        "GPUs              1",
        "GPU 0             A100, 40960 MB",
    ]
    unknown = dataclasses.replace(INFO, memory=None, gpus=[{**GPU, "memory": None}]).format()
    assert "memory            unknown\n" in unknown
    assert unknown.endswith("GPU 0             A100\n")
