"""Start another Python for a call whose variables Python, or the C library, reads at its start.

The process of a step is a fork of a running Python, which has read them long ago. It is replaced
by a new one: the pid, the process session and the pipes stay. What the manager has sent comes to
the new one through the payload pipe, in front of the job.
"""

import importlib.machinery
import marshal
import os
import sys

from .._shared import archive
from .files import to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Python's own; ld.so's; the allocators' of glibc, macOS, jemalloc, tcmalloc and mimalloc.
_PREFIXES = (
    *("PYTHON", "LD_", "DYLD_", "OBJC_"),
    *("LOCPATH", "GLIBC_TUNABLES", "MALLOC_", "Malloc", "TCMALLOC_", "MIMALLOC_"),
)
_SUFFIX = "SAN_OPTIONS"  # of the sanitizers of gcc and clang
# Python, or our own code, looks at these when it needs them, or not at all in a function.
_READ_LATER = (
    *("PYTHONUNBUFFERED", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONDOCS"),
    *("PYTHONASYNCIODEBUG", "PYTHON_HISTORY", "PYTHON_COLORS", "PYTHON_BASIC_REPL"),
)
_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")  # the first that is not empty decides about encodings
_HOOKS = ("sitecustomize", "usercustomize")

# The program of the new Python. Nothing of the user's is in it: an argv is visible to all accounts.
_PROGRAM = """
import marshal, os, sys
if sys.path[:1] == [""]:
    del sys.path[0]
library = os.path.dirname(os.__file__)
sys.path[:0] = [library, os.path.join(library, "lib-dynload")]
size, *fds = map(int, sys.argv[1:])
data = b""
while len(data) < size:
    chunk = os.read(fds[0], size - len(data))
    if not chunk:
        os._exit(0)
    data += chunk
sources = marshal.loads(data)
own = type(sys)("_lazycluster._shared.archive")
exec(compile(sources[0], "<lazycluster>/archive", "exec"), own.__dict__)
own.install(own, *sources[:2])
del sys.path[:2]
sys.modules["_lazycluster._remote.child"].go_on(sources[2:], *fds)
"""


def snapshot() -> "bytes":
    """Return what a new Python needs to go on."""
    return marshal.dumps(archive.sources)


def read_at_start(environment: "dict[str, str]") -> "list[str]":
    """Return the names of the variables that only a new Python would obey.

    A variable that has that value already is none of them, nor is a PYTHONPATH that `insert_path`
    can put into effect.
    """
    names = [name for name in environment if name in _LOCALE or _needs_start(name)]
    if not names:
        return []
    changed = {name: environment[name] for name in names if _differs(name, environment[name])}
    if _locale(changed) == _locale({}):
        return sorted(set(changed) - set(_LOCALE))
    return sorted(changed)


def _locale(changed: "dict[str, str]") -> "str":
    """Return the locale that decides about encodings after some variables have changed."""
    values = (changed.get(name, os.environ.get(name)) for name in _LOCALE)
    return next(filter(None, values), "")


def _needs_start(name: "str") -> "bool":
    if name.startswith("PYTHON"):
        # `os.environ` has what it had at the start.
        in_place = name in _READ_LATER or (name == "PYTHONPATH" and not os.environ.get(name))
        return not in_place and not sys.flags.ignore_environment
    if name == "HOME":
        return _has_user_site()
    return name.startswith(_PREFIXES) or name.endswith(_SUFFIX)


def _differs(name: "str", value: "str") -> "bool":
    return os.environb.get(to_bytes(name)) != to_bytes(value)


def _has_user_site() -> "bool":
    """Return True if Python has looked for packages in the home directory at its start."""
    site = sys.modules.get("site")
    return bool(getattr(site, "ENABLE_USER_SITE", None)) and not os.environ.get("PYTHONUSERBASE")


def insert_path(value: "str") -> "None":
    """Put the folders of a PYTHONPATH into `sys.path`, as a Python does that starts here and now.

    A Python that had no PYTHONPATH must be running.
    """
    if sys.flags.ignore_environment or not value:
        return
    folders = [os.path.abspath(folder) for folder in value.split(os.pathsep)]
    folders = sorted(set(folders), key=folders.index)
    sys.path[:] = folders + [entry for entry in sys.path if entry not in folders]
    if sys.flags.no_site:
        return
    for name in _HOOKS:
        if importlib.machinery.PathFinder.find_spec(name, folders) is not None:
            site = importlib.import_module("site")
            if name == "sitecustomize" or site.ENABLE_USER_SITE:
                sys.modules.pop(name, None)
                getattr(site, "exec" + name)()


def replace(size: "int", *fds: "int") -> "NoReturn":
    """Replace this process by a new Python, which reads a snapshot of `size` bytes, then the job.

    It reads from the first of `fds`, which it inherits.

    Raises:
        OSError: If there is no such program, or the variables are too long for it.
    """
    for fd in fds:
        os.set_inheritable(fd, True)
    # As in the bootstrap: Python must not change LC_CTYPE for the programs that a function starts.
    os.environ.setdefault("PYTHONCOERCECLOCALE", "0")
    words = [sys.executable, *_options(), "-c", _PROGRAM, *map(str, (size, *fds))]
    os.execv(sys.executable, words)


def _options() -> "list[str]":
    """Return the options that this Python was started with by the bootstrap."""
    words = getattr(sys, "orig_argv", None)  # from 3.10 on
    if words is None:
        try:
            with open("/proc/self/cmdline", "rb") as file:
                words = [os.fsdecode(word) for word in file.read().split(b"\0")]
        except OSError:
            import subprocess

            return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]
    return list(words[1 : words.index("-c")])
