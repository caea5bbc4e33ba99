"""Any rule under Lightning: manual optimization, where a training step is the rule's phases.

Difference target propagation first trains its feedback, in a stage of its own, and then feedback and network in turn,
in two phases of every step. The module below walks through both, and knows no rule by name.

    pip install lightning
    python examples/lightning_module.py
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop import DTP, Rule

EPOCHS = 8


class RuleModule(lightning.LightningModule):
    """Trains a rule.

    Args:
        rule: Any.
        epochs: As `beyondprop.fit` counts them: a rule that learns in stages takes so many passes for each.
        learning_rate: Of Adam.
    """

    def __init__(self, rule: Rule, epochs: int, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.automatic_optimization = False  # the rule itself writes .grad
        self.rule, self.learning_rate = rule, learning_rate
        self.plan = rule.passes(epochs)  # of the trainer: max_epochs=len(module.plan)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One for all phases: what a phase does not train has no .grad, and stays."""
        return torch.optim.Adam(self.rule.parameter_groups(), lr=self.learning_rate)

    def on_train_epoch_start(self) -> None:
        """Tell the rule which stage this pass over the data belongs to."""
        _, self.rule.stage = self.plan[self.current_epoch]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step of the optimizer for each phase."""
        del batch_idx
        optimizer = self.optimizers()
        for phase in self.rule.phases:
            optimizer.zero_grad()
            loss = self.rule.backward(*batch, phase)
            optimizer.step()
        self.log("loss", loss, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure on what was not trained on."""
        del batch_idx
        x, y = batch
        self.log("test_accuracy", (self.rule(x).argmax(dim=1) == y).float().mean())


def main(epochs: int = EPOCHS, **options: object) -> float:
    """Train and measure; options are those of Lightning's `Trainer`."""
    lightning.seed_everything(0, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    train = DataLoader(TensorDataset(x[:1437], y[:1437]), batch_size=64, shuffle=True)
    test = DataLoader(TensorDataset(x[1437:], y[1437:]), batch_size=360)
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    module = RuleModule(DTP.for_classifier(network, x[:4], 10, pretraining=2, feedback_steps=2), epochs)
    trainer = lightning.Trainer(max_epochs=len(module.plan), accelerator="cpu", logger=False, **options)
    trainer.fit(module, train)
    (found,) = trainer.test(module, test, verbose=False)
    print(f"test accuracy {found['test_accuracy']:.1%}")
    return found["test_accuracy"]


if __name__ == "__main__":
    main(enable_checkpointing=False, enable_model_summary=False)
