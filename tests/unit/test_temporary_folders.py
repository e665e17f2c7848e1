"""What is temporary is removed, and nothing else is touched, whatever has been done to it."""

from __future__ import annotations

import os
import stat

import pytest

from lazycluster._shared import folders


@pytest.fixture
def place(tmp_path):
    """A folder of another user, which must stay as it is."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o755)
    (place / "keep").write_text("kept")
    (place / "keep").chmod(0o644)
    yield place
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert os.listdir(place) == ["keep"]
    assert (place / "keep").read_text() == "kept"
    assert stat.S_IMODE((place / "keep").stat().st_mode) == 0o644


def test_f33_half_a_file_is_removed_from_its_folder(place):
    """The folder is the user's, whose mode is not to be changed."""
    (place / "half").touch()
    assert folders.remove_tree(str(place / "half")) is True


def test_f45_links_are_removed_as_links(place, tmp_path):
    """To a folder, to a file, to nothing, and to the root."""
    tree = place / "tree"
    (tree / "below").mkdir(parents=True)
    for number, target in enumerate((place, place / "keep", tmp_path / "nothing", "/")):
        (tree / f"link {number}").symlink_to(target)
        (tree / "below" / f"link {number}").symlink_to(target)
    assert folders.remove_tree(str(tree)) is True


@pytest.mark.parametrize("target", ["place", "place/keep", "nothing"])
def test_f45_a_link_in_its_place_is_removed_as_a_link(place, tmp_path, target):
    """Another process has removed the directory and put a link there."""
    (place / "link").symlink_to(tmp_path / target)
    assert folders.remove_tree(str(place / "link")) is True


def test_f45_what_somebody_has_removed_is_no_failure(place):
    assert folders.remove_tree(str(place / "gone")) is True


def test_f45_read_only_folders_are_removed(place):
    """With what is in them, for an account that is not root's as well."""
    tree = place / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").touch()
    (tree / "below").chmod(0o500)
    tree.chmod(0o500)
    assert folders.remove_tree(str(tree)) is True
