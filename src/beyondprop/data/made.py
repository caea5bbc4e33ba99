"""Small data sets that are computed, not read."""

import itertools
import math

import torch

from beyondprop.data.sets import ImageSet, SequenceSet, Splits, whole
from beyondprop.data.splitting import hold_out

REPEATS = 256  # training samples: every pattern as often as fits
LETTERS = {
    "N": ("#...#", "##..#", "#.#.#", "#..##", "#...#"),
    "I": ("#####", "..#..", "..#..", "..#..", "#####"),
    "S": ("#####", "#....", "#####", "....#", "#####"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#.."),
}
PIXELS = 7


def parity(bits: int) -> Splits:
    """All patterns of some bits, and whether an odd number of them is set; two bits are exclusive or.

    Args:
        bits: At least 1, at most 8.

    Returns:
        For training 256 samples, every pattern equally often; for testing every pattern once. Images are float32
        `(N, bits)` of zeros and ones.

    >>> parity(2).test.images.tolist(), parity(2).test.labels.tolist()
    ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0])
    """
    numbers = torch.arange(2**bits)
    patterns = (numbers[:, None] >> torch.arange(bits - 1, -1, -1)) & 1
    labels, name = patterns.sum(dim=1) % 2, f"parity-{bits}"
    images, times = patterns.float(), REPEATS // len(patterns)
    return Splits(
        ImageSet(images.repeat(times, 1), labels.repeat(times), 2, name, None), ImageSet(images, labels, 2, name, None)
    )


def letters() -> Splits:
    """The letters N, I, S and T in 7x7 pixels, at all nine places, with no, one or two pixels turned.

    Those are 4 x 9 x (1 + 49 + 1176) = 44,136 images, the number that arXiv 2303.03986 gives of its NIST7x7, whose own
    file is not public: the shapes of the letters are ours, and with them how hard it is for a linear classifier.

    Returns:
        Float32 images `(N, 1, 7, 7)` of zeros and ones: nine tenths for training, and a tenth, dealt out at random but
        always alike, for testing. The paper tests on all that it trains on.

    >>> len(letters().train), len(letters().test)
    (39722, 4414)
    """
    turned = [(), *itertools.combinations(range(PIXELS**2), 1), *itertools.combinations(range(PIXELS**2), 2)]
    flips = torch.zeros(len(turned), PIXELS**2, dtype=torch.bool)
    for row, places in zip(flips, turned, strict=True):
        row[list(places)] = True
    images, labels = [], []
    for label, rows in enumerate(LETTERS.values()):
        shape = torch.tensor([[pixel == "#" for pixel in row] for row in rows])
        for down, right in itertools.product(range(PIXELS - 4), repeat=2):
            clean = torch.zeros(PIXELS, PIXELS, dtype=torch.bool)
            clean[down : down + 5, right : right + 5] = shape
            images.append(clean.flatten() ^ flips)
            labels += [label] * len(flips)
    whole = ImageSet(
        torch.cat(images).float().view(-1, 1, PIXELS, PIXELS), torch.tensor(labels), len(LETTERS), "nist7x7", None
    )
    return Splits(*hold_out(whole, len(whole) // 10 + 1, seed=0))


def student_teacher(
    inputs: int, outputs: int, *, train: int = 1000, test: int = 1000, width: int = 1000, depth: int = 4, seed: int = 0
) -> Splits:
    """Regression to what a random network computes, as in arXiv 2006.14331: a student is to imitate its teacher.

        x ~ U(-1, 1),    y = the output of `depth` hidden layers of `width` ReLUs, and a linear layer

    The teacher's weights are Xavier-normal of gain 3, which drives it far from linear; its biases are 0. The numbers
    are the teacher's own and not scaled.

    Args:
        inputs: Numbers of a sample.
        outputs: Numbers of a target.
        train: Training samples.
        test: Test samples.
        width: Of the teacher's hidden layers.
        depth: Number of them.
        seed: Of the teacher and the inputs.

    Returns:
        float32 inputs `(N, inputs)` and targets `(N, outputs)`.

    Raises:
        DataError: A number is too small.

    >>> train, test = student_teacher(6, 2, train=5, test=3, width=10)
    >>> train.images.shape, train.labels.shape, len(test)
    (torch.Size([5, 6]), torch.Size([5, 2]), 3)
    """
    hidden = [whole(width, "width", at_least=1)] * whole(depth, "depth", at_least=0)
    sizes = [whole(inputs, "inputs", at_least=1), *hidden, whole(outputs, "outputs", at_least=1)]
    train, test = whole(train, "train", at_least=1), whole(test, "test", at_least=1)
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(train + test, inputs, generator=generator) - 1
    y = x
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        deviation = 3 * math.sqrt(2 / (before + after))
        y = (y.relu() if number else y) @ (deviation * torch.randn(before, after, generator=generator))
    name = f"student-teacher-{inputs}-{outputs}"
    return Splits(
        SequenceSet(x[:train], y[:train], outputs, name, None), SequenceSet(x[train:], y[train:], outputs, name, None)
    )


def coupled_oscillators(*, steps: int = 60, train: int = 1000, test: int = 500, seed: int = 0) -> Splits:
    """How the fourth of six coupled oscillators moves when the first is pushed, after the toy of arXiv 2506.05259.

    Masses and springs are drawn from 0.5..1.5, couplings from 0..0.3, inputs are normal and independent; oscillators
    start at rest and are integrated by the leapfrog with a step of 0.5.

    Args:
        steps: Of a sequence.
        train: Training sequences.
        test: Test sequences.
        seed: Of the oscillators and the inputs.

    Returns:
        float32 inputs and targets, both of shape `(N, steps, 1)`.

    Raises:
        DataError: A number is too small.

    >>> train, test = coupled_oscillators(steps=10, train=5, test=3)
    >>> train.images.shape, train.labels.shape, len(test)
    (torch.Size([5, 10, 1]), torch.Size([5, 10, 1]), 3)
    """
    steps, train, test = (
        whole(n, what, at_least=1) for n, what in ((steps, "steps"), (train, "train"), (test, "test"))
    )
    generator = torch.Generator().manual_seed(seed)
    mass, spring = 0.5 + torch.rand(2, 6, generator=generator, dtype=torch.float64)
    coupling = (0.3 * torch.rand(6, 6, generator=generator, dtype=torch.float64)).triu(1)
    coupling = coupling + coupling.T
    stiffness = torch.diag(spring + coupling.sum(0)) - coupling
    u = torch.randn(train + test, steps, 1, generator=generator)
    phi, pi, seen = u.new_zeros(len(u), 6).double(), u.new_zeros(len(u), 6).double(), []
    for t in range(steps):
        phi = phi + 0.25 * pi / mass
        pi = pi - 0.5 * phi @ stiffness
        pi[:, 0] -= 0.5 * u[:, t, 0]
        phi = phi + 0.25 * pi / mass
        seen.append(phi[:, 3:4])
    y = torch.stack(seen, dim=1).float()
    return Splits(
        SequenceSet(u[:train], y[:train], 1, "oscillators", None),
        SequenceSet(u[train:], y[train:], 1, "oscillators", None),
    )
