"""What tests of relaxation share."""

import pytest
import torch


@pytest.fixture
def seeded():
    """Draws of a test begin at the same seed, whatever ran before it."""
    torch.manual_seed(0)
