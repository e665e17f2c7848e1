"""Run a case of the table where its code can stand: in a script, a module or a notebook."""

from __future__ import annotations

import ast
import hashlib
import importlib
import linecache
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lazycluster import Runtime
from lazycluster.exceptions import SerializationError
from support.matrix.cases import Case, read_cases

_LOCAL_PACKAGE = "work_of_matrix"


def parameters(*, libraries: bool) -> list[Any]:
    """Return the parameters of a test: each case in each place, of libraries or of all the rest."""
    found = []
    for case in read_cases():
        reason = "new in Python {}.{}".format(*case.since)
        skip = pytest.mark.skipif(sys.version_info < case.since, reason=reason)
        if (case.kind == "libraries") == libraries:
            found += [
                pytest.param(case, place, id=case.id(place), marks=skip) for place in case.places
            ]
    return found


class Host:
    """What the expressions of cases call."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value of a function on the host."""
        return self.runtime.call(function, *args, **kwargs)

    def error(self, function: Any, /, *args: Any, **kwargs: Any) -> Exception:
        """Return what a function raises on the host."""
        with pytest.raises(Exception) as caught:  # noqa: PT011
            self.runtime.call(function, *args, **kwargs)
        return caught.value

    @staticmethod
    def text(error: BaseException) -> str:
        """Return the last line of a traceback."""
        return f"{type(error).__name__}: {error}"

    @staticmethod
    def trace(error: BaseException) -> str:
        """Return the traceback on the host."""
        return str(error.__cause__)

    def helpers(self) -> dict[str, Any]:
        """Return what an expression sees beside the names of the script."""
        names = ("runtime", "call", "error", "text", "trace")
        helpers = {name: getattr(self, name) for name in names}
        return {**helpers, "SerializationError": SerializationError}


def check(case: Case, place: str, host: Host, folder: Path, monkeypatch: Any) -> None:
    """Run the code of a case in a place, and compare the values of its expressions."""
    for path, text in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        os.utime(folder / path, (10**9, 10**9))  # older than this process, as most files are
    monkeypatch.syspath_prepend(folder)
    before = dict(sys.modules)
    try:
        main = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", main)
        names = vars(_PUT[place](case.code, folder, main))
        for expression, expected in case.checks:
            seen = {**names, **host.helpers()}
            value = eval(compile(expression, "<expression>", "eval", dont_inherit=True), seen)
            assert value == eval(expected, seen), f"{expression}\ngives {value!r}"
    finally:
        new = [name for name in sys.modules if name not in before]
        for name in [name for name in new if _is_of(sys.modules[name], folder)]:
            del sys.modules[name]
        for name, module in before.items():  # what a case has replaced
            if name != "__main__" and sys.modules.get(name) is not module:
                sys.modules[name] = module
        sys.path_importer_cache.clear()


def _is_of(module: types.ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    paths = [file] if file else list(getattr(module, "__path__", []))
    return not paths or any(str(path).startswith(str(folder)) for path in paths)


def _put_script(code: str, folder: Path, main: types.ModuleType) -> types.ModuleType:
    path = folder / "main.py"
    path.write_text(code, encoding="utf-8")
    vars(main).update(__file__=str(path), FOLDER=str(folder))
    exec(compile(code, str(path), "exec", dont_inherit=True), vars(main))
    return main


def _put_module(code: str, folder: Path, main: types.ModuleType) -> types.ModuleType:
    package = folder / _LOCAL_PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "case.py").write_text(code, encoding="utf-8")
    main.__file__ = str(folder / "main.py")
    return importlib.import_module(f"{_LOCAL_PACKAGE}.case")


def _put_notebook(code: str, folder: Path, main: types.ModuleType) -> types.ModuleType:
    """Run each statement as a cell of its own, as ipykernel does."""
    flags = 0
    lines = code.splitlines(keepends=True)
    statements = ast.parse(code).body
    starts = [_first_line(statement) - 1 for statement in statements]
    starts[0] = 0
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        cell = "".join(lines[start:end])
        digest = hashlib.sha256(cell.encode()).hexdigest()[:10]
        path = f"{folder}/ipykernel_4711/{digest}.py"
        linecache.cache[path] = (len(cell), None, cell.splitlines(keepends=True), path)
        compiled = compile(cell, path, "exec", flags, dont_inherit=True)
        flags |= compiled.co_flags & _FUTURE_FLAGS
        exec(compiled, vars(main))
    return main


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


_FUTURE_FLAGS = importlib.import_module("__future__").annotations.compiler_flag
_PUT = {"script": _put_script, "module": _put_module, "notebook": _put_notebook}
