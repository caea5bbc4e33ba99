"""NoProp on sequences: digits read row by row by a recurrent network.

x is a sequence of eight rows of eight numbers, shape (batch, 8, 8). A GRU reads it, and the noisy label z asks: a
question made of z looks along the states of the GRU by attention, and two linear layers give scores of the digits.

In discrete time each of five blocks has a reader and a question of its own, is called as `block(z, x)`, and learns
alone. In continuous time the reader is NoProp's encoder, run once for a batch, and one question serves all times,
called as `block(z, h, t)`: what the encoder returned, here a sequence of states, comes back as h. For comparison the
block is trained by back-propagation: one alone, and five side by side.

The learning rate of each was chosen on digits held out of the training digits, from 0.003, 0.01 and 0.03; the test
digits were not looked at. There are 360 of them, so that differences below two points mean little.

    python examples/noprop_sequence.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop import Backprop, ClassEmbedding, NoPropCT, NoPropDT, evaluate, fit

PIXELS, CLASSES, WIDTH = 8, 10, 32


class Reader(nn.Module):
    """Reads the rows one after another."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(PIXELS, WIDTH, batch_first=True)

    def forward(self, x):
        """Take x (batch, rows, pixels); return the state after each row, (batch, rows, width)."""
        return self.gru(x)[0]


class Question(nn.Module):
    """Looks along the states for what a noisy label at time t leaves open, and says which digit it is."""

    def __init__(self):
        super().__init__()
        self.ask = nn.Sequential(nn.Linear(CLASSES + 1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.answer = nn.Sequential(nn.Linear(3 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, z, h, t):
        """Take z (batch, d), h (batch, rows, width), t (batch,); return scores (batch, classes)."""
        question = self.ask(torch.cat([z, t.unsqueeze(1)], dim=1))
        where = torch.einsum("brw,bw->br", h, question).softmax(dim=1)
        seen = torch.einsum("br,brw->bw", where, h)
        return self.answer(torch.cat([seen, h[:, -1], question], dim=1))


class Block(nn.Module):
    """A reader and a question of its own; the time is left out, for a block is only ever asked at its own."""

    def __init__(self):
        super().__init__()
        self.reader, self.question = Reader(), Question()

    def forward(self, z, x):
        """Take z (batch, d), x (batch, rows, pixels); return scores (batch, classes)."""
        return self.question(z, self.reader(x), z.new_zeros(len(z)))


class SideBySide(nn.Module):
    """The same blocks as one ordinary network: told no label, they give the mean of their scores."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        """Take x (batch, rows, pixels); return scores (batch, classes)."""
        no_label = x.new_zeros(len(x), CLASSES)
        return torch.stack([block(no_label, x) for block in self.blocks]).mean(dim=0)


LABELS = ClassEmbedding.one_hot(CLASSES)  # z is such a row with noise

# How each rule is made, and its learning rate.
RULES = {
    "NoPropDT, 5 blocks": (lambda: NoPropDT([Block() for _ in range(5)], LABELS), 0.01),
    "NoPropCT, 1 block": (lambda: NoPropCT(Reader(), Question(), LABELS), 0.01),
    "Backprop, 1 block": (lambda: Backprop(SideBySide(1)), 0.03),
    "Backprop, 5 blocks": (lambda: Backprop(SideBySide(5)), 0.03),
}


def load():
    """Split the digits into those to train on and those to test on, as pairs (x, y)."""
    images, labels = load_digits(return_X_y=True)
    rows = torch.tensor(images, dtype=torch.float32).reshape(-1, 8, PIXELS) / 16
    parts = train_test_split(rows, torch.tensor(labels), test_size=360, stratify=labels, random_state=0)
    return (parts[0], parts[2]), (parts[1], parts[3])


def main(epochs=15):
    """Train every rule by the same loop; print and return its accuracy on the test digits."""
    train_digits, test_digits = load()
    accuracy = {}
    for name, (make, learning_rate) in RULES.items():
        torch.manual_seed(0)
        rule = make()
        batches = DataLoader(TensorDataset(*train_digits), batch_size=64, shuffle=True)
        optimizer = torch.optim.Adam(rule.parameters(), lr=learning_rate)
        fit(rule, batches, optimizer=optimizer, epochs=epochs, progress=False)
        accuracy[name] = evaluate(rule, [test_digits])["accuracy"]
        print(f"{name:20} {accuracy[name]:.1%}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # on tensors this small, more threads only wait for each other
    main()
