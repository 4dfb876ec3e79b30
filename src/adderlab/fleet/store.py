"""Where shards leave their state, so that any machine can go on with it.

A folder that every machine sees, or a URL that fsspec knows (file, s3, gs, ...). Objects are small and
written whole: a reader sees the old one or the new one.
"""

from __future__ import annotations

from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from adderlab.errors import Failure, UsageError
from adderlab.runs.atomic import disk_failure, make_folder, write_bytes


class Store:
    """Named objects below one place."""

    def __init__(self, url: str) -> None:
        """Raises ``UsageError`` for a URL of an unknown kind, or one whose package is missing."""
        self.url = url
        try:
            self._system, self._root = fsspec.url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"--store {url}: {error} (pip install it on every machine)") from error
        except ValueError as error:
            raise UsageError(f"--store {url}: {error}; use a folder, file://, s3:// or gs://") from error
        self._system.use_listings_cache = False

    @property
    def folder(self) -> Path | None:
        """The folder, if the store is one."""
        return Path(self._root) if isinstance(self._system, LocalFileSystem) else None

    def write(self, name: str, data: bytes) -> None:
        """Replace an object, all or nothing. Raises ``Failure``."""
        path = self._path(name)
        if self.folder is not None:
            make_folder(Path(path).parent)
            write_bytes(path, data)
            return
        try:
            self._system.pipe_file(path, data)
        except OSError as error:
            raise disk_failure(error, f"{self.url}/{name}", "write") from error

    def read(self, name: str) -> bytes | None:
        """An object, None if there is none. Raises ``Failure``."""
        try:
            return bytes(self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_failure(error, f"{self.url}/{name}", "read") from error

    def must_read(self, name: str) -> bytes:
        """An object that has to be there. Raises ``Failure``."""
        data = self.read(name)
        if data is None:
            raise Failure(
                f"{self.url}/{name} is not there; every machine must see the same store: use a shared "
                "folder, or --store s3://... or gs://..."
            )
        return data

    def remove(self, names: list[str]) -> None:
        """Delete objects, as far as they are there, and the folders that this leaves empty."""
        for name in names:
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_failure(error, f"{self.url}/{name}", "remove") from error
        if self.folder is not None:
            below = {Path(self._path(name)).parent for name in names}
            for folder in (*below, self.folder):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
