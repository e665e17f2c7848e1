"""Which part of the library may import which, and that modules do not import in a circle.

Imports under TYPE_CHECKING and inside functions count as well: they tie modules together, too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lazycluster

COMMON = {"exceptions", "_checks", "_text", "_spool", "_interpreter_exit", "_tracebacks", "_waits"}
"""Modules that every part of the manager's side may import."""

PACKAGES = COMMON | {"_ssh", "_conversation", "_functions", "_tasks", "_shared"}

BELOW_GROUPS = PACKAGES | {
    "_fabric",
    "_runtime",
    "connection",
    "futures",
    "processes",
    "runtimes",
    "tasks",
}

MAY_IMPORT = {
    "_shared": set(),
    "_remote": {"_shared"},
    **dict.fromkeys(COMMON, COMMON),
    "_ssh": COMMON | {"_shared"},
    "_conversation": COMMON | {"_shared", "_ssh"},
    "_functions": COMMON | {"_shared"},
    "_tasks": COMMON | {"_shared", "_conversation", "_functions"},
    "_pyinstaller": set(),
    "_fabric": PACKAGES | {"connection"},
    "_runtime": PACKAGES
    | {"connection", "forwards", "processes", "futures", "actors", "shared_values"},
    "utils": PACKAGES,
    "forwards": PACKAGES,
    "processes": PACKAGES | {"forwards"},
    "futures": PACKAGES,
    "actors": PACKAGES | {"futures"},
    "shared_values": PACKAGES,
    "connection": PACKAGES | {"forwards"},
    "_last_execution": PACKAGES | {"processes"},
    "tasks": PACKAGES | {"processes", "connection", "_fabric", "_last_execution"},
    "_pool": PACKAGES | {"_runtime", "runtimes"},
    "pool": PACKAGES
    | {"_fabric", "_runtime", "_pool", "connection", "futures", "runtimes", "shared_values"},
    "runtimes": PACKAGES | {"processes", "connection", "tasks", "_runtime", "_fabric"},
    "_group": BELOW_GROUPS,
    "groups": BELOW_GROUPS | {"_group"},
    "manager": BELOW_GROUPS | {"_group", "groups"},
    "runtime_mgmt": {"groups", "manager"},
}
"""Part (a package, or a module at the top) → the other parts that it may import."""

NOT_INSTALLED = {"_shared": set(), "_remote": {"cloudpickle"}}
"""Part that runs on hosts → what the manager sends besides, so that it may be imported there."""


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return what each module of the package in a folder imports.

    Modules of the package are named without its own name; the package itself, whose `__init__`
    re-exports the public names, is "". All other modules keep their names.
    """
    paths = {module_name(path.relative_to(root)): path for path in root.rglob("*.py")}
    imports = {}
    for module, path in paths.items():
        here = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        names = set(imported_names(ast.parse(path.read_text()), [root.name, *filter(None, here)]))
        imports[module] = {shorten(name, root.name, set(paths)) for name in names} - {module}
    return imports


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield the full name of each thing that is imported, in a module of that package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join(filter(None, [*base, node.module, a.name])) for a in node.names)


def shorten(name: str, package: str, modules: set[str]) -> str:
    """Return the module that an imported name is or belongs to; as it is, if not of the package."""
    if name.split(".")[0] != package:
        return name
    inside = name.split(".")[1:]
    while ".".join(inside) not in modules:
        inside.pop()  # a name in the module
    return ".".join(inside)


def find_violations(imports: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that the tables do not allow, as (module, imported)."""
    return {
        (module, imported)
        for module, names in imports.items()
        for imported in names
        if module and not is_allowed(module, imported, imported in imports)
    }


def is_allowed(module: str, imported: str, ours: bool) -> bool:
    part, other = module.split(".")[0], imported.split(".")[0]
    if ours:
        return other == part or other in MAY_IMPORT[part]
    if part not in NOT_INSTALLED or sys.version_info < (3, 10):
        return True
    return other in sys.stdlib_module_names or other in NOT_INSTALLED[part]


