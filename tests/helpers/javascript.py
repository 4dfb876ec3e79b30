"""Scripts of the explorer, run by node, and whole pages, opened by Chromium; where there is neither, the
test is skipped and says so."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest


def node(source: str) -> Any:
    """The value of the JSON that a script prints."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed: nothing here runs JavaScript")
    done = subprocess.run([program, "-"], input=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:2000]
    return json.loads(done.stdout)


def chromium(page: str, script: str, folder: Path) -> tuple[Any, str]:
    """(the JSON that a script appended to a page leaves in the element ``test-result``, what Chromium
    logged as written by pages)."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed: nothing here opens pages")
    file = folder / "page.html"
    mark = '<pre id="test-result"></pre>'
    # Braces: the page's own script has names of its own.
    file.write_text(page.replace("</main>", f"{mark}<script>{{\n{script}\n}}</script></main>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --enable-logging=stderr "
        "--disable-background-networking --disable-component-update --disable-sync --dump-dom "
        "--virtual-time-budget=60000"
    )
    done = subprocess.run(
        [program, *flags.split(), f"--user-data-dir={folder / 'profile'}", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r'<pre id="test-result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stderr[-2000:]
    said = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(unescape(found[1])), said
