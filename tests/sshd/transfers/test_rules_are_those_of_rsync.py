"""The tables of rules in docs/guide.md: each row is tried, and compared with `rsync -rlt`."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from lazycluster._shared import folders
from support.machine import longest_name
from support.rsync import OLD, differences, picture, rsync, rsync_from, set_times, table
from support.transfers import both_ways, copy_of


def make_source(folder):
    """What the table says about the source, with one of each that travels."""
    (folder / "dist" / "css").mkdir(parents=True)
    (folder / "dist" / "empty").mkdir()
    (folder / "a.txt").write_text("new a")
    (folder / "dist" / "index.html").write_text("new index")
    (folder / "dist" / "css" / "style.css").write_text("new style")
    (folder / "dist" / "css" / "read only").write_text("read only")
    (folder / "dist" / "latest").symlink_to("css")
    (folder / "dist" / "dangling").symlink_to("nowhere")
    (folder / "to-a").symlink_to("a.txt")
    (folder / "to-dist").symlink_to("dist")
    set_times(folder, OLD - 10**18 // 2)
    (folder / "dist" / "css" / "read only").chmod(0o444)


def make_target(folder):
    """What the table says about the other side; some of it is in the way of the copy."""
    (folder / "folder" / "css").mkdir(parents=True)
    (folder / "folder" / "dist" / "css").mkdir(parents=True)
    (folder / "dist").mkdir()
    (folder / "b.txt").write_text("old b")
    (folder / "folder" / "kept").write_text("kept")
    (folder / "folder" / "index.html").write_text("old index")
    (folder / "folder" / "latest").write_text("old")
    (folder / "folder" / "dist" / "kept").write_text("kept")
    (folder / "folder" / "dist" / "index.html").write_text("old index")
    (folder / "folder" / "dist" / "css" / "style.css").symlink_to("../kept")
    (folder / "link").symlink_to("folder")
    (folder / "to-b").symlink_to("b.txt")
    set_times(folder)


RULES = [
    pytest.param(
        ast.literal_eval(source.strip("`")),
        None if target == "none" else ast.literal_eval(target.strip("`")),
        arguments.strip("`"),
        id=f"{source} to {target}",
    )
    for source, target, _, arguments in table("source | target | the copy is | `rsync -rlt`")
]


@both_ways
@pytest.mark.parametrize(("what", "target", "arguments"), RULES)
def test_copy_is_where_the_table_says(runtime, way, sides, what, target, arguments):
    """A second time changes nothing."""
    source, ours, theirs = sides
    make_source(source)
    make_target(ours)
    shutil.copytree(ours, theirs, symlinks=True)
    rsync_from(source, theirs, arguments)
    before = picture(source)
    copy_of(what, runtime, way, target)
    assert differences(ours, theirs) == {}
    assert picture(source) == before
    if (what, target) != ("dist", "new"):  # it is there now
        copy_of(what, runtime, way, target)
        assert differences(ours, theirs) == {}


# --- What is in a folder ---


def odd_names(folder):
    """What a shell, a pattern, a program's options or a path would take for something else."""
    for name in (
        b"a\nb",
        b"\xff\xfe",
        b"-rf",
        b"--delete",
        b"~",
        b"$HOME",
        b"a:b",
        b"*",
        b"\\",
        b"'",
    ):
        for end in (b"", b" file"):
            path = os.path.join(os.fsencode(folder), name + end)
            Path(os.fsdecode(path)).write_bytes(name) if end else os.mkdir(path)
    longest = longest_name()
    # rsync's temporary names have up to 255 bytes, also where fewer are allowed.
    (folder / ("x" * (longest if longest >= 255 else longest - 8))).touch()
    (folder / ".hidden").touch()
    (folder / " ").touch()
    (folder / "u\u0308").write_text("two characters")
    (folder / "\u00fc").write_text("one character")


def times(folder):
    """To the nanosecond, before 1970 and behind 2038."""
    for time in (0, 1, -1, OLD, -1_000_000_000_000_000_001, 5_000_000_000_123_456_789):
        for path in (folder / f"file {time}", folder / f"folder {time}"):
            path.touch() if path.name.startswith("file") else path.mkdir()
            os.utime(path, ns=(time, time))


def links(folder):
    """They lead to anything or nothing, and are never followed."""
    (folder / "sub").mkdir()
    (folder / "file").write_text("file")
    for number, target in enumerate(
        ("file", "sub", "sub/", ".", "..", "nowhere", "/etc/passwd", "6", "a\nb", "x" * 4000, "-rf")
    ):
        (folder / f"{number}").symlink_to(target)
        (folder / "sub" / f"{number}").symlink_to(target)
        os.utime(folder / f"{number}", ns=(OLD, OLD - number), follow_symlinks=False)


