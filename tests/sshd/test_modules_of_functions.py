"""Which modules a function finds on a host: the manager's, the host's, and those sent as files."""

from __future__ import annotations

import importlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from lazycluster import Runtime, RuntimeTask
from lazycluster.exceptions import SerializationError, TaskExecutionError

pytestmark = pytest.mark.every_python


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the manager's sys.path; its modules are forgotten after the test."""
    path = tmp_path / "libs"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    yield path
    for name in [name for name in sys.modules if name.startswith("lc_")]:
        del sys.modules[name]


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(textwrap.dedent(content))
        else:
            path.write_bytes(content)
    importlib.invalidate_caches()


def add_distribution(folder, name, *recorded):
    """Write the metadata of an installed distribution as pip does."""
    entry = f"{name.replace('-', '_')}-1.5.dist-info"
    recorded = [*recorded, f"{entry}/METADATA", f"{entry}/RECORD"]
    record = "".join(f"{path},sha256=x,1\n" for path in recorded)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
    write(folder, {f"{entry}/RECORD": record, f"{entry}/METADATA": metadata})


def import_all(names):
    os.chdir("/")
    return [importlib.import_module(name).__file__ for name in names]


# ── the working directory ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["work", "a folder, Zoë"])
def test_a_function_imports_what_was_sent_as_a_file(make_runtime, tmp_path, name):
    """A module and a package; after a change of directory, too."""
    files = tmp_path / "files"
    (files / "lc_sent_package").mkdir(parents=True)
    (files / "lc_sent_package" / "__init__.py").write_text("")
    (files / "lc_sent_module.py").write_text("")
    runtime = make_runtime(working_dir=str(tmp_path / name))
    task = RuntimeTask().send_file(files / "lc_sent_module.py").send_file(files / "lc_sent_package")
    task.run_function(import_all, names=["lc_sent_module", "lc_sent_package"])
    runtime.execute_task(task, execute_async=False)
    assert list(task.function_returns) == [
        [f"{tmp_path}/{name}/lc_sent_module.py", f"{tmp_path}/{name}/lc_sent_package/__init__.py"]
    ]


def test_the_directory_of_a_call_is_on_its_path(make_runtime, tmp_path):
    """The one of `cwd=`, and only that; the temporary one of a Runtime otherwise."""
    runtime = make_runtime()
    runtime.run("mkdir below && echo 'X = 1' > below/lc_below.py && echo > lc_above.py")
    assert runtime.call(import_all, ["lc_above"]) == [f"{runtime.working_dir}/lc_above.py"]
    view = runtime.with_options(cwd="below")
    assert view.call(import_all, ["lc_below"]) == [f"{runtime.working_dir}/below/lc_below.py"]
    with pytest.raises(ModuleNotFoundError):
        view.call(import_all, ["lc_above"])


def test_the_standard_library_is_before_the_working_directory(make_runtime, tmp_path):
    """Also for the modules that nothing has imported yet."""
    names = ["json", "this", "mailbox", "multiprocessing.queues"]
    for name in names:
        (tmp_path / f"{name.partition('.')[0]}.py").write_text("raise ZeroDivisionError")
    runtime = make_runtime(working_dir=str(tmp_path))
    assert not any(str(tmp_path) in path for path in runtime.call(import_all, names))


def test_a_working_directory_on_the_path_already_is_not_there_twice(make_runtime, tmp_path):
    """And it is the last one otherwise, though a step before has changed the path."""

    def add(name):
        sys.path.insert(0, name)
        return sys.path

    runtime = make_runtime(working_dir=str(tmp_path))
    for _ in range(2):
        path = runtime.call(add, "/first")
        assert (path[0], path[-1], path.count(path[-1])) == ("/first", str(tmp_path), 1)


# ── modules= and installed= ───────────────────────────────────────────────────────────────────────


PACKAGE = {
    "lc_pack/__init__.py": "from lc_pack.inner import f, Thing\n",
    "lc_pack/inner.py": """
        import lc_other
        class Thing:
            def __init__(self, x):
                self.x = x
        def f(x):
            return Thing(lc_other.double(x))
        """,
    "lc_pack/never/__init__.py": "",
    "lc_pack/never/loaded.py": "Y = 7\n",
    "lc_pack/data.txt": "zwölf\n",
    "lc_pack/sub/deep/table.bin": b"\0\1\xff",
    "lc_pack/never/more.txt": "more",
    "lc_other.py": "def double(x):\n    return 2 * x\n",
}


