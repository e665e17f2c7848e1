"""What a Pool holds on the manager does not grow with the number of its calls."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.programs import mapping_manager
from support.programs.mapping_manager import BUFFER, CHUNK, FEW, MANY, SIZE

HOSTS = [f"web{number}" for number in range(1, 9)]
TOLERANCE = 3 * BUFFER * SIZE
"""Bytes. How full the buffer becomes is chance: inputs, their pickles and the values take 38 MB."""


@pytest.fixture(scope="module")
def found(sshd, tmp_path_factory):
    """Return what a manager of eight hosts held after few inputs and after many."""
    text = sshd.config_file.read_text()
    config_file = tmp_path_factory.mktemp("memory") / "ssh_config"
    config_file.write_text(text.replace(f"Host {sshd.alias}\n", f"Host {' '.join(HOSTS)}\n"))
    argv = [sys.executable, mapping_manager.__file__, str(config_file), *HOSTS]
    ran = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return json.loads(ran.stdout)


def test_map_with_a_buffer_has_flat_memory(found):
    """The inputs of the longer map are 200 MB, as are the values; without a buffer that is seen."""
    few, many = found["few"], found["many"]
    assert (few["values"], many["values"]) == (FEW, MANY)
    assert many["peak"] - few["peak"] < TOLERANCE
    assert found["unbounded"]["peak"] - few["peak"] > TOLERANCE


def test_map_reads_no_more_inputs_than_its_buffer_has(found):
    """Of those whose values were not yielded; the one that is yielded now is read, too."""
    assert BUFFER - CHUNK < found["many"]["ahead"] <= BUFFER + 1


def test_calls_that_have_ended_leave_no_object(found):
    """Less than one for each call."""
    calls = (MANY - FEW) // CHUNK
    assert found["many"]["objects"] - found["few"]["objects"] < calls // 4