def nothing(folder):
    """An empty folder arrives, too."""


def empty_ones(folder):
    """Folders without files, and files without data."""
    (folder / "a" / "b" / "c").mkdir(parents=True)
    (folder / "a" / "empty").touch()


def read_only_ones(folder):
    """What is in them arrives, and they are read-only there."""
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "inner" / "file").write_text("inner")
    (folder / "outer" / "file").write_text("outer")
    (folder / "outer" / "file").chmod(0o400)
    (folder / "outer" / "inner").chmod(0o555)
    (folder / "outer").chmod(0o500)


def hard_links_and_holes(folder):
    """The contents arrive."""
    (folder / "one").write_text("names")
    os.link(folder / "one", folder / "two")
    os.truncate(folder / "one", 3_000_000)


def special_files(folder):
    """They are left out."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(folder / "socket"))
    (folder / "file").touch()


def many_and_deep(folder):
    """More than one chunk of the stream."""
    for number in range(300):
        (folder / f"{number}").write_bytes(b"%d" % number * 1000)
    folder.joinpath(*["deep"] * 100).mkdir(parents=True)
    folder.joinpath(*["deep"] * 100, "file").write_text("deep")


CONTENTS = [
    odd_names,
    times,
    links,
    nothing,
    empty_ones,
    read_only_ones,
    hard_links_and_holes,
    special_files,
    many_and_deep,
]


@both_ways
@pytest.mark.parametrize("fill", CONTENTS, ids=lambda fill: fill.__name__)
def test_contents_of_a_folder_arrive_as_with_rsync(runtime, way, sides, fill, tmp_path):
    """In a new folder, a second time, and in a folder with other files."""
    source, ours, theirs = sides
    (source / "dist").mkdir()
    fill(source / "dist")
    os.utime(source / "dist", ns=(OLD, OLD))
    make_target(ours)
    shutil.copytree(ours, theirs, symlinks=True)
    before = picture(source)
    for target in ("new", "new", "folder"):
        rsync_from(source, theirs, f"dist/ {target}")
        copy_of("dist/", runtime, way, target)
        assert differences(ours, theirs) == {}
    assert picture(source) == before
    for folder in ("source", "ours", "rsync's"):  # pytest could not remove what is read-only
        assert folders.remove_tree(str(tmp_path / folder))


# --- What surrounds the target ---


@pytest.fixture
def bind_mount(tmp_path):
    """A function that makes a folder lead to another one on the same device."""
    mounted = []

    def mount(folder):
        other = tmp_path / f"behind {len(mounted)}"
        other.mkdir()
        folder.mkdir(parents=True)
        done = subprocess.run(["mount", "--bind", other, folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted: {done.stderr}")
        mounted.append(folder)
        return other

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@both_ways
def test_mounts_in_the_target_are_written_into(runtime, way, sides, bind_mount):
    """A file can be renamed within a mount only."""
    source, ours, theirs = sides
    make_source(source)
    set_times(source)
    behind = [bind_mount(folder / "folder" / "css") for folder in (ours, theirs)]
    for _ in range(2):
        rsync_from(source, theirs, "dist/ folder")
        copy_of("dist/", runtime, way, "folder")
        assert differences(ours, theirs) == {}
    assert sorted(os.listdir(behind[0])) == ["read only", "style.css"]
    assert differences(*behind) == {}


@both_ways
def test_target_may_be_a_mount(runtime, way, sides, bind_mount):
    """Its parent is of no interest."""
    source, ours, theirs = sides
    make_source(source)
    behind = [bind_mount(folder / "folder") for folder in (ours, theirs)]
    rsync_from(source, theirs, "dist/ folder")
    copy_of("dist/", runtime, way, "folder")
    assert differences(*behind) == {}


# --- Options ---

EXCLUDES = {
    ("*.pyc",): ("--exclude=*.pyc",),
    ("/build",): ("--exclude=/build",),
    ("docs/*.pdf",): ("--exclude=/docs/*.pdf",),
    ("build/",): ("--exclude=build/",),
    ("**/logs",): ("--exclude=logs",),
    ("logs/**",): ("--exclude=/logs/**",),
    ("a/**/b",): ("--exclude=/a/b", "--exclude=/a/**/b"),
    ("[a-c]?",): ("--exclude=[a-c]?",),
    ("*.pyc", "!keep.pyc"): ("--include=keep.pyc", "--exclude=*.pyc"),
    (r"\*.pyc",): (r"--exclude=\*.pyc",),
    ("*",): ("--exclude=*",),
}
"""Patterns of the guide's table → the same for rsync, whose first match decides."""


