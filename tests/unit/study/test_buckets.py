"""Run stores in buckets, over the wire: S3 as moto's server speaks it, Google's as gcp-storage-emulator
does, both on this machine.

The packages are in no extra of adderlab: pip install 'moto[server]' s3fs gcp-storage-emulator gcsfs
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import Failure, UsageError
from adderlab.study import shards as fleet_shards
from adderlab.study.cluster import ShardedRun, Stopped, train_sharded
from adderlab.study.shards import Store, Task
from adderlab.training.run import Job
from helpers.fleets import COMPUTE, CONFIG, RECIPE, InProcessFleet, train_here
from helpers.run_files import results

# Warnings of other people's packages, in their threads.
pytestmark = [
    pytest.mark.usefixtures("unflushed"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning"),
]

NEEDS = "needs pip install 'moto[server]' s3fs gcp-storage-emulator gcsfs"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket."""
    server_module = pytest.importorskip("moto.server", reason=NEEDS)
    s3fs = pytest.importorskip("s3fs", reason=NEEDS)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket/runs"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    """The URL of a bucket."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=NEEDS)
    with pytest.MonkeyPatch.context() as patch:
        # Before the import, or it asks Google's metadata server what kind of bucket it is.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        gcsfs = pytest.importorskip("gcsfs", reason=NEEDS)
        server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
        server.start()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield "gs://bucket/runs"
    server.stop()
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def test_objects_are_there_replaced_and_gone(bucket: str) -> None:
    store, other = Store(f"{bucket}/deep"), Store(f"{bucket}/deep/")
    assert store.folder is None and store.read("a/b.zip") is None
    store.write("a/b.zip", b"one")
    assert other.read("a/b.zip") == b"one"
    other.write("a/b.zip", os.urandom(3 << 20) + b"two")
    assert (store.read("a/b.zip") or b"")[-3:] == b"two"
    store.remove(["a/b.zip", "a/never.zip"])
    assert other.read("a/b.zip") is None
    with pytest.raises(Failure, match=rf"{bucket}/deep/a/b\.zip is not there"):
        other.must_read("a/b.zip")


def test_a_large_object_is_read_in_one_request(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two requests another worker may replace it."""
    store, asked = Store(s3), []
    system: Any = store._system
    monkeypatch.setattr(type(system), "default_block_size", 1000)
    call = system._call_s3

    async def watched(method: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(method)
        return await call(method, *args, **kwargs)

    monkeypatch.setattr(system, "_call_s3", watched)
    store.write("large", bytes(5000))
    asked.clear()
    assert store.read("large") == bytes(5000) and asked == ["get_object"]


def objects(url: str) -> list[str]:
    system = Store(url)._system
    return [] if not system.exists(url) else system.find(url)


def test_a_run_interrupted_twice_is_the_run_of_one_machine(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies after its first push; the machine that hands out the shards is stopped; the objects
    are gone when the run is merged."""
    job = Job(config=CONFIG, recipe=RECIPE, seeds=(3, 4, 7), folder=tmp_path / "parts", run_name="same")
    train_here(Job(**(vars(job) | {"folder": tmp_path / "whole"})))
    monkeypatch.setattr(fleet_shards, "PUSH_SECONDS", 0.0)
    push = fleet_shards._Work._push

    class Killed(BaseException):
        pass

    def killing(self: Any, name: str, step: int) -> None:
        push(self, name, step)
        raise Killed

    with (
        ShardedRun.create(job, COMPUTE, shards=2, store=f"{bucket}/run") as run,
        monkeypatch.context() as patch,
    ):
        patch.setattr(fleet_shards._Work, "_push", killing)
        with pytest.raises(Killed):
            InProcessFleet().carry_out(run.tasks(), lambda done: None)
    names = sorted(name.rpartition("/")[2] for name in objects(f"{bucket}/run"))
    assert names == ["plan.json", "shard_0000.json", "shard_0000.zip"]
    begun: list[Task] = []

    def stopping(task: Task) -> None:
        begun.append(task)
        if len(begun) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_sharded(job, InProcessFleet(stopping), resume=True)
    outcome = train_sharded(job, InProcessFleet(), resume=True)
    assert outcome.status == "done"
    assert results(tmp_path / "whole") == results(tmp_path / "parts")
    assert objects(f"{bucket}/run") == []


def test_what_is_wrong_with_a_bucket_is_one_line(bucket: str) -> None:
    protocol = bucket.partition(":")[0]
    with pytest.raises(
        UsageError, match=f"{protocol}:// names no bucket; write {protocol}://BUCKET/PATH"
    ):
        Store(f"{protocol}://")
    missing = Store(f"{protocol}://nobody-s-bucket/x")
    with pytest.raises(
        Failure, match=f"cannot write {protocol}://nobody-s-bucket/x/plan.json: "
    ) as refused:
        missing.write("plan.json", b"1")
    assert "\n" not in str(refused.value) and "bucket" in str(refused.value).partition("plan.json")[2]


def test_a_server_that_is_not_there_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only S3: gcsfs tries again for half a minute."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs = pytest.importorskip("s3fs", reason=NEEDS)
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(s3)
    store._system.retries = 1
    for act in (lambda: store.write("x", b"1"), lambda: store.read("x"), lambda: store.remove(["x"])):
        with pytest.raises(Failure, match="endpoint and credentials") as refused:
            act()
        assert "127.0.0.1:9" in str(refused.value) and "\n" not in str(refused.value)
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_credentials_are_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs = pytest.importorskip("s3fs", reason=NEEDS)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Failure, match="cannot write s3://bucket/runs/x: Unable to locate credentials"):
        Store(s3).write("x", b"1")
    s3fs.S3FileSystem.clear_instance_cache()
