"""The steps that copy files, and the names of files as JSON and as this Python have them.

Names and values on the host are bytes that need not be UTF-8. In JSON they are UTF-8 with
surrogates for other bytes; in this Python they depend on the locale.
"""

import os

from .._shared import paths
from .streams import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel

    Outcome = dict[str, Any]  # see `frames`


def to_bytes(text: "str") -> "bytes":
    """Return the bytes of a name or value from JSON."""
    return text.encode("utf-8", "surrogateescape")


def to_settings(
    working_dir: "str | None", environment: "dict[str, str]"
) -> "tuple[bytes | None, dict[bytes, bytes]]":
    """Return the working directory and the variables of a step, as `child.settle` takes them.

    PWD is the working directory as the user wrote it, which getcwd() would resolve through links.
    """
    if working_dir is not None:
        environment = dict({"PWD": working_dir}, **environment)
    variables = {to_bytes(name): to_bytes(value) for name, value in environment.items()}
    return None if working_dir is None else to_bytes(working_dir), variables


def to_native(text: "str") -> "str":
    """Return a name from JSON as this Python has it under its locale."""
    return os.fsdecode(to_bytes(text))


def to_text(path: "str | bytes") -> "str":
    """Return a path of this host for JSON, the opposite of `to_bytes` and `to_native`."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def os_failure(error: "OSError") -> "Outcome":
    """Return an OSError as an outcome."""
    path = error.filename if error.filename is None else to_text(error.filename)
    message = error.strerror or str(error)
    added = ": {!r}".format(error.filename)  # by subprocess of Python 3.6
    if message.endswith(added):
        message = message[: -len(added)]
    return {"failure": "os", "errno": error.errno, "message": message, "path": path}


def list_destination(target: "str", name: "str | None", channel: "Channel") -> "Outcome":
    """Send the list of what is where a copy goes as the value; return the outcome."""
    from .._shared import listing

    native = None if name is None else to_native(name)
    for piece in listing.make_list(paths.copy_path(to_native(target), native)):
        channel.write(piece)
    return {"result": None}


def send(
    path: "str", measured: "bool", options: "dict[str, Any]", payload: "int", channel: "Channel"
) -> "Outcome":
    """Send a file or folder as the value, a stream; return the outcome.

    With `only_changed` the list of the destination comes through the payload pipe.
    """
    from .._shared import listing, tree_stream

    only_changed = options.pop("only_changed", False)
    packer = tree_stream.Packer(paths.expand(to_native(path)), **options)
    if only_changed:
        packer.scan()
        packer.compare(listing.read_framed(lambda count: os.read(payload, count)))
    for chunk in packer.stream(measured):
        channel.write(chunk)
    return {"result": None}


def receive(
    payload: "int",
    channel: "Channel",
    target: "str",
    name: "str | None",
    options: "dict[str, Any]",
) -> "Outcome":
    """Write the stream from the payload pipe to its destination; return the outcome."""
    from .._shared.unpacker import Unpacker

    def note(path: "str") -> "None":
        # If this process is killed, the supervisor removes the temporary.
        channel.report({"temporary": to_text(path)})

    native = None if name is None else to_native(name)
    unpacker = Unpacker(to_native(target), native, on_temporary=note, **options)
    buffer = memoryview(bytearray(READ))
    try:
        while not unpacker.is_complete:
            count = os.readv(payload, [buffer])
            if not count:
                break
            unpacker.feed(buffer[:count])
        skipped = unpacker.finish()
    except OSError as error:
        return dict(os_failure(error), there=unpacker.failed_there)
    listed = [[to_text(path), what] for path, what in skipped]
    return {"result": to_text(unpacker.path), "skipped": listed}
