"""NoProp on sequences: digits read row by row by a recurrent network.

x is a sequence of eight rows of eight numbers, of shape (batch, 8, 8). A GRU reads it, and the noisy label z asks: a
question made of z looks along the states of the GRU by attention, and two linear layers say which digit it is.

In discrete time each of five blocks has such a reader and question of its own, is called as `block(z, x)`, and learns
alone. In continuous time the reader is NoProp's encoder, run once for a batch, and there is one question for all times,
called as `block(z, h, t)`: what the reader returned, a sequence of states here, comes back as h. For comparison the same
block is trained by back-propagation: one alone, and five side by side.

The learning rate of each was chosen on a quarter of the training digits, each from the same three; the test digits were
not looked at for it. There are 360 of them, so that smaller differences than one point mean little.

    python examples/noprop_sequence.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop import Backprop, ClassEmbedding, NoPropCT, NoPropDT, evaluate, fit

PIXELS, CLASSES, WIDTH, BLOCKS = 8, 10, 32, 5


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
        """Take z (batch, d), h (batch, rows, width), t (batch,) or one number; return scores (batch, classes)."""
        question = self.ask(torch.cat([z, t.reshape(-1, 1).expand(len(z), 1)], dim=1))
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
        return self.question(z, self.reader(x), z.new_zeros(()))


class SideBySide(nn.Module):
    """The same blocks as one ordinary network: told no label, they give the mean of their scores."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        """Take x (batch, rows, pixels); return scores (batch, classes)."""
        no_label = x.new_zeros(len(x), CLASSES)
        return torch.stack([block(no_label, x) for block in self.blocks]).mean(dim=0)


# How each rule is made, and its learning rate. z is a one-hot label with noise, so d = CLASSES.
RULES = {
    "NoPropDT, 5 blocks": (lambda: NoPropDT([Block() for _ in range(BLOCKS)], ClassEmbedding.one_hot(CLASSES)), 3e-3),
    "NoPropCT, 1 block": (lambda: NoPropCT(Reader(), Question(), ClassEmbedding.one_hot(CLASSES)), 3e-3),
    "Backprop, 1 block": (lambda: Backprop(SideBySide(1)), 3e-3),
    "Backprop, 5 blocks": (lambda: Backprop(SideBySide(BLOCKS)), 3e-3),
}


def load():
    """Split the digits into those to train on and those to test on."""
    images, labels = load_digits(return_X_y=True)
    rows = torch.tensor(images, dtype=torch.float32).reshape(-1, 8, PIXELS) / 16
    parts = train_test_split(rows, torch.tensor(labels), test_size=360, stratify=labels, random_state=0)
    return TensorDataset(parts[0], parts[2]), TensorDataset(parts[1], parts[3])


def train(make, learning_rate, digits, *, epochs, seed):
    """Train one rule: the same loop for all."""
    torch.manual_seed(seed)
    rule = make()
    optimizer = torch.optim.Adam(rule.parameters(), lr=learning_rate)
    fit(rule, DataLoader(digits, batch_size=64, shuffle=True), optimizer=optimizer, epochs=epochs, progress=False)
    return rule


def main(epochs=20, seeds=1):
    """Train every rule from several seeds, and print and return its mean accuracy on the test digits."""
    train_digits, test_digits = load()
    accuracy = {}
    for name, settings in RULES.items():
        rules = [train(*settings, train_digits, epochs=epochs, seed=seed) for seed in range(seeds)]
        accuracy[name] = sum(evaluate(r, DataLoader(test_digits, batch_size=360))["accuracy"] for r in rules) / seeds
        print(f"{name:20} {accuracy[name]:.1%}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # on tensors this small, more threads only wait for each other
    main()
