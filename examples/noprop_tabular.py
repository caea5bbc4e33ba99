"""NoProp on a table: thirty measurements of a biopsy tell whether a tumour is malignant.

Nothing in NoProp knows of images. A block is any module that is called as `block(z, x)`, with a noisy label z and a row
x of the table, and gives scores of the classes. Here it is three plain linear layers over z and x side by side. Eight
such blocks, none of which sees another's gradient, are NoProp in discrete time; one that is told the time t as well is
NoProp by flow matching, and only the line that makes the rule differs. For comparison the same blocks are trained by
back-propagation: one alone, and eight side by side.

Learning rate and weight decay of each were chosen by cross-validation within the training rows, each from the same nine
pairs; the test rows were not looked at. There are 143 of them, so that differences below two points mean little.

    python examples/noprop_tabular.py
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop import Backprop, ClassEmbedding, NoPropDT, NoPropFM, evaluate, fit

COLUMNS, CLASSES = 30, 2


class Block(nn.Module):
    """Says from a row of the table and a noisy label which class it is."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CLASSES + COLUMNS + 1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        )

    def forward(self, z, x, t=None):
        """Take z (batch, d), x (batch, columns), and t (batch,) or nothing; return scores (batch, classes)."""
        t = z.new_zeros(len(z)) if t is None else t
        return self.layers(torch.cat([z, x, t.unsqueeze(1)], dim=1))


class SideBySide(nn.Module):
    """The same blocks as one ordinary network: told no label, they give the mean of their scores."""

    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, x):
        """Take x (batch, columns); return scores (batch, classes)."""
        no_label = x.new_zeros(len(x), CLASSES)
        return torch.stack([block(no_label, x) for block in self.blocks]).mean(dim=0)


LABELS = ClassEmbedding.one_hot(CLASSES)  # z is such a row with noise

# How each rule is made, its learning rate and its weight decay. Flow matching has an encoder that reads x once, however
# many steps are taken; a row of numbers needs no reading.
RULES = {
    "NoPropDT, 8 blocks": (lambda: NoPropDT([Block() for _ in range(8)], LABELS), 1e-3, 1.0),
    "NoPropFM, 1 block": (lambda: NoPropFM(nn.Identity(), Block(), LABELS), 3e-3, 0.01),
    "Backprop, 1 block": (lambda: Backprop(SideBySide(1)), 1e-3, 1.0),
    "Backprop, 8 blocks": (lambda: Backprop(SideBySide(8)), 1e-3, 1.0),
}


def load():
    """Split the table into training and test rows, as pairs (x, y); the columns are standardised by the former."""
    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    scaler = StandardScaler().fit(x_train)
    pairs = (scaler.transform(x_train), y_train), (scaler.transform(x_test), y_test)
    return [(torch.tensor(x, dtype=torch.float32), torch.tensor(y)) for x, y in pairs]  # the scaler gives float64


def train(make, learning_rate, weight_decay, rows, *, epochs, seed):
    """Train one rule: the same loop for all."""
    torch.manual_seed(seed)
    rule = make()
    batches = DataLoader(TensorDataset(*rows), batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(rule.parameters(), lr=learning_rate, weight_decay=weight_decay)
    fit(rule, batches, optimizer=optimizer, epochs=epochs, progress=False)
    return rule


def main(epochs=30, seeds=3):
    """Train every rule from several seeds; print and return its mean accuracy on the test rows."""
    train_rows, test_rows = load()
    accuracy = {}
    for name, settings in RULES.items():
        rules = [train(*settings, train_rows, epochs=epochs, seed=seed) for seed in range(seeds)]
        accuracy[name] = sum(evaluate(rule, [test_rows])["accuracy"] for rule in rules) / seeds
        print(f"{name:20} {accuracy[name]:.1%}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)  # on tensors this small, more threads only wait for each other
    main()
