"""Change modules of the standard library when they are imported, or now if they have been.

To import them for that would take longer than a call.
"""

import importlib.machinery
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, Callable

_changes = {}  # type: dict[str, Callable[[Any], object]]  # by the name of the module


def change(name: "str", action: "Callable[[Any], object]") -> "None":
    """Call `action` with a module when it has been imported; once for each name."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        _changes[name] = action


class Finder:
    """Calls the actions. See importlib.abc.MetaPathFinder."""

    def find_spec(
        self, name: "str", path: "Any" = None, target: "object" = None
    ) -> "importlib.machinery.ModuleSpec | None":
        action = _changes.get(name)
        if action is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: "types.ModuleType") -> "None":
                execute(module)
                action(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
