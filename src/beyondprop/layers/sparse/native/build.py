"""Builds the kernels by CMake and Ninja, and puts the library beside the modules that load it.

    python src/beyondprop/layers/sparse/native/build.py

Installing the package does this by itself; it is for those who change the kernels.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
SUFFIXES = (".so", ".dylib", ".dll")


def build() -> None:
    """Compile, and replace the library of before.

    Raises:
        OSError: There is no CMake.
        subprocess.CalledProcessError: CMake, Ninja or the compiler failed, or is missing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for command in (("-S", str(NATIVE), "-B", scratch, "-G", "Ninja"), ("--build", scratch)):
            subprocess.run(("cmake", *command), check=True, stdout=sys.stderr)
        for library in Path(scratch).glob("sparse_kernels.*"):
            if library.suffix in SUFFIXES:
                whole = NATIVE.parent / f"{library.name}.new"
                shutil.copy(library, whole)
                whole.replace(NATIVE.parent / library.name)  # a process that has loaded the old one keeps it


if __name__ == "__main__":
    build()
