"""A learning rule in a training loop of one's own: only the line with `rule.backward` is another than usual.

A convolutional network learns the handwritten digits by direct feedback alignment, with a schedule of the learning rate
and clipped updates, is saved, and is read again. Nothing but torch is used besides the rule.

    python examples/plain_torch.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from beyondprop import DFA

EPOCHS = 15


def load() -> tuple[TensorDataset, TensorDataset]:
    """Images of shape (1, 8, 8) with pixels in 0..1, and their classes."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    whole = TensorDataset(images, torch.tensor(labels))
    train, test = random_split(whole, [1437, 360], torch.Generator().manual_seed(0))
    return TensorDataset(*whole[train.indices]), TensorDataset(*whole[test.indices])


def make_network() -> nn.Module:
    """The user's own network; any other would do."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def train(rule: DFA, batches: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """The usual loop."""
    optimizer = torch.optim.AdamW(rule.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for epoch in range(1, epochs + 1):
        total = torch.zeros(())
        for x, y in batches:
            optimizer.zero_grad()
            loss = rule.backward(x, y)  # usually: loss = cross_entropy(network(x), y); loss.backward()
            nn.utils.clip_grad_norm_(rule.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss * len(x)
        print(f"epoch {epoch:2}  loss {total / len(batches.dataset):.3f}")  # type: ignore[arg-type]


def accuracy(rule: DFA, test: TensorDataset) -> float:
    """Share of right answers."""
    x, y = test.tensors
    rule.eval()
    with torch.inference_mode():
        return (rule(x).argmax(dim=1) == y).double().mean().item()


def main(epochs: int = EPOCHS) -> float:
    """Train, save, read again and measure."""
    torch.manual_seed(0)
    data, test = load()
    batches = DataLoader(data, batch_size=64, shuffle=True)
    example, _ = next(iter(batches))
    rule = DFA(make_network(), example=example)
    train(rule, batches, epochs)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rule.pt"
        torch.save(rule.state_dict(), path)  # what the rule carries, such as feedback weights, is in it
        again = DFA(make_network(), example=example)
        again.load_state_dict(torch.load(path, weights_only=True))
    right = accuracy(again, test)
    print(f"test accuracy {right:.1%}")
    return right


if __name__ == "__main__":
    main()
