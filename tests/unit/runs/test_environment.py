"""What a run ran on, and which commit of which checkout."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adderlab import __version__
from adderlab.runs import metadata


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which a copy of the module is the one asked."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(tmp_path, "init", "-q")
    module = tmp_path / "metadata.py"
    module.write_text("")
    monkeypatch.setattr(metadata, "__file__", str(module))
    return tmp_path


def test_table_is_complete_and_plain() -> None:
    found = metadata.collect_environment("cpu", ["adderlab", "train", "456p"])
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["adderlab"] == __version__
    assert found["threads"] == torch.get_num_threads()
    assert found["command"] == ["adderlab", "train", "456p"]
    assert (found["device"], found["device_name"]) == ("cpu", None)
    assert found["cpu"] and found["platform"] and found["numpy"]
    assert metadata.collect_environment("cpu")["command"] == sys.argv


def test_revision_of_a_checkout(checkout: Path) -> None:
    git(checkout, "add", "metadata.py")
    git(checkout, "commit", "-q", "-m", "one")
    head = git(checkout, "rev-parse", "HEAD")
    assert len(head) == 40
    assert metadata.git_revision() == head
    (checkout / "untracked").write_text("")
    assert metadata.git_revision() == head
    (checkout / "metadata.py").write_text("changed")
    assert metadata.git_revision() == head + "-dirty"


def test_no_revision_for_a_copy_inside_a_foreign_repository(checkout: Path) -> None:
    (checkout / "other").write_text("")
    git(checkout, "add", "other")
    git(checkout, "commit", "-q", "-m", "one")
    assert metadata.git_revision() is None


def test_no_revision_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(checkout, "add", "metadata.py")
    git(checkout, "commit", "-q", "-m", "one")
    monkeypatch.setenv("PATH", str(checkout))
    assert metadata.git_revision() is None
