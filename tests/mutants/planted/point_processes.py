"""Planted defects of marked point processes."""

from mutant import Mutant

HERE = "point_processes"
TESTS = "tests/point_processes"
LIKELIHOODS = (f"{TESTS}/test_likelihoods.py",)
HAWKES = (f"{TESTS}/test_hawkes.py",)
GAPS = (f"{TESTS}/test_gaps.py",)
GRAPH = (f"{TESTS}/test_graph.py",)
EVENTS = ("tests/data/test_data_events.py",)
RECIPES = ("tests/recipes/test_recipes_point_processes.py",)

MUTANTS = (
    Mutant(
        "events: a division may leave nothing to test on",
        "data/events.py",
        "min(max(round(share * count), 1), count - 1)",
        "round(share * count)",
        ("tests/data/test_data_events.py",),
    ),
    Mutant("point processes: the state has seen the event itself", f"{HERE}/transformer.py", ".triu(1)", ".triu(2)", LIKELIHOODS),
    Mutant("point processes: THP's integral counts one mark", f"{HERE}/transformer.py", "until * u).sum(2) * weights", "until * u)[..., 0] * weights", LIKELIHOODS),
    Mutant("point processes: RMTPP's slope is forgotten in the density", f"{HERE}/recurrent.py", "(level + self.slope * gap - torch", "(level - torch", LIKELIHOODS),
    Mutant("point processes: the unit is forgotten by Hawkes", f"{HERE}/hawkes.py", "(total - torch.log(self.scale)) * seen - hazard", "total * seen - hazard", LIKELIHOODS),
    Mutant("point processes: the unit is forgotten by GCHP", f"{HERE}/gchp.py", "- torch.log(self.scale) * seen", "", LIKELIHOODS),
    Mutant("point processes: a survival term counts as density", f"{HERE}/gchp.py", "torch.where(seen, density, self", "torch.where(seen, density, density + 0 * self", LIKELIHOODS),
    Mutant("point processes: figures are means over targets", f"{HERE}/process.py", "(sums / sums[-1]).tolist()", "(sums / (sums[-1] + 1)).tolist()", LIKELIHOODS),
    Mutant("point processes: the horizon's share stays in the mean", f"{HERE}/process.py", "density.sum(1) - horizon * none", "density.sum(1)", LIKELIHOODS),
    Mutant("point processes: what follows the last event is that of the first", f"{HERE}/process.py", "length - 1] = 0", "length * 0] = 0", LIKELIHOODS),
    Mutant("Hawkes: decay has the wrong sign", f"{HERE}/hawkes.py", "left = torch.exp(-apart", "left = torch.exp(apart", HAWKES),
    Mutant("Hawkes: the scan does not double", f"{HERE}/hawkes.py", "apart[:, span:] + apart[:, :-span]", "apart[:, span:]", HAWKES),
    Mutant("Hawkes: excitation is turned round", f"{HERE}/hawkes.py", "kept @ alpha.flatten(1).T", "kept @ alpha.transpose(0, 1).flatten(1).T", HAWKES),
    Mutant("Hawkes: the compensator forgets the base", f"{HERE}/hawkes.py", "hazard = base.sum() * time", "hazard = 0.5 * base.sum() * time", HAWKES),
    Mutant("Hawkes: decays stay", f"{HERE}/hawkes.py", "self.decay.copy_(solution[taken_up:].exp())", "pass", HAWKES),
    Mutant("simulation: the bound is taken for the rate", f"{HERE}/simulation.py", "kept = place < reached[:, -1]", "kept = place >= 0", HAWKES),
    Mutant("simulation: excitation is turned round", f"{HERE}/simulation.py", "alpha[:, kind] * beta", "np.swapaxes(alpha, 0, 1)[:, kind] * beta", HAWKES),
    Mutant("goodness: ends are dropped", f"{HERE}/goodness.py", "np.cumsum(hazard)[seen > 0]", "np.cumsum(hazard[seen > 0])", HAWKES),
    Mutant("gaps: Rayleigh's moment", f"{HERE}/gaps.py", "- math.pi / 4 * ratio.square()\n        if self.family == \"gamma\"", "- math.pi / 2 * ratio.square()\n        if self.family == \"gamma\"", GAPS),
    Mutant("gaps: Weibull's moment is forgotten", f"{HERE}/gaps.py", "stretched = torch.log(ratio) + torch.lgamma(1 + 1 / shape)", "stretched = torch.log(ratio)", GAPS),
    Mutant("gaps: the log-normal's mean is its median", f"{HERE}/gaps.py", "torch.log(mean) + shape.square() / 2) / shape", "torch.log(mean)) / shape", GAPS),
    Mutant("gaps: the mixture's tail has the wrong sign", f"{HERE}/gaps.py", "log_ndtr((centres - torch.log(gap)", "log_ndtr((torch.log(gap)", GAPS),
    Mutant("gaps: the shape is not learned", f"{HERE}/gaps.py", "if learned:\n            self.log_shape = nn.Parameter(logarithm)", "if learned:\n            self.log_shape = nn.Parameter(logarithm).requires_grad_(False)", GAPS),
    Mutant("graph: events after are forgotten", f"{HERE}/graph.py", "torch.add(given[k], found[k], out=found[k - 1])", "found[k - 1].zero_()", GRAPH),
    Mutant("graph: the decay is that of another gap", f"{HERE}/graph.py", "addcmul_(decay[k], given[k - 1])", "addcmul_(decay[k - 1], given[k - 1])", GRAPH),
    Mutant("graph: normalised by the sums, not by their root", f"{HERE}/graph.py", "(-times / 2)", "(-times)", GRAPH),
    Mutant("graph: missing events have edges", f"{HERE}/graph.py", "self.scale = there.to(gaps.dtype)", "self.scale = torch.ones_like(gaps)", GRAPH),
    Mutant("graph: the product has no gradient", f"{HERE}/graph.py", "return found, None, None, None", "return found * 0, None, None, None", GRAPH),
    Mutant("GCHP: the last row is the first", f"{HERE}/graph.py", "return self.scale[-1] * self._from_last", "return self.scale[0] * self._from_last", GRAPH),
    Mutant("GCHP: eta weighs the mark", f"{HERE}/gchp.py", "self.eta * in_time - self.theta", "self.theta * in_time - self.eta", GRAPH),
    Mutant("events: the first gap of a sequence reaches into the one before", "data/events.py", "gaps[begins[sizes > 0]] = 0.0", "pass", EVENTS),
    Mutant("events: the end is left out", "data/events.py", "sizes - first + survives", "sizes - first", EVENTS),
    Mutant("events: ends are sorted away", "data/event_files.py", "ends.append(rows[-1][0])", "ends.append(seen[-1][0])", EVENTS),
    Mutant("events: a misspelt column makes one sequence of all", "data/event_files.py", "if sequence == COLUMNS[0] else (sequence, time, mark)", "if sequence else (sequence, time, mark)", EVENTS),
    Mutant("events: a line with a field too few ends its sequence", "data/event_files.py", "if None in row or None in row.values():", "if None in row:", EVENTS),
    Mutant("events: a quote that is never closed swallows lines", "data/event_files.py", 'newline=""), strict=True)', 'newline=""))', EVENTS),
    Mutant("events: the sequence of equal times is not told", "data/events.py", 'number = int(np.searchsorted(self.offsets, event, "right")) - 1', "number = -1", EVENTS),
    Mutant("events: times the clock made are numbers", "data/events.py", 'if found.dtype.kind not in "fiu":', "if False:", EVENTS),
    Mutant("events: times may go back", "data/event_files.py", "if when < before[0]:", "if False:", EVENTS),
    Mutant("events: marks are numbered as words", "data/event_files.py", "if name}, key=_as_number)", "if name})", EVENTS),
    Mutant("baselines: the last mark is the next one", f"{HERE}/baselines.py", "(mark == last)", "(mark == mark)", RECIPES),
    Mutant("training: a rule that measures itself is not asked", "training/evaluation.py", "if isinstance(rule, Measured):", "if False:", RECIPES),
)  # fmt: skip
