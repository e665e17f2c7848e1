"""Name what an object refers to, as a user calls it: a global, an attribute, a key."""

import ast
import contextlib
import dis
import functools
import itertools
import linecache
import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Union

    Referent = tuple[str, Any]  # such as "global `DB`", and the object
    Function = Union[types.FunctionType, Any]

GLOBAL = "global"
ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes, bytearray])
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))  # type: Any
_MOST_CELLS = 100000  # of a table that are looked at


def referents(obj: "Any") -> "Iterator[Referent]":
    """Yield the objects that an object holds, with their names; "" if the name says nothing.

    No code of the user runs, except what `__getattribute__` of a class does.
    """
    if isinstance(obj, types.FunctionType):
        yield from _of_function(obj)
    elif isinstance(obj, (types.MethodType, types.BuiltinMethodType)):
        yield "", getattr(obj, "__func__", None)
        yield "`__self__`", obj.__self__
    elif isinstance(obj, functools.partial):
        yield "", obj.func
        for number, value in enumerate(obj.args, 1):
            yield "positional argument {} of the partial".format(number), value
        for name, value in obj.keywords.items():
            yield "argument `{}` of the partial".format(name), value
    elif isinstance(obj, type):
        yield from _of_class(obj)
    elif isinstance(obj, types.ModuleType):
        for name, value in vars(obj).copy().items():
            yield "`{}.{}`".format(obj.__name__, name), value
    elif isinstance(obj, property):
        for accessor in (obj.fget, obj.fset, obj.fdel):
            yield "", accessor
    elif isinstance(obj, (classmethod, staticmethod)):
        yield "", obj.__func__
    else:
        yield from _of_instance(obj)


def _of_function(function: "Any") -> "Iterator[Referent]":
    code, namespace = function.__code__, function.__globals__
    for name in _globals_in(code):
        if name in namespace:
            yield "{} `{}`".format(GLOBAL, name), namespace[name]
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            yield "closure variable `{}`".format(name), cell.cell_contents
        except ValueError:  # it is empty
            pass
    positional = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for name, value in zip(positional[len(positional) - len(defaults) :], defaults):
        yield "default of `{}`".format(name), value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield "default of `{}`".format(name), value
    for name, value in function.__dict__.copy().items():
        yield "`__wrapped__`" if name == "__wrapped__" else "attribute `{}`".format(name), value
    if sys.version_info < (3, 14):  # there, asking for annotations runs them
        for name, value in function.__annotations__.items():
            yield "annotation of `{}`".format(name), value


