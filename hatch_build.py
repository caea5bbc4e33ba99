"""Builds the kernels of sparse layers while the package is installed; without a compiler it does without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOME = Path("src/beyondprop/layers/sparse")


class Kernels(BuildHookInterface):
    """Compile `native/` by CMake, and put the library beside the modules that load it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the wheel is packed; an editable installation finds the library in the checkout."""
        del version
        home = Path(self.root) / HOME
        for old in home.glob("sparse_kernels.*"):
            old.unlink()
        if os.environ.get("BEYONDPROP_KERNELS") == "0":
            return
        try:
            with tempfile.TemporaryDirectory() as scratch:
                run = lambda *command: subprocess.run(("cmake", *command), check=True, stdout=sys.stderr)  # noqa: E731
                run("-S", str(home / "native"), "-B", scratch, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release")
                run("--build", scratch)
                for library in Path(scratch).glob("sparse_kernels.*"):
                    if library.suffix in (".so", ".dylib", ".dll"):
                        shutil.copy(library, home / library.name)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(
                f"sparse layers will use plain torch, which is slower: no kernels were built ({error})"
            )
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
