"""Builds the kernels of sparse layers while the package is installed; without a compiler it does without them."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SPARSE = Path("src/beyondprop/layers/sparse")


class Kernels(BuildHookInterface):
    """Runs `native/build.py` before the wheel is packed; an editable installation finds the library in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, unless what is there is newer than its sources, and name the platform if that went well."""
        del version
        sparse = Path(self.root) / SPARSE
        present = list(sparse.glob("sparse_kernels.*"))
        written = max(source.stat().st_mtime for source in (sparse / "native").iterdir() if source.is_file())
        if not present or min(library.stat().st_mtime for library in present) < written:
            for old in present:
                old.unlink()
            try:
                subprocess.run((sys.executable, str(sparse / "native" / "build.py")), check=True)
            except subprocess.CalledProcessError as error:
                self.app.display_warning(f"sparse layers will use plain torch, which is slower: no kernels ({error})")
                return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
