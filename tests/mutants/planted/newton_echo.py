"""Planted defects of Gauss-Newton steps by Hamiltonian echoes, and of replicas that keep their answers."""

from mutant import Mutant, tests_named

RELAXATION = "rules/relaxation"
NEWTON = ("tests/rules/relaxation/test_newton_echo.py",)
ECHO = tests_named("test_hamiltonian_echo_*")
NOTING = ("tests/rules/relaxation/test_noting_echo.py",)

MUTANTS = (
    Mutant(
        "heb noting: costs not by the target",
        f"{RELAXATION}/noting_echo.py",
        "return outputs / self.loss.targets",
        "return outputs",
        NOTING,
    ),
    Mutant(
        "heb noting: yes and no exchanged",
        f"{RELAXATION}/noting_echo.py",
        "wanted = (1 - 2 * check_labels(y, 2).to(self.targets))",
        "wanted = (2 * check_labels(y, 2).to(self.targets) - 1)",
        ECHO,
    ),
    Mutant(
        "heb newton: a residual's push is twice as long",
        f"{RELAXATION}/newton_echo.py",
        "[0] / 2 for part",
        "[0] for part",
        NEWTON,
    ),
    Mutant(
        "heb newton: rows of the Jacobian have the other sign",
        f"{RELAXATION}/newton_echo.py",
        "(returned[1].imag - returned[0].imag) / epsilon",
        "(returned[0].imag - returned[1].imag) / epsilon",
        NEWTON,
    ),
    Mutant(
        "heb newton: patterns weigh alike in the residuals",
        f"{RELAXATION}/newton_echo.py",
        " * weights.sqrt()[:, None]",
        "",
        NEWTON,
    ),
    Mutant(
        "heb newton: a pattern that comes twice weighs once",
        f"{RELAXATION}/newton_echo.py",
        "counts.to(theta) / len(y)",
        "(counts / counts).to(theta) / len(counts)",
        NEWTON,
    ),
    Mutant(
        "heb newton: the damping is no share of the curvature",
        f"{RELAXATION}/newton_echo.py",
        "(tried * scale)[..., None]",
        "tried[..., None]",
        NEWTON,
    ),
    Mutant(
        "heb newton: a step that raises the cost is taken",
        f"{RELAXATION}/newton_echo.py",
        "better = lowest < cost",
        "better = lowest < torch.inf",
        NEWTON,
    ),
    Mutant(
        "heb newton: the damping stays where nothing helps",
        f"{RELAXATION}/newton_echo.py",
        "WORSE * self.ridge",
        "self.ridge",
        NEWTON,
    ),
    Mutant(
        "heb newton: steps of any length",
        f"{RELAXATION}/newton_echo.py",
        "steps *= (self.longest / steps.norm(dim=-1, keepdim=True)).clamp(max=1)",
        "pass",
        NEWTON,
    ),
    Mutant(
        "heb newton: all begin anew",
        f"{RELAXATION}/newton_echo.py",
        "stuck = (self.age >= self.patience) & ~(cost <= self.enough)",
        "stuck = self.age >= self.patience",
        NEWTON,
    ),
    Mutant(
        "heb newton: a new start is as old as the one before",
        f"{RELAXATION}/newton_echo.py",
        "self.age[stuck], self.ridge[stuck] = 0, 1e-2",
        "pass",
        NEWTON,
    ),
    Mutant(
        "heb newton: a new start has the damping of the one before",
        f"{RELAXATION}/newton_echo.py",
        "self.age[stuck], self.ridge[stuck] = 0, 1e-2",
        "self.age[stuck] = 0",
        NEWTON,
    ),
    Mutant(
        "heb newton: the damping has no bounds",
        f"{RELAXATION}/newton_echo.py",
        ".clamp(*RANGE)",
        "",
        NEWTON,
    ),
    Mutant(
        "heb newton: a try that is lost is the lowest",
        f"{RELAXATION}/newton_echo.py",
        ".nan_to_num(math.inf)",
        ".nan_to_num(-1.0)",
        NEWTON,
    ),
    Mutant(
        "heb newton: the last step is not taken",
        f"{RELAXATION}/newton_echo.py",
        "self.age += 1\n        late",
        "late",
        NEWTON,
    ),
    Mutant(
        "heb newton: some begin anew at the end",
        f"{RELAXATION}/newton_echo.py",
        "late = self.steps is not None and",
        "late = False and",
        NEWTON,
    ),
    Mutant(
        "heb newton: batches of a part",
        f"{RELAXATION}/newton_echo.py",
        "if len(rows) < len(self.patterns):",
        "if False:",
        NEWTON,
    ),
    Mutant(
        "heb newton: what is not solved is enough",
        f"{RELAXATION}/newton_echo.py",
        "enough: float = 1e-8",
        "enough: float = 1e-3",
        NEWTON,
    ),
)
