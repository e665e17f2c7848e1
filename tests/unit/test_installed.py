"""Which modules count as installed: those that a distribution's metadata names, beside them."""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest

from lazycluster._functions.installed import is_installed
from lazycluster._functions.local_modules import compiled_member, is_local, refusal

pytestmark = pytest.mark.every_python

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on sys.path whose modules are forgotten after the test."""
    path = tmp_path / "libs"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    before = set(sys.modules)
    yield path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(vars(sys.modules[name]).get("__file__") or tmp_path):
            del sys.modules[name]


def write(folder, **files):
    """Write files below a folder; `__` in a keyword stays, so paths are given as a mapping."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()


def add_distribution(folder, name, *recorded, **more):
    """Write the metadata of an installed distribution as pip does."""
    entry = f"{name}-1.0.dist-info"
    lines = [f"{path},sha256=x,1" for path in (*recorded, f"{entry}/METADATA", f"{entry}/RECORD")]
    write(folder, **{f"{entry}/RECORD": "\n".join(lines) + "\n"})
    write(folder, **{f"{entry}/{file}": text for file, text in more.items()})


def decide(name):
    """Import a module, and return whether it is local."""
    importlib.import_module(name)
    return is_local(name)


# ── with metadata ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("called", ["libs", "site-packages", "dist-packages", "vendor"])
def test_metadata_decides_and_not_the_name_of_the_folder(tmp_path, monkeypatch, folder, called):
    """`pip install --target`, environment modules of a computing centre, Conda, a virtualenv."""
    place = tmp_path / called
    place.mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(place)
    write(
        place, **{"lc_in/__init__.py": "", "lc_in/sub/deep.py": "", "lc_one.py": "", "lc_no.py": ""}
    )
    add_distribution(place, "Other_Name", "../../bin/x", "lc_in/__init__.py", "lc_one.py")
    names = ["lc_in", "lc_in.sub", "lc_in.sub.deep", "lc_one", "lc_no"]
    assert {name: decide(name) for name in names} == {
        **dict.fromkeys(names[:-1], False),
        "lc_no": True,
    }


def test_a_compiled_module_with_metadata_is_installed(folder):
    write(folder, **{f"lc_fast{SUFFIX}": ""})
    add_distribution(folder, "fast", f"lc_fast{SUFFIX}")
    assert is_installed("lc_fast", str(folder / f"lc_fast{SUFFIX}"))


@pytest.mark.parametrize(
    "module", ["json", "xml.dom", "builtins", "sys", "_json", "this", "pytest"]
)
def test_what_python_and_pip_have_installed_is_not_local(module):
    assert not decide(module)


@pytest.mark.parametrize("entry", ["lc_old-1.0.egg-info", "lc_old-1.0-py3.9.egg-info"])
def test_metadata_of_setuptools_and_distutils(folder, entry):
    """Debian and old versions of pip have installed so."""
    write(folder, **{"lc_old.py": "", "lc_new.py": "", f"{entry}/top_level.txt": "lc_old\n_x\n"})
    assert (decide("lc_old"), decide("lc_new")) == (False, True)


def test_installed_files_are_a_list_too(folder):
    """Of pip before wheels; the .egg-info need not have a version then."""
    entry = "lc_listed.egg-info"
    write(folder, **{"lc_listed/__init__.py": "", "lc_other.py": ""})
    write(folder, **{f"{entry}/installed-files.txt": "../lc_listed/__init__.py\nPKG-INFO\n"})
    assert (decide("lc_listed"), decide("lc_other")) == (False, True)


@pytest.mark.parametrize("entry", ["LC_Plain-1.0.egg-info", "LC_Plain-1.0.dist-info/METADATA"])
def test_without_a_list_the_name_of_the_distribution_counts(folder, entry):
    """Of distutils, which leaves a file, and of systems that remove RECORD."""
    write(folder, **{"lc_plain.py": "", "lc_other.py": "", entry: "Name: LC-Plain\n"})
    assert (decide("lc_plain"), decide("lc_other")) == (False, True)


@pytest.mark.parametrize("zipped", [False, True])
def test_egg_is_a_distribution(tmp_path, monkeypatch, zipped):
    """easy_install puts each on sys.path, as a folder or as a zip file."""
    egg = tmp_path / "lc_egg-1.0-py3.egg"
    files = {"lc_egg/__init__.py": "", "EGG-INFO/top_level.txt": "lc_egg\n"}
    pack(egg, files) if zipped else write(egg, **files)
    monkeypatch.syspath_prepend(egg)
    assert not decide("lc_egg")
    del sys.modules["lc_egg"]


