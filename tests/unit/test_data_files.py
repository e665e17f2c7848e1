"""The files of packages that are sent as a whole, and the metadata of their distributions."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zipfile

import pytest

from lazycluster._functions.data_files import list_files, read_files
from lazycluster._functions.installed import find_metadata

pytestmark = pytest.mark.every_python

FILES = {
    "lc_data/__init__.py": b"",
    "lc_data/a.txt": b"a",
    "lc_data/sub/b.bin": b"\0\xff",
    "lc_data/sub/__pycache__/c.pyc": b"x",
    "lc_data/d.pyc": b"x",
    "lc_data/.hidden": b"h",
    "lc_datax/e.txt": b"e",
    "beside.txt": b"b",
}
EXPECTED = {"__init__.py": b"", "a.txt": b"a", "sub/b.bin": b"\0\xff", ".hidden": b"h"}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    importlib.invalidate_caches()


def spec_of(place, monkeypatch, name="lc_data"):
    monkeypatch.syspath_prepend(place)
    return importlib.util.find_spec(name)


def read(spec):
    found = read_files(spec, list_files(spec))
    root = os.path.dirname(spec.origin)
    return {os.path.relpath(path, root).replace(os.sep, "/"): text for path, text in found.items()}


def test_each_file_of_a_package_is_read_but_bytecode(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    (tmp_path / "lc_data" / ".#lock").symlink_to("nowhere")
    os.mkfifo(tmp_path / "lc_data" / "pipe")
    assert read(spec_of(tmp_path, monkeypatch)) == EXPECTED


@pytest.mark.parametrize("inside", ["", "lib/"])
def test_a_package_in_a_zip_file_has_its_files(tmp_path, monkeypatch, inside):
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(inside + name, content)
    assert read(spec_of(path / inside if inside else path, monkeypatch)) == EXPECTED


def test_a_listing_shows_what_has_changed(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    spec = spec_of(tmp_path, monkeypatch)
    before = list_files(spec)
    assert list_files(spec) == before
    os.utime(tmp_path / "lc_data" / "a.txt", ns=(1, 1))
    after = list_files(spec)
    assert after != before
    (tmp_path / "lc_data" / "a.txt").unlink()
    assert list_files(spec) != after


def test_a_module_has_no_files(tmp_path, monkeypatch):
    write(tmp_path, {"lc_single.py": b"", "a.txt": b""})
    assert list_files(spec_of(tmp_path, monkeypatch, "lc_single")) == ()


def test_a_folder_without_init_has_its_files(tmp_path, monkeypatch):
    write(tmp_path, {"lc_space/a.txt": b"a", "lc_space/mod.py": b""})
    spec = spec_of(tmp_path, monkeypatch, "lc_space")
    assert read_files(spec, list_files(spec)) == {
        str(tmp_path / "lc_space" / "a.txt"): b"a",
        str(tmp_path / "lc_space" / "mod.py"): b"",
    }


def test_metadata_is_found_by_the_name_of_the_distribution(tmp_path, monkeypatch):
    """Also of an editable installation, whose sources are elsewhere."""
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "none"), str(tmp_path)])
    text = b"Name: LC.Some-Thing\n"
    write(tmp_path, {"LC_Some.Thing-1.0.dist-info/METADATA": text, "x-1.dist-info/METADATA": b""})
    assert find_metadata("lc_some_thing", by_contents=False) == {"METADATA": text}
    assert find_metadata("lc_none", by_contents=False) == {}


@pytest.mark.parametrize("entry", ["lc_old.egg-info", "lc_old-1.0-py3.9.egg-info"])
def test_metadata_of_setuptools_is_found(tmp_path, monkeypatch, entry):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    write(tmp_path, {f"{entry}/PKG-INFO": b"Name: lc-old\n", f"{entry}/entry_points.txt": b"e"})
    found = find_metadata("lc_old", by_contents=False)
    assert found == {"PKG-INFO": b"Name: lc-old\n", "entry_points.txt": b"e"}


def test_metadata_is_found_by_what_a_distribution_has_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    record = b"lc_inner/__init__.py,,\n"
    write(tmp_path, {"Other-1.dist-info/METADATA": b"Name: Other\n"})
    write(tmp_path, {"Other-1.dist-info/RECORD": record})
    assert find_metadata("lc_inner", by_contents=True) == {"METADATA": b"Name: Other\n"}
    assert find_metadata("lc_inner", by_contents=False) == {}