def find_circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules of which each imports, directly or not, each other."""
    reached = {module: reachable(module, imports) for module in imports}
    circles = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in imports
        if module in reached[module]
    }
    return sorted(map(list, circles))


def reachable(module: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [module]
    while pending:
        new = imports[pending.pop()] & imports.keys() - found
        found |= new
        pending += new
    return found


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    found = read_imports(Path(lazycluster.__file__).parent)
    found[""] = set()  # re-exports the public names
    return found


def test_each_part_imports_only_what_the_table_allows(imports):
    assert find_violations(imports) == set()


def test_each_part_is_in_the_table(imports):
    """A new module at the top gets a row, and a part that has gone loses it."""
    assert {module.split(".")[0] for module in imports if module} <= MAY_IMPORT.keys()


def test_no_modules_import_in_a_circle(imports):
    assert find_circles(imports) == []


def test_only_the_host_imports_what_runs_only_there():
    """The manager reads those files; it does not import them."""
    assert not [part for part, others in MAY_IMPORT.items() if "_remote" in others]


# --- The checker itself ---


@pytest.fixture
def read(tmp_path):
    """Write modules, and return their imports; a module is written with "\\n" for a new line."""

    def read(modules: dict[str, str]) -> dict[str, set[str]]:
        for name, text in modules.items():
            path = tmp_path / "lazycluster" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_imports(tmp_path / "lazycluster")

    return read


@pytest.mark.parametrize(
    "line",
    [
        "from lazycluster._ssh.b import x",
        "from lazycluster._ssh import b",
        "import lazycluster._ssh.b",
        "from .b import x",
        "from . import b",
        "from .._ssh import b",
        "def f():\n    from lazycluster._ssh import b",
        "if TYPE_CHECKING:\n    from .b import X",
    ],
)
def test_a_circle_is_found_however_it_is_imported(read, line):
    imports = read({"_ssh/__init__.py": "", "_ssh/a.py": line, "_ssh/b.py": "from . import a"})
    assert imports["_ssh.a"] >= {"_ssh.b"}
    assert find_circles({**imports, "_ssh": set()}) == [["_ssh.a", "_ssh.b"]]


def test_a_longer_circle_is_found_beside_another(read):
    imports = read(
        {
            "a.py": "from . import b",
            "b.py": "from . import c",
            "c.py": "from lazycluster import a",
            "d.py": "import lazycluster.e, lazycluster.a",
            "e.py": "from .d import x",
            "f.py": "from .e import x",
        }
    )
    assert find_circles(imports) == [["a", "b", "c"], ["d", "e"]]


@pytest.mark.parametrize(
    ("module", "line", "imported"),
    [
        ("_ssh/a.py", "from lazycluster._tasks import steps", "_tasks"),
        ("_ssh/a.py", "from lazycluster import Runtime", ""),
        ("_tasks/a.py", "import lazycluster._ssh", "_ssh"),
        ("_conversation/a.py", "from lazycluster._remote.loader import x", "_remote"),
        ("_shared/a.py", "from lazycluster.exceptions import x", "exceptions"),
        ("_remote/a.py", "from .._tasks import x", "_tasks"),
        ("_shared/a.py", "import cloudpickle", "cloudpickle"),
        ("connection.py", "from lazycluster.runtimes import Runtime", "runtimes"),
    ],
)
def test_an_import_against_the_table_is_found(read, module, line, imported):
    if imported == "cloudpickle" and sys.version_info < (3, 10):
        pytest.skip("Python 3.9 has no list of its standard library")
    parts = ("_ssh", "_tasks", "_remote", "_shared", "_conversation")
    others = {f"{part}/__init__.py": "" for part in parts}
    others |= {"__init__.py": "", "exceptions.py": "", "runtimes.py": ""}
    found = find_violations(read({**others, module: line}))
    assert found == {(module[:-3].replace("/", "."), imported)}