def make_project(folder):
    """Something for each of the patterns, at the top and below."""
    for path in (
        *("main.pyc", "main.py", "keep.pyc", "*.pyc", "ab", "abc", "dz/ax/x"),
        *("build/x", "logs/x", "logs/deep/x", "docs/a.pdf", "docs/deep/a.pdf"),
        *("a/b/x", "a/x/b", "a/x/y/b/z", "a/bb"),
    ):
        for root in (folder, folder / "sub", folder / "sub" / "build"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(path)
    (folder / "sub" / "docs" / "build").symlink_to("deep")
    (folder / "sub" / "logs" / "build").write_text("a file")
    set_times(folder)


@both_ways
@pytest.mark.parametrize("patterns", EXCLUDES, ids=" ".join)
def test_patterns_leave_out_what_rsync_leaves_out(runtime, way, sides, patterns):
    """In a new folder, and in one that is there, where nothing of that name is touched."""
    source, ours, theirs = sides
    make_project(source / "dist")
    make_project(ours / "folder")
    for path in (ours / "folder").rglob("*.py*"):
        path.write_text("of the target")
    shutil.copytree(ours, theirs, symlinks=True)
    for target in ("new", "folder"):
        rsync(*EXCLUDES[patterns], f"{source}/dist/", theirs / target)
        copy_of("dist/", runtime, way, target, exclude=list(patterns))
        assert differences(ours, theirs) == {}
    if patterns == ("*",):
        assert os.listdir(ours / "new") == []


def test_each_pattern_of_the_guide_is_tried():
    """Those that are literal text are tried in the unit tests."""
    cells = [row[0] for row in table("pattern | leaves out")]
    patterns = {name for cell in cells for name in re.findall("`([^`]+)`", cell)}
    assert patterns <= {name for names in EXCLUDES for name in names}


def change(folder):
    """Change a tree in each way that a copy may or may not see; some of it is as it was."""
    (folder / "a/b/x").write_text("another size")
    (folder / "keep.pyc").write_text("keep.PYC")  # of the same size
    (folder / "main.py").write_text("MAIN.PY")
    times = os.stat(folder / "sub/main.py")
    (folder / "sub/main.py").write_text("SUB/main.py"[:7])  # of the same size and time
    os.utime(folder / "sub/main.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(folder / "abc", ns=(OLD, OLD - 10**18))
    (folder / "added").write_text("added")
    (folder / "sub" / "added").mkdir()
    (folder / "sub/docs/build").unlink()
    (folder / "sub/docs/build").symlink_to("a.pdf")
    (folder / "ab").rename(folder / "renamed")
    shutil.rmtree(folder / "logs")
    (folder / "logs").write_text("a file in place of a folder")


SOME = (["*.pyc", "build/"], ["--exclude=*.pyc", "--exclude=build/"])
OPTIONS = [
    ({"only_changed": True}, []),
    ({"only_changed": True, "exclude": SOME[0]}, SOME[1]),
    ({"in_place": True}, ["-I", "--inplace"]),
    ({"delete": True}, ["-I", "--delete"]),
    ({"delete": True, "only_changed": True}, ["--delete"]),
    ({"delete": True, "exclude": SOME[0]}, ["-I", "--delete", *SOME[1]]),
    ({"delete": True, "only_changed": True, "exclude": ["/a"]}, ["--delete", "--exclude=/a"]),
]


@both_ways
@pytest.mark.parametrize(("options", "arguments"), OPTIONS, ids=str)
def test_options_do_what_those_of_rsync_do(runtime, way, sides, options, arguments):
    """First to a folder that is not there, then after changes, then once more."""
    source, ours, theirs = sides
    make_project(source / "dist")
    theirs.mkdir()
    rsync(*arguments, f"{source}/dist/", theirs / "new")
    copy_of("dist/", runtime, way, "new", **options)
    assert differences(ours, theirs) == {}
    change(source / "dist")
    for folder in (ours, theirs):
        shutil.rmtree(folder / "new" / "logs")  # else our copy would be an error
        (folder / "new" / "only there").mkdir()
        (folder / "new" / "only there" / "main.pyc").touch()
        (folder / "new" / "sub" / "only there").touch()
        set_times(folder / "new" / "only there")
        set_times(folder / "new" / "only there")
        os.utime(folder / "new" / "sub" / "only there", ns=(OLD, OLD))
    for _ in range(2):
        rsync(*arguments, f"{source}/dist/", theirs / "new")
        copy_of("dist/", runtime, way, "new", **options)
        assert differences(ours, theirs) == {}
