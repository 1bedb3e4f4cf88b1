"""The interpreter as an ordinary user can reach it: a checkout below a private folder is mounted where he may go."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHERS_MAY_ENTER = 0o001


@cache
def _root() -> Path:
    folders = (ROOT, *ROOT.parents)
    if all(folder.stat().st_mode & OTHERS_MAY_ENTER for folder in folders):
        return ROOT
    place = Path(tempfile.mkdtemp(prefix="rsx-root-", dir="/tmp"))
    place.chmod(0o755)
    mounted = subprocess.run(["mount", "--bind", str(ROOT), str(place)], check=False, capture_output=True, text=True)
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"{ROOT} is below a private folder and cannot be mounted elsewhere: an ordinary user's part")

    def unmount() -> None:
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
        place.rmdir()

    atexit.register(unmount)
    return place


def python_for_others() -> tuple[str, dict[str, str]]:
    """The interpreter of this environment and the environment variables to run it with as another user."""
    root = _root()
    if root == ROOT:
        return sys.executable, dict(os.environ)
    executable = root / Path(sys.executable).relative_to(ROOT)
    return str(executable), {**os.environ, "PYTHONPATH": str(root / "src")}
