"""SIGKILL at random moments, by the script that can also be run alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "faults" / "kill_and_resume.py"


def kill_and_resume(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all bit for bit" in done.stdout


def test_two_kills():
    kill_and_resume("--moments", "2", "--steps", "60")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills():
    kill_and_resume("--moments", "20")