@pytest.fixture
def installed_package(folder):
    """A package that is installed on the manager only, and a local module that it uses."""
    write(folder, PACKAGE)
    add_distribution(folder, "lc-pack", *(name for name in PACKAGE if "lc_pack" in name))
    return importlib.import_module("lc_pack")


def test_an_installed_package_is_not_sent(runtime, installed_package):
    """The host must have it."""
    with pytest.raises(ModuleNotFoundError, match="lc_pack") as caught:
        runtime.call(installed_package.f, 2)
    assert (
        "lc_pack is installed here and not there. "
        'Install it on the host, or say modules=["lc_pack"] to send it.'
    ) in str(caught.value.__cause__)


def test_modules_sends_an_installed_package(runtime, installed_package):
    """As a whole, with the local modules that it imports; values come back."""
    view = runtime.with_options(modules=["lc_pack"])
    value = view.call(installed_package.f, 2)
    assert type(value) is installed_package.Thing
    assert value.x == 4
    assert view.call(lambda thing: thing.x, value) == 4


def test_modules_sends_what_nothing_refers_to(runtime, installed_package):
    """A name may be made at run time."""

    def read():
        return __import__("lc_pa" + "ck.never.loaded").never.loaded.Y

    assert runtime.with_options(modules=("lc_pack",)).call(read) == 7


def test_modules_of_a_runtime_hold_for_its_functions(sshd, installed_package):
    with Runtime(sshd.alias, config_file=sshd.config_file, modules={"lc_pack"}) as runtime:
        assert runtime.call(installed_package.f, 2).x == 4
        assert runtime.submit(installed_package.f, 3).result().x == 6
        task = runtime.execute_function(installed_package.f, x=4)
        assert next(task.function_returns).x == 8
        with pytest.raises(ModuleNotFoundError):
            runtime.with_options(installed=["lc_pack"]).call(installed_package.f, 2)


def test_modules_of_a_task_hold_for_its_functions(runtime, installed_package):
    task = RuntimeTask(modules=["lc_pack"]).run_function(installed_package.f, x=2)
    runtime.execute_task(task, execute_async=False)
    assert next(task.function_returns).x == 4


def test_installed_leaves_a_local_package_to_the_host(make_runtime, folder, tmp_path):
    """The host's own is used, by name, in bodies too."""
    write(folder, {"lc_both.py": "def where():\n    return 'manager'\n"})
    write(tmp_path / "host", {"lc_both.py": "def where():\n    return 'host'\n"})
    where = importlib.import_module("lc_both").where

    def import_it():
        import lc_both

        return lc_both.where()

    runtime = make_runtime(working_dir=str(tmp_path / "host"))
    assert [runtime.call(where), runtime.call(import_it)] == ["manager", "manager"]
    view = runtime.with_options(installed=["lc_both"])
    assert [view.call(where), view.call(import_it)] == ["host", "host"]
    assert [runtime.call(where), runtime.call(import_it)] == ["manager", "manager"]


def test_a_local_package_with_a_compiled_member_runs_where_it_is_installed(
    make_runtime, folder, tmp_path
):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    text = "def where():\n    return __file__\n"
    write(folder, {"lc_fast/__init__.py": text, f"lc_fast/_speed{suffix}": ""})
    write(tmp_path / "host", {"lc_fast/__init__.py": text})
    where = importlib.import_module("lc_fast").where
    runtime = make_runtime(working_dir=str(tmp_path / "host"))
    with pytest.raises(SerializationError) as caught:
        runtime.call(where)
    assert (
        f"lc_fast has the compiled module lc_fast/_speed{suffix}, which cannot travel. "
        'Install lc_fast on the host, and say installed=["lc_fast"].'
    ) in str(caught.value)
    with pytest.raises(ModuleNotFoundError) as caught:
        make_runtime().call(import_all, ["lc_fast"])
    assert f"lc_fast has the compiled module lc_fast/_speed{suffix}" in str(caught.value.__cause__)
    view = runtime.with_options(installed=["lc_fast"])
    assert view.call(where) == f"{tmp_path}/host/lc_fast/__init__.py"


def test_a_namespace_package_is_shared_with_the_host(make_runtime, folder, tmp_path):
    """The local part comes from the manager, the installed one is the host's."""
    write(folder, {"lc_space/mine.py": "from lc_space import theirs\nX = theirs.X\n"})
    others = tmp_path / "others"
    write(others, {"lc_space/theirs.py": "X = 'manager'\n"})
    add_distribution(others, "space", "lc_space/theirs.py")
    write(tmp_path / "host", {"lc_space/theirs.py": "X = 'host'\n"})
    sys.path.append(str(others))
    try:

        def read():
            from lc_space import mine

            return mine.X

        assert read() == "manager"
        runtime = make_runtime(working_dir=str(tmp_path / "host"))
        assert runtime.call(read) == "host"
    finally:
        sys.path.remove(str(others))


