"""What holds for all tests."""

import os

# Before torch is imported. The tensors of the tests are small: a second thread gains little, and where processors are
# shared the threads' waiting for each other, by spinning, makes the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
