"""Planted defects of closed forms, of the contract of solvers, and of fitting in passes."""

from mutant import Mutant

SOLVERS = ("tests/solvers",)
CONTRACTS = ("tests/test_rule.py",)
SOLVING = ("tests/training/test_training_solving.py",)

MUTANTS = (
    Mutant(
        "least squares: the ridge in absolute units",
        "solvers/least_squares.py",
        "diagonal += ridge * scale",
        "diagonal += ridge",
        SOLVERS,
    ),
    Mutant(
        "least squares: only the last batch counts",
        "solvers/least_squares.py",
        "start:] += panel.T",
        "start:] = panel.T",
        SOLVERS,
    ),
    Mutant(
        "least squares: the whole product, not half of it",
        "solvers/least_squares.py",
        "range(0, size, PANEL)",
        "range(0, 1)",
        SOLVERS,
    ),
    Mutant(
        "least squares: autocast reaches the product",
        "solvers/least_squares.py",
        "enabled=False):  # eight bits",
        "enabled=True):  # eight bits",
        SOLVERS,
    ),
    Mutant(
        "least squares: a second matrix for the factor",
        "solvers/least_squares.py",
        "torch.linalg.cholesky_ex(lower, out=(lower, info))",
        "lower, info = torch.linalg.cholesky_ex(lower)",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: the biased variance",
        "solvers/cascaded_forward.py",
        "max(self._count - 1, 1)",
        "self._count",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: batches' means apart by too much",
        "solvers/cascaded_forward.py",
        "apart.square() * (self._count * count / total)",
        "apart.square() * count",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: statistics of more samples than asked for",
        "solvers/cascaded_forward.py",
        "wanted = x[: self._pooled.missing]",
        "wanted = x",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: statistics of the test batch",
        "solvers/cascaded_forward.py",
        "with finished(self.cascade.network):",
        "with torch.no_grad():",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: memory leaves no pass of its own",
        "solvers/cascaded_forward.py",
        "+ size <= memory",
        "+ size >= memory",
        SOLVERS,
    ),
    Mutant(
        "cascaded solver: probabilities summed, not averaged",
        "solvers/cascaded_forward.py",
        "torch.stack(said).mean(dim=0)",
        "torch.stack(said).sum(dim=0)",
        SOLVERS,
    ),
    Mutant(
        "solver: reads on when it has enough",
        "solver.py",
        "if self.absorb(*batch, part):",
        "if self.absorb(*batch, part) and empty:",
        CONTRACTS,
    ),
    Mutant(
        "solver: a generator is read for one pass of two",
        "solver.py",
        "if isinstance(batches, Iterator) and len(self.passes) > 1:",
        "if isinstance(batches, Iterator) and len(self.passes) > 2:",
        CONTRACTS,
    ),
    Mutant(
        "Solver: predicts by what an earlier fit has found while another goes on",
        "solver.py",
        "            self.fitted.fill_(False)\n",
        "",
        (*CONTRACTS, "-k", "predicts_nothing"),
    ),
    Mutant(
        "Solver: is fitted after its first pass",
        "solver.py",
        "self.fitted.fill_(part == self.passes[-1])",
        "self.fitted.fill_(True)",
        (*CONTRACTS, "-k", "predicts_nothing"),
    ),
    Mutant(
        "solving: goes on with other random numbers",
        "training/solving.py",
        'self.random.set(saved.state["random"])',
        "self.random.get()",
        SOLVING,
    ),
    Mutant(
        "solving: saves the random state amid a pass",
        "training/solving.py",
        "self.random.set(before)",
        "self.random.get()",
        SOLVING,
    ),
    Mutant(
        "solving: half a fit predicts",
        "training/assembly.py",
        "if done < passes:",
        "if done > passes:",
        SOLVING,
    ),
    Mutant(
        "solving: every pass reads the first epoch",
        "training/solving.py",
        "self.source.open(number)",
        "self.source.open(0)",
        SOLVING,
    ),
)
