"""A folder of objects, local or in a bucket, with what every object store offers and nothing more.

An object appears whole or not at all, may be made on condition that it is absent, and is never appended to or
renamed. Local files get the same by a temporary file, fsync, and a link or a replace of that one file.
"""

import contextlib
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.whole import TEMPORARY, whole_file


class Store(Protocol):
    """Objects by name; names use `/`."""

    where: str

    def put(self, name: str, data: bytes) -> None:
        """Makes or replaces an object."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Makes an object unless there is one; whether it was made."""
        ...

    def get(self, name: str) -> bytes | None: ...

    def delete(self, name: str) -> None: ...

    def names(self) -> set[str]:
        """All objects."""
        ...

    def prune(self, name: str) -> None:
        """Removes a folder and those in it as far as they are empty, where there are folders."""
        ...


class Folder:
    """A local folder."""

    def __init__(self, path: str) -> None:
        self.where = path
        self.root = argument.path(path, "output")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output {path} cannot be made ({error.strerror}): choose another folder") from None
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise InputError(f"output {path} is read-only: make it writable, or choose another folder")

    def put(self, name: str, data: bytes) -> None:
        self._write(name, data, os.replace)

    def create(self, name: str, data: bytes) -> bool:
        if (self.root / name).exists():
            return False
        try:
            self._write(name, data, os.link)  # unlike a replace, fails where there is one
        except FileExistsError:
            return False
        return True

    def _write(self, name: str, data: bytes, place: Callable[[pathlib.Path, pathlib.Path], None]) -> None:
        path = self.root / name
        for _ in range(100):  # another worker may remove a folder as long as it is empty
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                with whole_file(path, place=place) as file:
                    file.write(data)
                return
        raise InputError(f"output {self.where}: its folders vanish while they are written to: choose another folder")

    def get(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except (IsADirectoryError, PermissionError) as error:
            raise InputError(
                f"output {self.where}: {name} cannot be read ({error.strerror}): remove it, or choose another folder"
            ) from None

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        files = (path for path in self._files() if not path.name.startswith(".") and path.is_file())
        return {path.relative_to(self.root).as_posix() for path in files}

    def _files(self) -> Iterator[pathlib.Path]:
        """`os.walk` passes over folders that vanish while they are listed; pathlib's own walks raise."""
        return (pathlib.Path(folder, name) for folder, _, names in os.walk(self.root) for name in names)

    def prune(self, name: str) -> None:
        for folder, _, _ in os.walk(self.root / name, topdown=False):
            with contextlib.suppress(OSError):  # not empty, or gone
                os.rmdir(folder)

    def tidy(self) -> None:
        """Removes what a killed writer left half written; call it only when nobody else writes here."""
        for path in self._files():
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)


class Bucket:
    """A prefix of an object store, through fsspec (gs://, s3://, az://, memory://, ...)."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.where = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"output {url}: {' '.join(str(error).split())}") from None
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def put(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def names(self) -> set[str]:
        self._fs.invalidate_cache()
        files: Any = self._fs.find(self._root)
        return {path.removeprefix(f"{self._root}/") for path in files}

    def prune(self, name: str) -> None:
        pass


def store(where: str) -> Store:
    """The store of a path or URL; file:// is a path. Raises InputError where it cannot be written."""
    if where.startswith("file://"):
        parts = urllib.parse.urlsplit(where)
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise InputError(f"output {where}: write file:///PATH, or the path alone")
        return Folder(urllib.parse.unquote(parts.path))
    return Bucket(where) if "://" in where else Folder(where)
