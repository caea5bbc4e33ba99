import pytest
import torch


@pytest.fixture
def seeded():
    """The same random numbers in every run of a test."""
    torch.manual_seed(0)