# ── data files ────────────────────────────────────────────────────────────────────────────────────


def read_data():
    import pkgutil
    from importlib import resources

    import lc_pack

    root = resources.files("lc_pack")
    with (root / "data.txt").open("rb") as file:
        first = file.read()
    with resources.as_file(root.joinpath("data.txt")) as path:
        on_disk = path.read_text("utf-8")
    found = {
        "bytes": first,
        "text": (root / "data.txt").read_text(encoding="utf-8"),
        "on disk": on_disk,
        "below": (root / "sub" / "deep" / "table.bin").read_bytes(),
        "of a package below": resources.files("lc_pack.never").joinpath("more.txt").read_text(),
        "names": sorted(each.name for each in root.iterdir() if each.name != "__pycache__"),
        "kinds": [(root / each).is_dir() for each in ("sub", "data.txt", "none")],
        "pkgutil": pkgutil.get_data("lc_pack", "sub/deep/table.bin"),
        "pkgutil below": pkgutil.get_data("lc_pack.never", "more.txt"),
        "loader": lc_pack.__loader__.get_data(lc_pack.__file__.replace("__init__.py", "data.txt")),
    }
    if hasattr(resources, "read_text"):  # not in Python 3.13.0
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert resources.read_text("lc_pack", "data.txt", encoding="utf-8") == "zwölf\n"
            assert resources.read_binary("lc_pack.never", "more.txt") == b"more"
            assert resources.is_resource("lc_pack", "data.txt")
            assert {"data.txt", "sub"} <= set(resources.contents("lc_pack"))
    return found


@pytest.mark.parametrize("kind", ["installed", "local", "zip"])
def test_modules_sends_the_data_files_of_a_package(runtime, folder, tmp_path, monkeypatch, kind):
    """They are not on the host's disk: here they are removed before the function runs."""
    files = {name: text for name, text in PACKAGE.items() if not name.endswith("inner.py")}
    files["lc_pack/__init__.py"] = ""
    write(folder, files)
    if kind == "installed":
        add_distribution(folder, "lc-pack", *files)
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
        shutil.rmtree(folder / "lc_pack")
        monkeypatch.syspath_prepend(tmp_path / "packed.zip")
        importlib.invalidate_caches()
    expected = read_data()
    task = RuntimeTask(modules=["lc_pack"]).run_function(read_data)
    shutil.rmtree(folder)
    if kind == "zip":
        (tmp_path / "packed.zip").unlink()
    runtime.execute_task(task, execute_async=False)
    assert next(task.function_returns) == expected
    assert expected["text"] == "zwölf\n"
    assert expected["kinds"] == [True, False, False]


def test_a_data_file_that_has_changed_is_sent_anew(runtime, folder):
    write(folder, {"lc_pack/__init__.py": "", "lc_pack/data.txt": "one"})
    view = runtime.with_options(modules=["lc_pack"])

    def read():
        import pkgutil

        return pkgutil.get_data("lc_pack", "data.txt")

    assert view.call(read) == b"one"
    (folder / "lc_pack" / "data.txt").write_text("second")
    assert view.call(read) == b"second"


def test_a_data_file_that_is_missing_is_named(runtime, folder):
    write(folder, {"lc_pack/__init__.py": "", "lc_pack/data.txt": "one"})

    def read():
        import pkgutil

        return pkgutil.get_data("lc_pack", "none.txt")

    with pytest.raises(FileNotFoundError) as caught:
        runtime.with_options(modules=["lc_pack"]).call(read)
    assert caught.value.filename == str(folder / "lc_pack" / "none.txt")


# ── programs in a zip file ────────────────────────────────────────────────────────────────────────


PROGRAM = {
    "__main__.py": """
        import json, sys
        import lc_app.work
        from lazycluster import Runtime

        def add(x):
            from lc_app import lazy
            return lazy.more(x) + lc_app.work.twice(x)

        with Runtime(sys.argv[1], config_file=sys.argv[2]) as runtime:
            found = {"main": runtime.call(add, 1), "module": runtime.call(lc_app.work.twice, 2)}
            try:
                runtime.call(lc_app.work.fail)
            except ZeroDivisionError as error:
                found["traceback"] = str(error.__cause__)
            view = runtime.with_options(modules=["lc_app"])
            found["data"] = view.call(lc_app.work.read).decode()
            print(json.dumps(found))
        """,
    "lc_app/__init__.py": "",
    "lc_app/work.py": """
        import pkgutil
        def twice(x):
            return 2 * x
        def fail():
            return 1 / 0  # in the zip file
        def read():
            return pkgutil.get_data(__package__, "data.txt")
        """,
    "lc_app/lazy.py": "def more(x):\n    return 100 + x\n",
    "lc_app/data.txt": "data",
}


