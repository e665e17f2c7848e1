"""Data files that are served from memory, with each Python that a host may have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import lazycluster

PROGRAM = """
import json, sys
namespace = {"__name__": "resources"}
with open(sys.argv[1]) as file:
    exec(compile(file.read(), "resources.py", "exec"), namespace)
files = namespace["Files"]()
files.add({"/m/pack/a.txt": "z\\u00f6".encode(), "/m/pack/sub/b.bin": b"\\x00\\xff"})
files.add({"/m/other/c": b"c"})
reader = namespace["Reader"](files, "/m/pack")
found = {"by path": files.read("/m/other/../other/c").decode()}
try:
    files.read("/m/pack/none")
except FileNotFoundError as error:
    found["missing"] = error.filename
found["reader"] = [sorted(reader.contents()), reader.is_resource("a.txt"),
                   reader.is_resource("sub"), reader.open_resource("a.txt").read().decode()]
try:
    reader.resource_path("a.txt")
except FileNotFoundError:
    found["path"] = None
print(json.dumps(found))
"""


def test_files_are_served_from_memory(host_python):
    source = Path(lazycluster.__file__).parent / "_remote" / "resources.py"
    result = subprocess.run(
        [host_python, "-I", "-c", PROGRAM, str(source)], stdout=subprocess.PIPE, check=True
    )
    assert json.loads(result.stdout) == {
        "by path": "c",
        "missing": "/m/pack/none",
        "reader": [["a.txt", "sub"], True, False, "zö"],
        "path": None,
    }
