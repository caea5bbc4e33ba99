"""Planted defects of recurrent Hamiltonian echo learning and its units."""

from mutant import Mutant

RULE = "rules/relaxation/recurrent_echo.py"
UNITS = "layers/hamiltonian.py"
NETWORK = "networks/hamiltonian.py"
TESTS = ("tests/rules/relaxation/test_recurrent_echo.py",)

MUTANTS = (
    Mutant(
        "recurrent echo: gradients uphill",
        RULE,
        "signs * (nudge * (self.eps / size))",
        "signs * (nudge * (-self.eps / size))",
        TESTS,
    ),
    Mutant(
        "recurrent echo: one side takes the difference of two",
        RULE,
        "unit.step / (self.signs[0] - self.signs[1]) / self.eps",
        "unit.step / 2 / self.eps",
        TESTS,
    ),
    Mutant(
        "recurrent echo: without the step",
        RULE,
        "weight = unit.step / (self",
        "weight = 1.0 / (self",
        TESTS,
    ),
    Mutant(
        "recurrent echo: nudges are not measured by the sample",
        RULE,
        "kicks = None if nudge is None else signs * (nudge * (self.eps / size)).unsqueeze(1)",
        "kicks = None if nudge is None else signs * (nudge * (self.eps / size.mean())).unsqueeze(1)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: nudges of a mean are too small",
        RULE,
        "size = size / steps**0.5",
        "size = size * steps**0.5",
        TESTS,
    ),
    Mutant(
        "recurrent echo: momenta are not turned",
        RULE,
        "backwards = [(phi, -pi) for phi, pi in states]",
        "backwards = [(phi, pi) for phi, pi in states]",
        TESTS,
    ),
    Mutant(
        "recurrent echo: inputs are not turned where states are recalled",
        RULE,
        "unit.run(h.flip(0), end)",
        "unit.run(h, end)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: positions are recalled a step too early",
        RULE,
        "torch.cat([end[0].unsqueeze(0), earlier[:-1]]).flip(0)",
        "earlier.flip(0)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: nudges come a step too late",
        RULE,
        "            pi = pi + kicks[t]\n",
        "            pi = pi + kicks[min(t + 1, len(u) - 1)]\n",
        TESTS,
    ),
    Mutant(
        "recurrent echo: the sequence's parts in the wrong order",
        RULE,
        "zip(reversed(parts), reversed(seeds), strict=True)",
        "zip(parts, seeds, strict=True)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: the mean over time is a sum on the way back",
        RULE,
        "seed = read.grad / steps",
        "seed = read.grad",
        TESTS,
    ),
    Mutant(
        "recurrent echo: a residual path passes nothing back",
        RULE,
        "seed = below + seed if network.residual and seed is not None else below",
        "seed = below",
        TESTS,
    ),
    Mutant(
        "recurrent echo: units never learn",
        RULE,
        "            if gradient is not None:\n",
        "            if gradient is not None and gradient.ndim > 9:\n",
        TESTS,
    ),
    Mutant(
        "recurrent echo: friction passes",
        RULE,
        "RETURNED = 1e-9",
        "RETURNED = 1e-1",
        TESTS,
    ),
    Mutant(
        "recurrent echo: memory grows with the sequence",
        RULE,
        "split(self.chunk)\n            with torch.no_grad():\n                read, states",
        "split(self.chunk)\n            with torch.enable_grad():\n                read, states",
        TESTS,
    ),
    Mutant(
        "recurrent echo: kinetic energy is left out of an energy's gradient",
        UNITS,
        "energy = energy + self.kinetic(pi).mean(0)",
        "energy = energy + 0 * self.kinetic(pi).mean(0)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: kinetic energy counts twice",
        UNITS,
        "energy = energy + self.kinetic(pi).mean(0)",
        "energy = energy + self.kinetic(pi).sum(0)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: linear unit without the half of its energy",
        UNITS,
        "of_A = 0.5 * (moved * (first + second)).sum((0, 1))",
        "of_A = (moved * (first + second)).sum((0, 1))",
        TESTS,
    ),
    Mutant(
        "recurrent echo: linear unit passes the wrong sign down",
        UNITS,
        "-_outer(moved, u)], -moved @ self.B",
        "-_outer(moved, u)], moved @ self.B",
        TESTS,
    ),
    Mutant(
        "recurrent echo: gain without the energy's own 1/A",
        UNITS,
        ".sub_(energy_gap.div_(A)).mul_(weight)",
        ".mul_(weight)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: a bounded coefficient's slope is left out",
        UNITS,
        "return torch.autograd.grad(getattr(unit, name), raw, gradient)[0]",
        "return gradient",
        TESTS,
    ),
    Mutant(
        "recurrent echo: whole drifts at both ends",
        UNITS,
        "between = [torch.add(phi, self.velocity(pi), alpha=step / 2)]",
        "between = [torch.add(phi, self.velocity(pi), alpha=step)]",
        TESTS,
    ),
    Mutant(
        "recurrent echo: units without a bound",
        UNITS,
        "return 4 / self.step**2 * torch.sigmoid(self.a)",
        "return 5 / self.step**2 * torch.sigmoid(self.a)",
        TESTS,
    ),
    Mutant(
        "recurrent echo: couplings pull once from each side",
        NETWORK,
        "return 0.5 * springs + u[..., 0] * phi[..., 0]",
        "return springs + u[..., 0] * phi[..., 0]",
        TESTS,
    ),
)
