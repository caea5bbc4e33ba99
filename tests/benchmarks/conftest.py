import pytest
import torch


@pytest.fixture(autouse=True)
def threads():
    """Scripts set torch's number of threads; what they found is given back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
