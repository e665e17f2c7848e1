"""What patterns leave out: what git ignores, and what cannot be a pattern."""

from __future__ import annotations

import os
import random
import shutil
import subprocess

import pytest

from lazycluster import RuntimeTask
from lazycluster._shared.patterns import compile_patterns

RULES = [
    # pattern, left out, not left out; a folder ends with a slash
    ("*.pyc", ["a.pyc", "x/y/b.pyc", "c.pyc/", ".pyc"], ["a.py", "a.pyc/b"]),
    ("build", ["build", "build/", "x/build"], ["builds", "x/rebuild"]),
    ("build/", ["build/", "x/build/"], ["build", "x/build"]),
    ("/build", ["build", "build/"], ["x/build"]),
    ("/build/", ["build/"], ["build", "x/build/"]),
    ("x/build", ["x/build", "x/build/"], ["build", "y/x/build"]),
    ("x/*", ["x/a", "x/.a", "x/a/"], ["x/", "x", "x/a/b", "y/x/a"]),
    ("**/build", ["build", "x/build", "x/y/build/"], ["builds"]),
    ("x/**", ["x/a", "x/a/b"], ["x/", "x"]),
    ("x/**/b", ["x/b", "x/y/b", "x/y/z/b/"], ["x/yb", "b"]),
    ("**/x/b", ["x/b", "y/x/b"], ["b"]),
    ("**/", ["x/", "x/y/"], ["x", "x/y"]),
    ("a?c", ["abc", "x/aéc"], ["a/c", "ac", "abbc"]),
    ("a[bc]x", ["abx", "acx"], ["aex", "a[bc]x"]),
    ("a[!b]x", ["acx"], ["abx", "a/x"]),
    ("a[^b-y]x", ["azx"], ["abx", "a/x"]),
    ("*a*b*c", ["abc", "xaxbxc", "abcabc", "x/abc"], ["acb", "ab", "a/b/c", "abcx"]),
    ("a*?b", ["axb", "axxb", "abb"], ["ab"]),
    ("*[ab]*[ab]", ["ab", "xaxb", "aab"], ["a", "xa"]),
    ("[]-]", ["]", "-"], ["a"]),
    ("[a\\]]", ["a", "]"], ["\\"]),
    ("[&&|~[]", ["&", "[", "~", "|"], ["a"]),
    ("\\!a", ["!a"], ["a"]),
    ("\\#a", ["#a"], ["a"]),
    ("\\*", ["*"], ["a"]),
    ("a\\ ", ["a "], ["a"]),
    ("a.(b)+{c}|$", ["a.(b)+{c}|$"], ["axbbc"]),
    ("line\nbreak*", ["line\nbreak\n"], ["line"]),
    ("\udcff*", ["\udcff\udcfe"], ["a"]),
]


def excluded(patterns, path):
    excludes = compile_patterns(patterns)
    return excludes(path.rstrip("/").encode("utf-8", "surrogateescape"), path.endswith("/"))


@pytest.mark.parametrize(("pattern", "out", "kept"), RULES, ids=[repr(row[0]) for row in RULES])
def test_a_pattern_leaves_out_what_git_ignores(pattern, out, kept):
    assert [path for path in out + kept if excluded([pattern], path)] == out


def test_the_last_pattern_that_matches_decides():
    patterns = ["*.log", "!keep.log", "/old/keep.log"]
    paths = ["a.log", "keep.log", "x/keep.log", "old/keep.log", "a.txt"]
    assert [path for path in paths if excluded(patterns, path)] == ["a.log", "old/keep.log"]


def test_many_stars_end_soon():
    """In time that does not grow with the number of stars."""
    excludes = compile_patterns(["x", "*a" * 30 + "b", "!" + "*a" * 30 + "c", "**/" * 5 + "*a*c"])
    assert not excludes(b"/".join([b"a" * 255] * 10), False)
    assert excludes(b"/".join([b"a" * 255] * 10) + b"c", False)


def test_no_pattern_leaves_out_nothing():
    assert compile_patterns([]) is None


PARTS = [
    "a",
    "b",
    "*",
    "*",
    "?",
    "**/",
    "/**/",
    "/",
    "[ab]",
    "[!a]",
    "\\*",
    "a.b",
    ".",
    "[a-c]",
    "x",
]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to compare with")
@pytest.mark.parametrize("seed", range(3))
def test_git_ignores_the_same(tmp_path, seed):
    """A random choice of patterns; those that are refused are left out."""
    drawn = random.Random(seed)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    paths = {}
    for above in ("", "a/", "ab/", "x/", "x/a/", "x/x/"):
        for name in ("a", "b", "ab", "a.b", "x", "*", "!", "aab", "c"):
            paths[above + name] = (above + name + "/") in ("a/", "ab/", "x/", "x/a/", "x/x/")
    for path, is_folder in paths.items():
        os.makedirs(tmp_path / path) if is_folder else (tmp_path / path).touch()
    for _ in range(60):
        patterns = ["".join(drawn.choices(PARTS, k=drawn.randint(1, 4))) for _ in range(3)]
        patterns = [drawn.choice(["", "", "!"]) + pattern for pattern in patterns]
        # git reads `a**/b` as `a*` `**/b`, against its own documentation.
        if any("**" in pattern.replace("/**/", "").removeprefix("**/") for pattern in patterns):
            continue
        try:
            excludes = compile_patterns(patterns)
        except ValueError:
            continue
        (tmp_path / ".gitignore").write_text("\n".join(patterns) + "\n")
        command = ["git", "-C", tmp_path, "check-ignore", "--no-index", "--stdin", "-z"]
        told = subprocess.run(
            command, input="\0".join(paths).encode(), stdout=subprocess.PIPE, check=False
        )
        ours = set()
        for path, is_folder in paths.items():  # a folder comes before what is in it
            if path.rpartition("/")[0] in ours or excludes(path.encode(), is_folder):
                ours.add(path)
        assert ours == set(filter(None, told.stdout.decode().split("\0"))), patterns


BAD = ["", " ", "!", "/", "//", "!!a", "#a", "a//b", "./a", "a/..", "a ", "a\0", "[a", "[z-a]"]
BAD += ["[[:alpha:]]", "a\\", "\ud800", "a/\\"]


@pytest.mark.parametrize("pattern", BAD, ids=repr)
def test_a_pattern_that_cannot_be_is_a_value_error(pattern, no_process):
    """It names the pattern; nothing is added to the task."""
    task = RuntimeTask()
    for method in (task.send_file, task.get_file):
        with pytest.raises(ValueError, match=r"pattern|surrogates") as caught:
            method("a", "b", exclude=["good", pattern])
        assert repr(pattern) in str(caught.value)
    assert task.steps == ()


@pytest.mark.parametrize("exclude", ["*.pyc", None, {"a"}, [b"a"], [5], 5], ids=repr)
def test_what_is_not_a_list_of_patterns_is_a_type_error(exclude, no_process):
    """The letters of a string are not meant."""
    with pytest.raises(TypeError, match="exclude"):
        RuntimeTask().send_file("a", exclude=exclude)
