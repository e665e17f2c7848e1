"""Serve the data files and the metadata of packages that the manager has sent, from memory.

The paths are those of the manager, so that a path made from `__file__` is known to `get_data`.
importlib.resources sees the files as those of a package in a zip file.
"""

import io
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Iterator


class Files:
    """The data files of all packages that were sent."""

    def __init__(self) -> "None":
        self._contents = {}  # type: dict[str, bytes]
        self._zipped = None  # type: bytes | None

    def add(self, contents: "dict[str, bytes]") -> "None":
        """Take files by their paths."""
        self._contents.update(contents)

    def read(self, path: "str") -> "bytes":
        """Return a file; raise FileNotFoundError if there is none."""
        try:
            return self._contents[os.path.normpath(path)]
        except KeyError:
            raise FileNotFoundError(2, "No such file among those that were sent", path) from None

    def has(self, path: "str") -> "bool":
        return os.path.normpath(path) in self._contents

    def names(self, folder: "str") -> "set[str]":
        """Return the names in a folder."""
        start = os.path.join(folder, "")
        below = [path[len(start) :] for path in self._contents if path.startswith(start)]
        return {path.partition(os.sep)[0] for path in below}

    def archive(self) -> "Any":
        """Return the files as a zip file; zipfile.Path changes it, so each is a new one."""
        import zipfile

        class Archive(zipfile.ZipFile):
            """A zip file whose path is the root, for importlib.resources of Python 3.9."""

            def __fspath__(self) -> "str":
                return os.sep

        if self._zipped is None:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for path, content in self._contents.items():
                    archive.writestr(zipfile.ZipInfo(path.lstrip(os.sep)), content)
            self._zipped = buffer.getvalue()
        return Archive(io.BytesIO(self._zipped))


class Reader:
    """Read the data files of one package; see importlib.resources.abc.TraversableResources."""

    def __init__(self, files: "Files", folder: "str") -> "None":
        self._files = files
        self._folder = folder

    def files(self) -> "Any":
        import zipfile

        inside = os.path.normpath(self._folder).strip(os.sep) + "/"
        return zipfile.Path(self._files.archive(), inside)

    def open_resource(self, resource: "str") -> "BinaryIO":
        return io.BytesIO(self._files.read(os.path.join(self._folder, resource)))

    def resource_path(self, resource: "str") -> "str":
        raise FileNotFoundError(resource)  # then a temporary file is made

    def is_resource(self, name: "str") -> "bool":
        return self._files.has(os.path.join(self._folder, name))

    def contents(self) -> "Iterator[str]":
        return iter(sorted(self._files.names(self._folder)))


def find_distributions(metadata: "list[dict[str, bytes]]", name: "str | None") -> "list[Any]":
    """Return the distributions with a name, or all; see importlib.metadata.Distribution."""
    from importlib.metadata import Distribution

    class SentDistribution(Distribution):
        """Metadata that the manager has sent."""

        def __init__(self, files: "dict[str, bytes]") -> "None":
            self._files = files

        def read_text(self, filename: "Any") -> "str | None":
            content = self._files.get(str(filename))
            return None if content is None else content.decode("utf-8", "replace")

        def locate_file(self, path: "Any") -> "Any":
            return path

    found = [SentDistribution(files) for files in metadata]
    return [each for each in found if name is None or _same(each.metadata["Name"], name)]


def _same(one: "str", other: "str") -> "bool":
    return _words(one) == _words(other)


def _words(name: "str") -> "list[str]":
    return list(filter(None, name.lower().replace("_", "-").replace(".", "-").split("-")))
