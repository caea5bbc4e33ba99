"""The scripts that stand beside the result files, as modules."""

import importlib.util
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture(scope="session")
def load_script():
    """Gives a function that loads a script by its name, anew each time."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, RESULTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
