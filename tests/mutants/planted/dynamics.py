"""Planted defects of networks in time."""

from mutant import Mutant

HOME = "dynamics"
ROLLOUT = ("tests/dynamics/test_dynamics_rollout.py",)
SIMULATION = ("tests/dynamics/test_dynamics_simulation.py",)
INFERENCE = ("tests/dynamics/test_dynamics_inference.py",)
OWN = ("tests/dynamics/test_dynamics_own_series.py",)

MUTANTS = (
    Mutant("roll-out: coupling pushes", f"{HOME}/rollout.py", "signal) - degrees", "signal) + degrees", ROLLOUT),
    Mutant("roll-out: weights transposed", f"{HOME}/rollout.py", '"kj,wjc->wkc"', '"jk,wjc->wkc"', ROLLOUT),
    Mutant("roll-out: a stage is skipped", f"{HOME}/rollout.py", "(k1 + 2 * k2 + 2 * k3", "(k1 + 4 * k2", ROLLOUT),
    Mutant("local model: Jacobian without the linear path", f"{HOME}/local_model.py", "self.first.weight + linear)", "self.first.weight)", ROLLOUT),
    Mutant("local model: by the second layer, not the first", f"{HOME}/local_model.py", '"rci,rj->rcij", by_second, h1', '"rci,rj->rcij", by_second, h2', ROLLOUT),
    Mutant("curvature: forces without the node's own state", f"{HOME}/curvature.py", " - own[:, :, c, None]", " - 0 * own[:, :, c, None]", ROLLOUT),
    Mutant("curvature: starts are not taken out", f"{HOME}/curvature.py", "part = part - start @ follows", "part = part + 0 * start @ follows", ROLLOUT),
    Mutant("simulation: coupling without the pull back", f"{HOME}/coupling.py", "@ weights.T - weights.sum(1) * states[..., c]", "@ weights.T", SIMULATION),
    Mutant("simulation: process noise by the step, not its root", f"{HOME}/simulation.py", "np.sqrt(h) * random", "h * random", SIMULATION),
    Mutant("simulation: noise of the variance's size", f"{HOME}/simulation.py", "noise * series.std(", "noise * series.var(", SIMULATION),
    Mutant("Chua: outer segments as the middle ones", f"{HOME}/systems.py", "(self.m1 - 1) * (np.abs", "0 * (np.abs", SIMULATION),
    Mutant("FitzHugh-Nagumo: the drive by sine", f"{HOME}/systems.py", "math.cos(w * t)", "math.sin(w * t)", SIMULATION),
    Mutant("Lyapunov: growth is not averaged", f"{HOME}/lyapunov.py", "return grown / counted", "return grown", SIMULATION),
    Mutant("least squares: rows stay in the library", f"{HOME}/regression.py", "blocks - basis @ (basis.T @ blocks)", "blocks", INFERENCE),
    Mutant("sparse regression: never thresholds", f"{HOME}/regression.py", "np.abs(weights) >= threshold,", "np.abs(weights) >= 0,", INFERENCE),
    Mutant("smoothing: slopes by samples", f"{HOME}/smoothing.py", "delta=interval", "delta=1.0", INFERENCE),
    Mutant("edges: the prior's mean is forgotten", f"{HOME}/edges.py", "heat * given + centre / width**2", "heat * given", INFERENCE),
    Mutant("edges: what goes is added", f"{HOME}/edges.py", "dger(-1 / column[at]", "dger(1 / column[at]", INFERENCE),
    Mutant("edges: no weight takes another's place", f"{HOME}/edges.py", "able = self.there[rows, one] & ~", "able = self.there[rows, one] & False & ~", INFERENCE),
    Mutant("edges: shared parameters count as known", f"{HOME}/edges.py", "given = pull - shared.mixed @ drawn", "given = pull", INFERENCE),
    Mutant("edges: the shared parameters' slope is forgotten", f"{HOME}/edges.py", "(shared.slope + np", "(0 * shared.slope + np", INFERENCE),
    Mutant("alternation: weights are drawn to nothing", f"{HOME}/alternation.py", "self._pull * (here.weights - self.centre)).gather", "0 * (here.weights - self.centre)).gather", INFERENCE),
    Mutant("alternation: no node takes a shorter step", f"{HOME}/alternation.py", "by_start, factor * by_start)", "by_start, by_start)", INFERENCE),
    Mutant("inference: a lost pass stands", f"{HOME}/inference.py", "            self.load_state_dict(before)\n", "", INFERENCE),
    Mutant("alternation: weights that are not allowed move", f"{HOME}/alternation.py", "(rows * self._free).double()", "rows.double()", INFERENCE),
    Mutant("inference: the drive's phase by half", f"{HOME}/inference.py", "(2 * math.pi * self.interval / self.period)", "(math.pi * self.interval / self.period)", INFERENCE),
    Mutant("inference: explained states are lost", f"{HOME}/inference.py", "self.states = self.states.new_zeros(saved.shape)", "pass", INFERENCE),
    Mutant("scores: ties count for", f"{HOME}/scores.py", "rankdata(np.asarray(confidence)[off])", 'rankdata(np.asarray(confidence)[off], "max")', INFERENCE),
    Mutant("roll-out: the first components couple", f"{HOME}/rollout.py", "front = columns == list(range(len(columns)))", "front = True", OWN),
    Mutant("inference: another fit goes on from the last", f"{HOME}/inference.py", "            self.local.reset_parameters()  # another fit begins anew\n", "            pass\n", OWN),
    Mutant("inference: every run begins at the first sample", f"{HOME}/inference.py", "self._drive(torch.tensor([at]), steps)", "self._drive(torch.tensor([0]), steps)", OWN),
    Mutant("inference: a node that does not move is not named", f"{HOME}/inference.py", "node = int(still.int().argmax())", "node = 0", OWN),
    Mutant("appraisal: closed forms forget the drive's phase", f"{HOME}/appraisal.py", "when = begin * inference.interval", "when = 0.0", OWN),
    Mutant("appraisal: nothing is too small for an edge", f"{HOME}/appraisal.py", "abs(float(inference.edges[0])) / 3 if threshold is None else threshold", "0.0", OWN),
    Mutant("appraisal: a run that lasts counts one sample too many", f"{HOME}/comparison.py", "np.minimum(valid_steps(run, truth, scale), run.shape[1] - 1)", "valid_steps(run, truth, scale)", OWN),
    Mutant("inference: what was saved does not know its clock", f"{HOME}/inference.py", "if not torch.allclose(clock.double(), self.clock.double(), rtol=1e-6, atol=0):", "if False:", OWN),
    Mutant("appraisal: runs from the same sample", f"{HOME}/comparison.py", "series[first : first + horizon + 1] for first in firsts", "series[: horizon + 1] for first in firsts", OWN),
    Mutant("exponent: growth of more time than is counted", f"{HOME}/lyapunov.py", "counted + piece", "min(counted + piece, time)", OWN),
    Mutant("series: masked samples pass", f"{HOME}/checked.py", "if np.ma.is_masked(series):", "if False:", OWN),
)  # fmt: skip