@pytest.mark.parametrize("name", ["program.pyz", "program.zip", "program.egg"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_program_in_a_zip_file_calls_its_functions(sshd, tmp_path, name, relative):
    """As zipapp, pex and Spark pack them."""
    write(tmp_path / "source", PROGRAM)
    archive = shutil.make_archive(str(tmp_path / "program"), "zip", tmp_path / "source")
    path = tmp_path / name
    os.rename(archive, path)
    result = subprocess.run(
        [sys.executable, name if relative else str(path), sshd.alias, str(sshd.config_file)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    found = json.loads(result.stdout)
    assert "return 1 / 0  # in the zip file" in found.pop("traceback")
    assert found == {"main": 103, "module": 4, "data": "data"}


# ── what a package asks for when it is imported ───────────────────────────────────────────────────


VERSIONED = """
    from importlib import metadata
    __version__ = metadata.version("lc-versioned")
    points = [point.name for point in metadata.distribution("lc-versioned").entry_points]
    def version():
        return __version__, metadata.metadata("LC_Versioned")["Name"], points
    """


@pytest.mark.parametrize("kind", ["installed", "editable"])
@pytest.mark.parametrize("called", ["lc_versioned", "lc_other_name"])
def test_a_package_that_is_sent_finds_its_own_version(
    runtime, folder, tmp_path, monkeypatch, kind, called
):
    """Many ask for it when they are imported; the host has no metadata of them."""
    if (kind, called) == ("editable", "lc_other_name"):
        pytest.skip("nothing says that the distribution belongs to the module")
    sources = folder if kind == "installed" else tmp_path / "src"
    write(sources, {f"{called}/__init__.py": VERSIONED})
    recorded = [f"{called}/__init__.py"] if kind == "installed" else ["lc-versioned.pth"]
    add_distribution(folder, "lc-versioned", *recorded)
    write(folder, {"lc_versioned-1.5.dist-info/entry_points.txt": "[x]\nname = y:z\n"})
    monkeypatch.syspath_prepend(sources)
    version = importlib.import_module(called).version
    assert version() == ("1.5", "lc-versioned", ["name"])
    options = {"modules": [called]} if kind == "installed" else {}

    def in_body():
        return importlib.import_module(called).version()

    view = runtime.with_options(**options)
    assert view.call(version) == version()
    if kind == "installed":
        assert view.call(in_body) == version()
    with pytest.raises(metadata.PackageNotFoundError):
        view.call(metadata.version, "lc-none")


def test_a_module_without_source_is_sent(runtime, folder):
    """As bytecode."""
    write(folder, {"lc_bare.py": "def f(x):\n    return x + 1\n"})
    py_compile.compile(str(folder / "lc_bare.py"), cfile=str(folder / "lc_bare.pyc"))
    (folder / "lc_bare.py").unlink()
    f = importlib.import_module("lc_bare").f
    assert runtime.call(f, 1) == 2

    def in_body(x):
        import lc_bare

        return lc_bare.f(x)

    assert runtime.call(in_body, 2) == 3


def test_a_local_part_of_an_installed_package_is_sent(make_runtime, folder, tmp_path):
    """The package has an `__init__.py` that makes room for it, as pkgutil says."""
    extend = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
    others = tmp_path / "others"
    write(others, {"lc_room/__init__.py": extend, "lc_room/theirs.py": "X = 'manager'\n"})
    add_distribution(others, "room", "lc_room/__init__.py", "lc_room/theirs.py")
    text = "from lc_room import theirs\ndef read():\n    return theirs.X, __name__\n"
    write(folder, {"lc_room/__init__.py": extend, "lc_room/mine.py": text})
    write(tmp_path / "host", {"lc_room/__init__.py": extend, "lc_room/theirs.py": "X = 'host'\n"})
    sys.path.insert(0, str(others))
    try:
        read = importlib.import_module("lc_room.mine").read
        assert read() == ("manager", "lc_room.mine")
        runtime = make_runtime(working_dir=str(tmp_path / "host"))
        assert runtime.call(read) == ("host", "lc_room.mine")
    finally:
        sys.path.remove(str(others))


def test_a_new_interpreter_has_the_same_modules(make_runtime, installed_package, tmp_path):
    """Some variables take effect only when Python starts."""
    write(tmp_path / "work", {"lc_beside.py": ""})
    view = make_runtime(working_dir=str(tmp_path / "work")).with_options(
        env={"PYTHONHASHSEED": "7"}, modules=["lc_pack"]
    )

    def look():
        import pkgutil

        import lc_beside

        data = pkgutil.get_data("lc_pack", "data.txt")
        return lc_beside.__file__, data, os.environ["PYTHONHASHSEED"], sys.path.count(os.getcwd())

    expected = str(tmp_path / "work" / "lc_beside.py"), "zwölf\n".encode(), "7", 1
    assert view.call(look) == expected
    assert view.call(installed_package.f, 2).x == 4


# ── a package that looks for its own modules ──────────────────────────────────────────────────────


PLUGINS = {
    "lc_plug/__init__.py": """
        import importlib, pkgutil
        def names():
            return sorted(
                (found.name, found.ispkg) for found in pkgutil.walk_packages(__path__, "lc_plug.")
            )
        def load():
            found = {}
            for finder, name, _ in pkgutil.iter_modules(__path__):
                if hasattr(finder, "find_spec"):  # not zipimporter of Python 3.9
                    assert finder.find_spec(name).name.endswith(name)
                found[name] = importlib.import_module(f"{__name__}.{name}").WHO
            return found
        """,
    "lc_plug/one.py": "WHO = 1\n",
    "lc_plug/two/__init__.py": "WHO = 2\n",
    "lc_plug/two/inner.py": "",
}


@pytest.mark.parametrize("kind", ["folder", "zip", "without init"])
def test_a_package_finds_its_plugins(runtime, folder, tmp_path, monkeypatch, kind):
    """By pkgutil, which asks for the folders in `__path__`."""
    write(folder, PLUGINS)
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
        shutil.rmtree(folder / "lc_plug")
        monkeypatch.syspath_prepend(tmp_path / "packed.zip")
        importlib.invalidate_caches()
    if kind == "without init":
        write(folder, {"lc_space/lc_plug/mod.py": "WHO = 3\n", "lc_space/other.py": ""})

        def look():
            import pkgutil

            import lc_space.other
            from lc_space.lc_plug import mod

            importlib.invalidate_caches()
            found = [each.name for each in pkgutil.iter_modules(lc_space.__path__)]
            return found, mod.WHO

        assert runtime.call(look) == look()
        return
    package = importlib.import_module("lc_plug")
    expected = package.names(), package.load()
    assert expected[1] == {"one": 1, "two": 2}
    assert (runtime.call(package.names), runtime.call(package.load)) == expected


def test_the_path_of_a_package_is_not_looked_for_on_the_host(runtime, folder):
    """The tests' host has the manager's files, and would find a module that was not sent."""
    write(folder, {"lc_plug/__init__.py": "", "lc_plug/sub/__init__.py": ""})
    package = importlib.import_module("lc_plug")

    def look():
        importlib.invalidate_caches()
        return importlib.import_module("lc_pl" + "ug.later"), package

    task = RuntimeTask().run_function(look)
    write(folder, {"lc_plug/later.py": ""})
    runtime.execute_task(task, execute_async=True)
    with pytest.raises(TaskExecutionError, match=r"No module named 'lc_plug\.later'"):
        list(task.function_returns)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_modules_sends_a_single_module_and_a_folder_without_init(runtime, folder, is_loaded):
    files = {
        "lc_one_file.py": "X = 1\n",
        "lc_space/part/__init__.py": "from lc_space.part.inner import Y\n",
        "lc_space/part/inner.py": "Y = 2\n",
        "lc_space/part/data.txt": "data",
        "lc_space/single.py": "Z = 3\n",
    }
    write(folder, files)
    add_distribution(folder, "one", "lc_one_file.py")
    add_distribution(folder, "space", *(name for name in files if "space" in name))

    def look():
        import pkgutil

        found = [importlib.import_module(name) for name in ("lc_one_file", "lc_space.part")]
        found.append(importlib.import_module("lc_space.single"))
        return found[0].X, found[1].Y, found[2].Z, pkgutil.get_data("lc_space.part", "data.txt")

    if is_loaded:
        look()
    view = runtime.with_options(modules=["lc_one_file", "lc_space"])
    assert view.call(look) == (1, 2, 3, b"data")
    with pytest.raises(ModuleNotFoundError):
        runtime.call(look)
