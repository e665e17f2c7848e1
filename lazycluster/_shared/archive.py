"""Pack modules for a host: bytecode for a Python like the manager's, text for any other.

Compiling the host's half takes as long as starting a Python. Both forms together, compressed, are
smaller than the uncompressed text. An archive holds a tag for the Python whose bytecode it has,
the bytecode, and the text.
"""

import _frozen_importlib_external  # importlib.util takes 18 ms in Python 3.9
import marshal
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Container
    from typing import Any, Callable

TEXT_FORMAT = 2  # of marshal, which every Python reads

# On a host: the text of this module, and the archives that the manager has sent, in their order.
sources = []  # type: list[bytes]


def pack(
    sources: "dict[str, str]",
    seldom: "Container[str]" = (),
    find_code: "Callable[[str], types.CodeType | None]" = lambda _: None,
) -> "bytes":
    """Return an archive of modules, given by their names.

    Args:
        sources: Their texts.
        seldom: Those that are seldom imported. They are compiled where that happens.
        find_code: Returns the bytecode of a module, or None; then it is compiled.
    """
    codes = {}  # type: dict[str, Any]
    for name, source in sources.items():
        codes[name] = source if name in seldom else find_code(name) or _compile(name, source)
    code = zlib.compress(marshal.dumps(codes))
    text = zlib.compress(marshal.dumps(sources, TEXT_FORMAT))
    return marshal.dumps((_tag(), code, text), TEXT_FORMAT)


def unpack(data: "bytes") -> "dict[str, Any]":
    """Return the code of each module, or its text, either for `execute`.

    Raises:
        ValueError, TypeError: If the archive is malformed.
    """
    try:
        tag, code, text = marshal.loads(data)
        part = code if tag == _tag() else text
        return marshal.loads(zlib.decompress(part))  # type: ignore[no-any-return]
    except (zlib.error, EOFError) as error:
        raise ValueError(str(error)) from error


def execute(content: "Any", module: "types.ModuleType") -> "None":
    """Execute the content that `unpack` returned for a module, in that module."""
    if isinstance(content, str):
        content = _compile(module.__name__, content)
    exec(content, module.__dict__)


def install(own: "types.ModuleType", text: "bytes", packed: "bytes") -> "None":
    """Make the host's half of the package from the archive of its modules.

    Args:
        own: This module, executed before it is in `sys.modules`.
        text: Its text.
        packed: The archive.
    """
    sources.extend((text, packed))
    root = _new_package("_lazycluster")
    for name in ("_shared", "_remote"):
        setattr(root, name, _new_package("_lazycluster." + name))
    _register(own)
    for name, content in unpack(packed).items():
        execute(content, _register(type(sys)("_lazycluster." + name)))


def _new_package(name: "str") -> "types.ModuleType":
    package = type(sys)(name)
    package.__path__ = []
    package.__package__ = name
    sys.modules[name] = package
    return package


def _register(module: "types.ModuleType") -> "types.ModuleType":
    parent, _, last = module.__name__.rpartition(".")
    module.__package__ = parent
    sys.modules[module.__name__] = module
    setattr(sys.modules[parent], last, module)
    return module


def file_name(name: "str") -> "str":
    """Return what stands for the file of a module in its code."""
    return "<lazycluster>/" + name


def _compile(name: "str", text: "str") -> "types.CodeType":
    """Compile without docstrings, which are an eighth of the compressed bytecode."""
    return compile(text, file_name(name), "exec", dont_inherit=True, optimize=2)


def _tag() -> "bytes":
    """Return what two Pythons have in common if they read each other's bytecode."""
    return sys.implementation.name.encode("ascii") + _frozen_importlib_external.MAGIC_NUMBER
