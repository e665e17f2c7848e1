# The program that the host's Python runs. Every Python back to 2.7 can read it, so that an old
# one can report its version. It reads the sources from standard input by exact byte counts, since
# the frames of the conversation follow at once, and gives the modules private names.
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401 - stands in a comment


def read_exactly(count, progress=b""):  # type: (int, bytes) -> bytes
    chunks = []
    reported = float("-inf")
    while count > 0:
        chunk = os.read(0, min(count, 65536))
        if not chunk:
            os._exit(0)  # the manager has gone
        chunks.append(chunk)
        count -= len(chunk)
        # A slow link is not a dead one: sshd hands on some 32 kB at once.
        if progress and count > 0 and time.monotonic() - reported > 0.5:
            reported = time.monotonic()
            os.write(1, progress)
    return b"".join(chunks)


def read_line():  # type: () -> list[str]
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(1)
    return line.decode("ascii").split()


def load(token):  # type: (str) -> None
    # "-c" put the current folder, the home directory, in front: a json.py there must not be used.
    if sys.path[:1] == [""]:
        del sys.path[0]
    # The bootstrap has set this so that Python leaves LC_CTYPE alone; commands must not see it.
    os.environ.pop("PYTHONCOERCECLOCALE", None)
    if sys.version_info < (3, 6):
        version = ".".join(str(number) for number in sys.version_info[:3])
        os.write(1, (token + " old " + version + "\n").encode("ascii"))
        while True:
            read_exactly(65536)  # until the manager has gone
    words = read_line()
    keepalive, orphan_timeout, text_length, archive_length = words[:4]  # lengths of what follows
    # Nor must a json.py in PYTHONPATH, which is for functions.
    library = os.path.dirname(os.__file__)
    sys.path[:0] = [library, os.path.join(library, "lib-dynload")]
    text = read_exactly(int(text_length))
    archive = type(sys)("_lazycluster._shared.archive")  # type: Any
    exec(compile(text, "<lazycluster>/archive", "exec"), archive.__dict__)
    packed = read_exactly(int(archive_length), (token + " wait\n").encode("ascii"))
    archive.install(archive, text, packed)
    del sys.path[:2]
    remote = sys.modules["_lazycluster._remote"]  # type: Any
    remote.predecessors.end_predecessors(words[4:])
    os.write(1, (token + " python\n").encode("ascii"))
    remote.supervisor.main(float(keepalive), float(orphan_timeout))


# Not sys.exit: with PYTHONINSPECT Python would go on and read the frames as a program.
try:
    load(sys.argv[1])
except BaseException:
    import traceback

    traceback.print_exc()
    sys.stderr.flush()
    os._exit(int(sys.argv[-1]))  # the bootstrap then ends and tries no other Python
os._exit(0)
