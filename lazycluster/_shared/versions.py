"""Find the packages that an error is about, and their versions on this side."""

import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional  # noqa: F401 - stand in comments

    Version = Optional[str]  # of a package: "" if it is not known, None if the package is not here

_MODULE = re.compile(r"<module '([\w.]+)'")  # in "Can't get attribute 'x' on <module 'a.b' from …>"
_MOST = 5  # packages of one error
_OURS = ("lazycluster", "_lazycluster", "cloudpickle", "__main__", "pickle")


def find_packages(error: "BaseException", loading: "bool" = True) -> "list[str]":
    """Return the top-level packages that an error of unpickling or importing may be about.

    While something is loaded, these are those of the frames, too: another version of a class may
    not know how it was pickled.
    """
    names = [getattr(error, "name", None) if isinstance(error, ImportError) else None]
    if isinstance(error, AttributeError):
        names += _MODULE.findall(_text(error))
    frames = []  # type: list[Optional[str]]
    traceback = error.__traceback__
    while traceback is not None:
        frames.insert(0, traceback.tb_frame.f_globals.get("__name__"))
        traceback = traceback.tb_next
    if loading and not isinstance(error, ImportError):
        names += frames
    found = []  # type: list[str]
    for name in names:
        top = name.partition(".")[0] if isinstance(name, str) else ""
        if top and top not in found and top not in _OURS and not _is_standard(top):
            found.append(top)
    return found[:_MOST]


def _text(error: "BaseException") -> "str":
    try:
        return str(error)
    except Exception:  # a user's __str__ may raise anything
        return ""


def _is_standard(name: "str") -> "bool":
    if sys.version_info >= (3, 10):
        return name in sys.stdlib_module_names
    return name in sys.builtin_module_names


def find_versions(names: "list[str]") -> "list[tuple[str, Version]]":
    """Return the version of each package here: "" if it is not known, None if it is not here."""
    return [(name, _find_version(name)) for name in names]


def read_versions(names: "list[str]") -> "list[tuple[str, Version]]":
    """Return what `find_versions` does, as an operation on the host."""
    # It runs in a fork of the supervisor, whose Python has not read the step's PYTHONPATH.
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return find_versions(names)


def _find_version(name: "str") -> "Version":
    import importlib.util  # takes 18 ms in Python 3.9, which imports `typing` for it

    module = sys.modules.get(name)  # type: Any
    try:
        if module is None and importlib.util.find_spec(name) is None:
            return None
        version = _of_metadata(name) or getattr(module, "__version__", "")
        return version[:100] if isinstance(version, str) else ""
    except Exception:  # a finder or a package's metadata may be broken
        return "" if module is not None else None


def _of_metadata(name: "str") -> "str":
    """Return the version of the distribution that has a package; "" if it is not found."""
    if sys.version_info < (3, 8):
        return ""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # as sklearn, which is of scikit-learn
        for distribution in metadata.distributions():
            if name in (distribution.read_text("top_level.txt") or "").split():
                return distribution.version
        if sys.version_info >= (3, 10):
            for found in metadata.packages_distributions().get(name, ()):
                return metadata.version(found)
        return ""
