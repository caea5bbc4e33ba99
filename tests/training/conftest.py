import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads only wait for each other on networks this small."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)