def _globals_in(code: "types.CodeType") -> "Iterator[str]":
    """Yield the names of the globals in code, and in the code within it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_in(constant)


def _of_class(kind: "type") -> "Iterator[Referent]":
    for base in kind.__bases__:
        yield "base class `{}`".format(base.__name__), base
    for name, value in dict(vars(kind)).items():
        if isinstance(value, (types.FunctionType, classmethod, staticmethod)):
            yield "method `{}`".format(name), value
        elif isinstance(value, property):
            yield "property `{}`".format(name), value
        else:
            yield "class attribute `{}`".format(name), value
    yield "metaclass `{}`".format(type(kind).__name__), type(kind)


def _of_instance(obj: "Any") -> "Iterator[Referent]":
    kind = type(obj)
    if kind.__module__.partition(".")[0] == "pandas" and hasattr(obj, "dtypes"):
        yield from itertools.islice(_of_table(obj), _MOST_CELLS)
        return
    attributes = getattr(obj, "__dict__", None)
    if isinstance(attributes, dict):
        for name, value in attributes.copy().items():
            yield "`__wrapped__`" if name == "__wrapped__" else "attribute `{}`".format(name), value
    for base in kind.__mro__:
        for name, member in vars(base).items():
            # Of __slots__, and of classes written in C; a SimpleNamespace has one for __dict__.
            if isinstance(member, types.MemberDescriptorType) and name != "__dict__":
                with contextlib.suppress(Exception):  # it is not set
                    yield "attribute `{}`".format(name), member.__get__(obj, kind)
    if isinstance(obj, BaseException):
        for number, value in enumerate(obj.args):
            yield "`args[{}]`".format(number), value
    elif isinstance(obj, types.MappingProxyType):
        for key, value in obj.items():
            yield "key {}".format(key_text(key)), value
    elif isinstance(obj, _VIEWS):
        for number, value in enumerate(obj):
            yield item(number), value
    elif isinstance(obj, tuple):
        fields = getattr(kind, "_fields", ())
        for number, value in enumerate(tuple.__iter__(obj)):
            named = number < len(fields)
            yield "field `{}`".format(fields[number]) if named else item(number), value
    elif isinstance(obj, (set, frozenset)):
        for value in set.__iter__(obj) if isinstance(obj, set) else frozenset.__iter__(obj):
            yield "a member", value
    elif kind.__module__.partition(".")[0] == "numpy" and hasattr(obj, "ndim"):
        yield from _of_array(obj)
    yield "class `{}`".format(kind.__name__), kind


def _of_array(array: "Any") -> "Iterator[Referent]":
    if array.dtype.kind == "O":
        for number, value in enumerate(array.flat):
            index = []  # type: list[int]
            left = number
            for length in reversed(array.shape):
                left, position = divmod(left, length)
                index.insert(0, position)
            yield item(*index), value


def _of_table(table: "Any") -> "Iterator[Referent]":
    """Yield the objects in a DataFrame or a Series of pandas."""
    if table.ndim == 2:
        for name, column in table.items():
            for row, value in _of_table(column):
                yield "column {}, {}".format(key_text(name), row), value
    elif table.dtype.kind == "O":
        for number, value in enumerate(table.array):
            if type(value) not in ATOMS:
                yield "row {}".format(number), value


def item(*index: "int") -> "str":
    """Return the name of an item of a sequence or an array."""
    return "item {}".format(index[0] if len(index) == 1 else list(index))


def key_text(key: "Any") -> "str":
    """Return a key of a dict; of one that is not of a basic type, only what it is."""
    parts = key if type(key) is tuple and len(key) <= 4 else (key,)
    if any(type(part) not in ATOMS for part in parts):
        return "({})".format(kind_of(key))
    text = repr(key)
    return text if len(text) <= 60 else text[:60] + "…"


def kind_of(obj: "Any") -> "str":
    """Return what an object is, such as sqlite3.Connection."""
    if isinstance(obj, types.FunctionType):
        return "function"
    if isinstance(obj, types.ModuleType):
        return "module {}".format(obj.__name__)
    kind = obj if isinstance(obj, type) else type(obj)
    name = kind.__qualname__.rpartition("<locals>.")[2]
    if kind.__module__ not in ("builtins", "__main__", None):
        name = "{}.{}".format(kind.__module__, name)
    return "class {}".format(name) if isinstance(obj, type) else name


# --- Where it is ---


def find_place(steps: "list[tuple[str, Any]]") -> "str | None":
    """Return the place of the last step from a function, class or module, see `place`."""
    found = None
    for (_, owner), (name, _) in zip(steps, steps[1:]):
        if name and isinstance(owner, (type, types.FunctionType, types.ModuleType)):
            found = place(owner, name) or found
    return found


def place(owner: "Any", name: "str") -> "str | None":
    """Return where a function, class or module gets what is called `name`: "train.py:12".

    It is the line that assigns a global, or a name in a class or module; if there is none, and for
    all else, the first line of the function. It is None without a file, as in a notebook.
    """
    bare = name.partition("`")[2].rstrip("`").rpartition(".")[2]
    if isinstance(owner, (type, types.ModuleType)):
        scope = owner.__name__ if isinstance(owner, type) else None
        module = sys.modules.get(owner.__module__) if isinstance(owner, type) else owner
        file = getattr(module, "__file__", None)
        line = _assigning_line(file, bare, scope) if file else None
    else:
        file = owner.__code__.co_filename
        line = _assigning_line(file, bare) if name.startswith(GLOBAL) else None
        line = line or owner.__code__.co_firstlineno
    # Neither `<stdin>` nor a notebook's cell is a file that the user knows.
    if not file or not line or file.startswith("<") or "ipykernel" in file or is_of_library(file):
        return None
    folder = os.path.join(os.getcwd(), "")
    return "{}:{}".format(file[len(folder) :] if file.startswith(folder) else file, line)


def is_of_library(file: "str") -> "bool":
    """Return True if a file is of the standard library or of an installed package."""
    return _is_in_packages(file) or is_of_standard_library(file)


def is_of_standard_library(file: "str") -> "bool":
    """Return True if a file is of the standard library."""
    library = os.path.join(os.path.dirname(os.__file__), "")
    return file.startswith(library) and not _is_in_packages(file)


def _is_in_packages(file: "str") -> "bool":
    return not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))


def _assigning_line(file: "str", name: "str", scope: "str | None" = None) -> "int | None":
    """Return the first line of a file that binds a name at the top, or in the class `scope`."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    bodies = [tree]  # type: list[ast.AST]
    if scope is not None:
        bodies = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == scope]
    for body in bodies:
        lines = [
            node.lineno
            for node in _within(body)
            if (isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store))
            or (isinstance(node, _SCOPES) and getattr(node, "name", None) == name)
        ]
        if lines:
            return min(lines)
    return None


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _within(body: "ast.AST") -> "Iterator[Any]":
    """Yield the nodes of a scope, without those of the functions and classes in it."""
    for node in ast.iter_child_nodes(body):
        yield node
        if not isinstance(node, _SCOPES):
            yield from _within(node)
