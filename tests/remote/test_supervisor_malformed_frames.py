"""F47 on the host's half: whatever comes in place of a manager's frames, it ends and tidies up."""

from __future__ import annotations

import json

import pytest

from lazycluster._shared import frames
from support.pipe_host import command
from support.processes import await_gone


def request(content, number=2):
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    return frames.encode(frames.REQUEST, number, payload)


STEP = {"working_dir": None, "environment": {}, "task": None}
MALFORMED = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(100),
    "absurd length": frames.HEADER.pack(frames.REQUEST, 2, 2**32 - 1),
    "a kind of its own": frames.encode(frames.OUTPUT, 1, b"hi"),
    "no JSON": request(b"{"),
    "no ASCII": request(b"\xff"),
    "JSON without end": request(b"[" * 200_000),
    "no object": request([1]),
    "no steps": request({**STEP, "steps": []}),
    "steps that are none": request({**STEP, "steps": 1}),
    "a step that is none": request({**STEP, "steps": [1]}),
    "a step of no kind": request({**STEP, "steps": [{}]}),
    "a command that is none": request({**STEP, "steps": [{"kind": "command", "command": 1}]}),
    "a number that is taken": request({**STEP, "steps": [command("true")]}, number=1),
    "a grace that is none": frames.encode(frames.KILL, 1, b'{"grace": "x"}'),
    "modules that are none": frames.encode(frames.MODULES, 0, b"1"),
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_f47_malformed_frames_end_the_supervisor(new_own_host, said):
    """With one line that holds nothing of it, and with all that it had started."""
    asked = new_own_host.ask(command("echo here; exec sleep 1000"))
    new_own_host.wait_for_output(asked)
    new_own_host.write(said)
    assert new_own_host.wait_for_end() == 0
    await_gone(asked.pids)
    errors = new_own_host.errors()
    assert errors.startswith("lazycluster: the manager sent data that violates the protocol: ")
    assert len(errors.splitlines()) == 1
