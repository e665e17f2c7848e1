"""Modules on their way to a host: bytecode for a Python like the manager's, text for any other.

To compile the host's half takes as long as to start a Python. Both forms together, compressed, are
still less than the text is. What an archive holds: the lengths of its parts, what tells whose
bytecode it is, the bytecode, the text.
"""

import importlib.util
import marshal
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any

TEXT_FORMAT = 2  # of marshal, which every Python reads


def pack(sources: "dict[str, str]") -> "bytes":
    """Modules by name, as `unpack` takes them."""
    codes = {name: _compile(name, text) for name, text in sources.items()}
    code = zlib.compress(marshal.dumps(codes))
    text = zlib.compress(marshal.dumps(sources, TEXT_FORMAT))
    tag = _tag()
    return b"%d %d %d\n" % (len(tag), len(code), len(text)) + tag + code + text


def unpack(data: "bytes") -> "dict[str, Any]":
    """For each module its code, or its text, either for `execute`.

    Raises:
        ValueError, TypeError: It makes no sense.
    """
    head, _, rest = data.partition(b"\n")
    tag, code, text = (int(size) for size in head.split())
    if rest[:tag] == _tag():
        part = rest[tag : tag + code]
    else:
        part = rest[tag + code : tag + code + text]
    try:
        return marshal.loads(zlib.decompress(part))  # type: ignore[no-any-return]
    except (zlib.error, EOFError) as error:
        raise ValueError(str(error)) from error


def execute(content: "Any", module: "types.ModuleType") -> "None":
    """Run what `unpack` gave for a module in it."""
    if isinstance(content, str):
        content = _compile(module.__name__, content)
    exec(content, module.__dict__)


def _compile(name: "str", text: "str") -> "types.CodeType":
    """As it is, whatever `-O` this Python was started with."""
    return compile(text, "<lazycluster>/" + name, "exec", dont_inherit=True, optimize=0)


def _tag() -> "bytes":
    """What two Pythons have in common if they read each other's bytecode."""
    return sys.implementation.name.encode("ascii") + importlib.util.MAGIC_NUMBER
