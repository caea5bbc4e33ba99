"""Small rules and trainings on which the loop and the run folder are tested."""

import json
from contextlib import suppress

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from beyondprop.data import Batches, image_set
from beyondprop.rules.signals.backprop import Backprop
from beyondprop.training.loop import fit
from beyondprop.training.run_folder import RunFolder

SETTINGS = {"epochs": 3}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the library catches it."""


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


class TwoPhases(Backprop):
    """Trains its layers alternately, and carries a count between calls."""

    phases = ("first", "last")

    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def assign_credit(self, x, y, phase):
        self.calls += 1
        loss = super().assign_credit(x + 0.1 * torch.randn_like(x), y, None)
        for index, layer in enumerate(self.network):
            if (index == 0) != (phase == "first"):
                for parameter in layer.parameters():
                    parameter.grad = None
        return loss


class TrainingStages(Backprop):
    """Trains another layer in each stage; every stage lasts all epochs."""

    stages = ("0", "4")

    def assign_credit(self, x, y, phase):
        loss = super().assign_credit(x, y, phase)
        for index, layer in enumerate(self.network):
            if str(index) != self.stage:
                for parameter in layer.parameters():
                    parameter.grad = None
        return loss


class EpochStages(TrainingStages):
    """The same, with every stage in every epoch."""

    stage_span = "epoch"


def samples(count=22):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


def as_batches():
    x, y = samples()
    return Batches(image_set(x, y), 6, shuffle=True, seed=3)


def as_list():
    x, y = samples()
    return list(zip(x.split(6), y.split(6), strict=True))


def as_loader(**options):
    return DataLoader(TensorDataset(*samples()), batch_size=6, shuffle=True, **options)


def as_loader_with_generator():
    return as_loader(generator=torch.Generator().manual_seed(5))


def as_generator_function():
    def batches():
        order = torch.randperm(22)
        for x, y in as_list():
            yield x + order[0], y

    return batches


class Training:
    """All that a call of `fit` needs, made anew from a seed, as a new process would."""

    def __init__(self, rule=Backprop, batches=as_batches, schedule=True):
        torch.manual_seed(0)
        self.rule, self.batches = rule(mlp()), batches()
        self.optimizer = torch.optim.AdamW(self.rule.parameters(), lr=0.01)
        steps = 4 * SETTINGS["epochs"] * len(self.rule.stages)
        self.scheduler = (
            torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=steps) if schedule else None
        )

    def run(self, folder, *, kill_at=None, resume=True, **options):
        """Train in a folder; `kill_at` counts calls of backward from 1. Gives the result, or None if it was killed."""
        calls, assign_credit = 0, self.rule.assign_credit

        def counted(*arguments):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise Killed
            return assign_credit(*arguments)

        self.rule.assign_credit = counted
        options = {"checkpoint_seconds": 0, "progress": False, **SETTINGS, **options}
        with suppress(Killed), RunFolder(folder, SETTINGS, resume=resume) as run:
            result = fit(
                self.rule, self.batches, optimizer=self.optimizer, scheduler=self.scheduler, run=run, **options
            )
            self.random = torch.get_rng_state()
            return result
        return None

    def state(self):
        return {
            "model": self.rule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "random": self.random,
        }


def train(batches, rule=None, epochs=2, **options):
    """Train with plain SGD and without a run folder."""
    rule = rule or Backprop(mlp())
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.1)
    return fit(rule, batches, optimizer=optimizer, epochs=epochs, progress=False, **options)


def same(a, b):
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a is b


def metrics(folder):
    """The records of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records]
