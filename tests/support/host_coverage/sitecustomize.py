"""Measure this process and its forks; a Python imports this before it runs the loader.

Its text is Python 3.6, for each Python that may start with it.
"""

import os
import sys

_FOLDER = os.environ.pop("LAZYCLUSTER_TEST_COVERAGE", None)
_HERE = os.path.dirname(os.path.abspath(__file__))
_PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))


def _start(folder):
    import marshal
    import types

    # Removed again: on a host neither lazycluster nor cloudpickle can be imported.
    sys.path.insert(0, folder)
    import coverage

    sys.path.remove(folder)
    package = os.path.join(folder, "lazycluster")
    measured = coverage.Coverage(
        data_file=os.path.join(_PROJECT, ".coverage"),
        data_suffix=True,
        config_file=False,
        include=[os.path.join(package, "*")],
    )
    measured.set_option("run:patch", ["_exit"])
    measured.start()

    def renamed(code):
        name = code.co_filename
        if name.startswith("<lazycluster>/"):
            parts = name[len("<lazycluster>/") :].replace("_lazycluster.", "").split(".")
            path = os.path.join(package, *parts) + ".py"
            name = path if os.path.exists(path) else name  # not one of cloudpickle
        constants = tuple(
            renamed(one) if isinstance(one, types.CodeType) else one for one in code.co_consts
        )
        return code.replace(co_filename=name, co_consts=constants)

    def loads(*arguments, **keywords):
        value = original(*arguments, **keywords)
        if isinstance(value, dict):
            return {
                key: renamed(one) if isinstance(one, types.CodeType) else one
                for key, one in value.items()
            }
        return value

    original, marshal.loads = marshal.loads, loads


if _HERE in sys.path:
    sys.path.remove(_HERE)
os.environ.pop("PYTHONPATH", None)
# Only the tests' own minor version can load the coverage.py of their environment.
if _FOLDER is not None and "python{}.{}".format(*sys.version_info) in _FOLDER:
    _start(_FOLDER)
