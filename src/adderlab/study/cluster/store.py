"""Where shards leave their state, so that any machine can go on with it.

A folder that every machine sees, or a URL that fsspec knows (file, s3, gs, ...). Objects are small and
written whole: a reader sees the old one or the new one.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import disk_failure, make_folder, write_bytes

BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Protocols whose URLs begin with a bucket's name."""

# s3fs reads a large object in several requests at once, between which another worker may replace it:
# the reader would get half of each. One request gets one object.
_OPTIONS: dict[str, dict[str, Any]] = {protocol: {"max_concurrency": 1} for protocol in ("s3", "s3a")}

# It logs, with a traceback, what our ``Failure`` says in a line.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class Store:
    """Named objects below one place."""

    def __init__(self, url: str) -> None:
        """Raises ``UsageError`` for a URL of an unknown kind, or one whose package is missing."""
        self.url = url
        protocol = get_protocol(url)
        try:
            self._system, self._root = fsspec.url_to_fs(url, **_OPTIONS.get(protocol, {}))
        except ImportError as error:
            raise UsageError(f"--store {url}: {error} (pip install it on every machine)") from error
        except ValueError as error:
            raise UsageError(f"--store {url}: {error}; use a folder, file://, s3:// or gs://") from error
        if protocol in BUCKETS and not self._root.strip("/"):
            raise UsageError(f"--store {url} names no bucket; write {protocol}://BUCKET/PATH")
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
        except Exception as error:
            raise self._failure(error, name, "write") from error

    def read(self, name: str) -> bytes | None:
        """An object, None if there is none. Raises ``Failure``."""
        try:
            return bytes(self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(error, name, "read") from error

    def must_read(self, name: str) -> bytes:
        """An object that has to be there. Raises ``Failure``."""
        data = self.read(name)
        if data is None:
            raise Failure(
                f"{self._object(name)} is not there; every machine must see the same store: use a "
                "shared folder, or --store s3://... or gs://..."
            )
        return data

    def remove(self, names: list[str]) -> None:
        """Delete objects, as far as they are there, and the folders that this leaves empty."""
        for name in names:
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._failure(error, name, "remove") from error
        if self.folder is not None:
            below = {Path(self._path(name)).parent for name in names}
            for folder in (*below, self.folder):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _failure(self, error: Exception, name: str, action: str) -> Failure:
        """One line. The packages behind fsspec raise errors of their own, with no class in common."""
        if self.folder is not None and isinstance(error, OSError):
            return disk_failure(error, self._path(name), action)
        whole = f"cannot {action} {self._object(name)}"
        if isinstance(error, FileNotFoundError):
            return Failure(f"{whole}: there is no such bucket; make it first")
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return Failure(
            f"{whole}: {reason}; check the store's address, and on every machine endpoint and "
            "credentials (docs/scale.md)"
        )

    def _object(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"