def pack(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    importlib.invalidate_caches()


@pytest.mark.parametrize("inside", ["", ".deps/lc-1.0.whl/"])
def test_distributions_in_a_zip_file(tmp_path, monkeypatch, inside):
    """Pex and Spark have them; a program without metadata in a zip file is local."""
    path = tmp_path / "program.pyz"
    record = "lc_packed/__init__.py,,\nlc_packed-1.dist-info/RECORD,,\n"
    files = {"lc_packed/__init__.py": "", "lc_packed-1.dist-info/RECORD": record, "lc_app.py": ""}
    pack(path, {inside + name: text for name, text in files.items()})
    monkeypatch.syspath_prepend(path / inside if inside else path)
    assert (decide("lc_packed"), decide("lc_app")) == (False, True)
    for name in ("lc_packed", "lc_app"):
        del sys.modules[name]


def test_link_to_a_cache_is_installed(tmp_path, monkeypatch, folder):
    """uv links modules to its cache."""
    write(tmp_path / "cache", **{"lc_linked.py": ""})
    (folder / "lc_linked.py").symlink_to(tmp_path / "cache" / "lc_linked.py")
    add_distribution(folder, "linked", "lc_linked.py")
    assert not decide("lc_linked")


@pytest.mark.parametrize("inner", ["lc_out/_vendor", "lc_out/lib"])
def test_folder_of_a_distribution_on_the_path(folder, monkeypatch, inner):
    """By a .pth file, or by a package that has others within."""
    write(folder, **{"lc_out/__init__.py": "", f"{inner}/lc_within.py": ""})
    add_distribution(folder, "out", "lc_out/__init__.py", f"{inner}/lc_within.py")
    monkeypatch.syspath_prepend(folder / inner)
    assert not decide("lc_within")


def test_what_is_installed_later_is_seen(folder):
    """`pip install` in a notebook, after another module of the folder was looked up."""
    write(folder, **{"lc_first.py": ""})
    assert decide("lc_first")
    write(folder, **{"lc_later.py": ""})
    add_distribution(folder, "later", "lc_later.py")
    os.utime(folder, ns=(1, 1))
    assert not decide("lc_later")


def test_package_of_conda_without_metadata_of_python(tmp_path, monkeypatch):
    """Bindings of C++ libraries have none; Conda lists their files."""
    place = tmp_path / "lib" / "python3.11" / "site-packages"
    write(place, **{"lc_kit/__init__.py": "", "lc_kite.py": ""})
    files = ["lib/python3.11/site-packages/lc_kit/__init__.py"]
    write(tmp_path, **{"conda-meta/kit-1.0-0.json": json.dumps({"files": files}, indent=2)})
    monkeypatch.syspath_prepend(place)
    assert (decide("lc_kit"), decide("lc_kite")) == (False, True)
    for name in ("lc_kit", "lc_kite"):
        del sys.modules[name]


@pytest.mark.parametrize("folder", ["python3/dist-packages", "python3.12/site-packages"])
@pytest.mark.parametrize("root", ["/usr/lib", "/usr/lib64"])
def test_folder_of_the_system_is_of_its_package_manager(root, folder):
    """Some of its modules have no metadata: `debconf` of Debian, `rpm` of Fedora."""
    assert is_installed("lc_system", f"{root}/{folder}/lc_system/__init__.py")
    assert not is_installed("lc_own", f"{root}/program/lc_own.py")
    assert is_installed("lc_store", f"/nix/store/abc-lc_store/lib/{folder}/lc_store/__init__.py")
    assert not is_installed("lc_own", f"/usr/local/lib/{folder}/lc_own.py")


# ── without ───────────────────────────────────────────────────────────────────────────────────────


def test_what_someone_has_put_into_site_packages_is_local():
    """Nobody can install it on the host by a name, so it is sent."""
    place = sysconfig.get_path("purelib")
    assert not is_installed("lc_dropped", f"{place}/lc_dropped.py")
    assert not is_installed("lc_dropped.sub", f"{place}/lc_dropped/sub.py")
    assert is_installed("pytest", f"{place}/pytest/__init__.py")


def test_module_beside_the_script_with_the_name_of_an_installed_one_is_local(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    write(folder, **{"this.py": ""})
    assert decide("this")


def test_checkout_is_local_beside_what_was_built_from_it(folder):
    """setuptools leaves an .egg-info without a version beside the sources."""
    write(folder, **{"lc_proj/__init__.py": "", "lc_proj.egg-info/top_level.txt": "lc_proj\n"})
    write(folder, **{"lc_proj.egg-info/SOURCES.txt": "lc_proj/__init__.py\n"})
    assert decide("lc_proj")


@pytest.mark.parametrize("kind", ["pth", "finder", "link", "egg-link"])
def test_editable_installation_is_local(tmp_path, monkeypatch, folder, kind):
    """Its metadata records what leads to the sources, or says that it is editable."""
    sources = tmp_path / "project" / "src"
    write(sources, **{"lc_edit/__init__.py": "", "lc_edit.egg-info/top_level.txt": "lc_edit\n"})
    origin = {"direct_url.json": json.dumps({"dir_info": {"editable": True}, "url": "file:///x"})}
    entry = "lc_edit-1.0.dist-info"
    if kind == "link":  # flit
        (folder / "lc_edit").symlink_to(sources / "lc_edit")
        add_distribution(
            folder, "lc_edit", "lc_edit/__init__.py", f"{entry}/direct_url.json", **origin
        )
    else:
        monkeypatch.syspath_prepend(sources)
    if kind == "egg-link":  # setup.py develop
        write(folder, **{"lc_edit.egg-link": f"{sources}\n.", "easy-install.pth": f"{sources}\n"})
    if kind == "pth":
        add_distribution(folder, "lc_edit", "lc_edit.pth", **origin, **{"top_level.txt": "lc_edit"})
    if kind == "finder":
        name = "__editable___lc_edit_1_0_finder.py"
        add_distribution(folder, "lc_edit", name, "__editable__.lc_edit-1.0.pth")
    assert decide("lc_edit")


def test_vendored_folder_of_a_project_is_local(folder, monkeypatch):
    write(folder, **{"lc_app/__init__.py": "", "lc_app/vendor/lc_copied.py": ""})
    monkeypatch.syspath_prepend(folder / "lc_app" / "vendor")
    assert decide("lc_copied")


def test_namespace_package_is_shared_by_an_installed_and_a_local_folder(
    tmp_path, monkeypatch, folder
):
    """Each of its modules is decided by its own place."""
    write(tmp_path / "own", **{"lc_space/mine/__init__.py": "", "lc_space/mine/deep.py": ""})
    write(folder, **{"lc_space/theirs/__init__.py": ""})
    add_distribution(folder, "space_theirs", "lc_space/theirs/__init__.py")
    monkeypatch.syspath_prepend(tmp_path / "own")
    names = ["lc_space", "lc_space.mine", "lc_space.mine.deep", "lc_space.theirs"]
    assert [decide(name) for name in names] == [True, True, True, False]


def test_namespace_package_that_is_installed_only(folder):
    write(folder, **{"lc_space/theirs/__init__.py": ""})
    add_distribution(folder, "space_theirs", "lc_space/theirs/__init__.py")
    assert [decide(name) for name in ["lc_space", "lc_space.theirs"]] == [False, False]


def test_file_that_was_loaded_under_another_name(tmp_path):
    """Pytest and plugins load files by their paths."""
    assert not is_installed("any.name", str(tmp_path / "plugin.py"))
    assert not is_installed("plugin", str(tmp_path / "x" / "__init__.py"))


def test_path_that_does_not_exist_is_not_installed():
    """Finders of editable installations call their hooks folders."""
    assert not is_installed("lc_hook", "__editable__.lc_hook-1.0.finder.__path_hook__")


def test_module_without_source_is_local(folder):
    """It can be sent as bytecode."""
    import py_compile

    write(folder, **{"lc_bare.py": "X = 1\n"})
    py_compile.compile(str(folder / "lc_bare.py"), cfile=str(folder / "lc_bare.pyc"))
    (folder / "lc_bare.py").unlink()
    assert decide("lc_bare")


def test_modules_of_a_packed_program_are_the_programs(monkeypatch, folder):
    """PyInstaller packs numpy without its metadata."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    write(folder, **{"lc_script.py": "", "lc_frozen.py": ""})
    assert decide("lc_script")
    importlib.import_module("lc_frozen").__file__ += "c"
    assert not is_local("lc_frozen")


def test_a_module_that_is_loaded_anew_from_elsewhere_is_decided_anew(tmp_path, monkeypatch, folder):
    write(folder, **{"lc_twice.py": ""})
    add_distribution(folder, "twice", "lc_twice.py")
    assert not decide("lc_twice")
    del sys.modules["lc_twice"]
    write(tmp_path / "own", **{"lc_twice.py": ""})
    monkeypatch.syspath_prepend(tmp_path / "own")
    assert decide("lc_twice")


def test_objects_that_are_not_modules_have_no_place(monkeypatch):
    """Programs put them into sys.modules."""
    for odd in (
        object(),
        type("Odd", (), {"__file__": 5}),
        type("Odd", (), {"__path__": [Path(".")]}),
    ):
        monkeypatch.setitem(sys.modules, "lc_odd", odd)
        assert not is_local("lc_odd")
    assert not is_local(None)
    assert not is_local("lc_no_such_module")


def test_decisions_of_many_threads_agree(folder):
    write(folder, **{f"lc_many{number}.py": "" for number in range(20)})
    add_distribution(folder, "many", *(f"lc_many{number}.py" for number in range(0, 20, 2)))
    for number in range(20):
        importlib.import_module(f"lc_many{number}")
    found, barrier = [], threading.Barrier(8)

    def look():
        barrier.wait()
        found.append([is_local(f"lc_many{number}") for number in range(20)])

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[bool(number % 2) for number in range(20)]] * 8


def test_a_decision_reads_the_metadata_once(folder, monkeypatch):
    """500 distributions must not cost each call."""
    write(folder, **{"lc_once.py": "", "lc_once_local.py": ""})
    add_distribution(folder, "once", "lc_once.py")
    assert (decide("lc_once"), decide("lc_once_local")) == (False, True)
    monkeypatch.setattr("os.listdir", None)
    monkeypatch.setattr("os.stat", None)
    assert (is_local("lc_once"), is_local("lc_once_local")) == (False, True)


def test_importlib_metadata_is_not_imported():
    """Its import takes 20 ms."""
    program = (
        "import sys, lazycluster._functions.local_modules as m, json\n"
        "m.is_local('json'), m._is_local_path('x', '/tmp/x.py', ())\n"
        "assert 'importlib.metadata' not in sys.modules and 'zipfile' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ── compiled members ──────────────────────────────────────────────────────────────────────────────


def test_a_package_with_a_compiled_member_is_named_with_its_cure(folder):
    write(
        folder,
        **{"lc_pack/__init__.py": "", "lc_pack/a/__init__.py": "", f"lc_pack/a/_s{SUFFIX}": ""},
    )
    importlib.import_module("lc_pack.a")
    for name in ("lc_pack", "lc_pack.a", "lc_pack.a._s"):
        assert compiled_member(name) == str(folder / "lc_pack" / "a" / f"_s{SUFFIX}")
        assert refusal(name) == (
            f"lc_pack has the compiled module lc_pack/a/_s{SUFFIX}, which cannot travel. "
            'Install lc_pack on the host, and say installed=["lc_pack"].'
        )
    (folder / "lc_pack" / "a" / f"_s{SUFFIX}").unlink()
    assert compiled_member("lc_pack") is None


def test_a_compiled_module_is_named_with_its_cure(folder):
    write(folder, **{f"lc_alone{SUFFIX}": ""})
    assert refusal("lc_alone") == (
        f"lc_alone is the compiled module {folder}/lc_alone{SUFFIX}, which cannot travel. "
        'Install lc_alone on the host, and say installed=["lc_alone"].'
    )


@pytest.mark.parametrize(
    "other",
    [
        "lc_pure/_s.cpython-27-other-system.so",
        "lc_pure/venv/lib/python3.9/site-packages/n/_s.so",
        "lc_pure/data/lib/plugin.so",
        "lc_pure/build-1/_s.so",
        "beside/_s.so",
        "_s.so",
    ],
)
def test_what_this_python_does_not_import_is_no_compiled_member(folder, other):
    """Of another Python or system, of a virtual environment in the folder, data, and neighbours."""
    write(folder, **{"lc_pure/__init__.py": "", "lc_pure/sub/__init__.py": "", other: ""})
    assert compiled_member("lc_pure.sub") is None


def test_members_of_a_folder_without_init_are_sent_one_by_one(folder):
    """Such as `src`, which is no package but the way to some."""
    write(folder, **{"lc_src/pure/__init__.py": "", f"lc_src/fast/_s{SUFFIX}": ""})
    write(folder, **{"lc_src/fast/__init__.py": "", "lc_src/mod.py": "", f"lc_src/_x{SUFFIX}": ""})
    assert compiled_member("lc_src.pure") is None
    assert compiled_member("lc_src.mod") is None
    assert compiled_member("lc_src") is None
    assert compiled_member("lc_src.fast") == str(folder / "lc_src" / "fast" / f"_s{SUFFIX}")
    assert compiled_member("lc_src._x") == str(folder / "lc_src" / f"_x{SUFFIX}")


def test_compiled_member_that_was_built_in_another_folder(folder, monkeypatch):
    """Editable installations by Meson."""
    write(folder, **{"lc_meson/__init__.py": ""})
    inner = type(sys)("lc_meson._s")
    inner.__file__ = f"/build/cp311/_s{SUFFIX}"
    monkeypatch.setitem(sys.modules, "lc_meson._s", inner)
    assert compiled_member("lc_meson") == inner.__file__
