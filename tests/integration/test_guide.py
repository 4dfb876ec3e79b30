"""The README and the guide work as printed: every command of theirs, in order, in one folder, with small
numbers in place of theirs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

SMALLER = {
    # Proved within seconds, by the recipe that is best for it.
    "adderlab train 456p --until proved": "adderlab train 7p --until proved --threads 1",
    "adderlab train 456p --seeds 0-15": "adderlab train 7p --seeds 7000-7001",
    "--recipe published --seeds 0-15": "--recipe published --seeds 0-1 --steps 100 --no-prove",
}
"""What stands in the documents -> what is run."""
SERIES = """
schema_version = 1
name = "small"
title = "A small series"

[[experiment]]
name = "E1"
title = "A few steps"

[[experiment.step]]
command = '''adderlab train 456p --recipe published --seeds 3 --steps 60 --run-name few \\
  --evaluate none --no-prove'''
run = "results/runs/few"

[[experiment]]
name = "E4"
title = "What is not here"

[[experiment.step]]
command = "python evaluate_checkpoints.py elsewhere/best.pt --output results/none.json"
output = "results/none.json"
needs = ["elsewhere/best.pt"]
"""
FAILS = ("adderlab replay",)
"""Exit code 1, as the guide says: one of its steps needs a file that is not here."""


def shell_lines(name: str) -> list[str]:
    """The commands in the fenced shell blocks of a page, but those that set the machine up or test."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    set_up = ("python3 -m venv", ".venv/bin/pip", "export PATH", ".venv/bin/pytest")
    return [part for part in parts if part and not part.startswith(set_up)]


@pytest.mark.slow
def test_every_command_of_readme_and_guide_runs_in_one_folder(tmp_path: Path) -> None:
    for name in ("examples", "records/best/7p"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "experiments").mkdir()
    shutil.copy(ROOT / "experiments" / "smallest_anatomy.py", tmp_path / "experiments")
    (tmp_path / "experiments" / "seed-log.toml").write_text(SERIES)
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    ran = []
    for line in [*shell_lines("README.md"), *shell_lines("docs/guide.md")]:
        command = line.removeprefix(".venv/bin/")
        for printed, smaller in SMALLER.items():
            command = command.replace(printed, smaller)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        said = f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        assert done.returncode == int(command.startswith(FAILS)), said
        assert "Traceback" not in done.stderr, said
        ran.append(command)
    assert len(ran) >= 16
    log = (tmp_path / "EXPERIMENTS.md").read_text()
    assert "- Not run: elsewhere/best.pt is not here." in log
    assert (tmp_path / "results" / "runs" / "main" / "report.html").is_file()
