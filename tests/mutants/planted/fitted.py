"""Planted defects of what is fitted layer by layer or by convex programs."""

from mutant import Mutant

RESCNET = "solvers/rescnet"
THRESHOLD = "solvers/threshold"
LAYERS = ("tests/solvers/test_rescnet.py",)
PCANET = ("tests/solvers/test_pcanet.py",)
CONVEX = ("tests/solvers/test_threshold.py",)

MUTANTS = (
    Mutant(
        "pcanet: the mean of a patch is taken off one side alone",
        f"{RESCNET}/filters.py",
        "without @ products @ without",
        "without @ products",
        PCANET,
    ),
    Mutant(
        "rescnet: leverages without the intercept",
        f"{RESCNET}/ridge.py",
        "torch.cat(found) + 1 / self.count",
        "torch.cat(found)",
        LAYERS,
    ),
    Mutant(
        "rescnet: the ridge does not grow with the samples",
        f"{RESCNET}/ridge.py",
        "gram.diagonal().add_(count * ridge)",
        "gram.diagonal().add_(ridge)",
        LAYERS,
    ),
    Mutant(
        "rescnet: left-one-out the wrong way",
        f"{RESCNET}/network.py",
        "left = (self.residual - predicted) / (1 - ridge.leverages(fitted))[:, None]",
        "left = (self.residual - predicted) * (1 - ridge.leverages(fitted))[:, None]",
        LAYERS,
    ),
    Mutant(
        "rescnet: residual labels grow",
        f"{RESCNET}/network.py",
        "self.residual = self.residual - step * predicted",
        "self.residual = self.residual + step * predicted",
        LAYERS,
    ),
    Mutant(
        "rescnet: a layer predicts with its whole share",
        f"{RESCNET}/network.py",
        "layer.bias.copy_(step * ridge.bias)",
        "layer.bias.copy_(ridge.bias)",
        LAYERS,
    ),
    Mutant(
        "rescnet: samples held out are fitted to",
        f"{RESCNET}/network.py",
        "fitted, kept_out = self._features[held:], self._features[:held]",
        "fitted, kept_out = self._features[held:], self._features[held : 2 * held]",
        LAYERS,
    ),
    Mutant(
        "rescnet: the last layer always predicts",
        f"{RESCNET}/network.py",
        "int(self.course[: number + 1, 2].argmax()) + 1 if held else",
        "number + 1 if held else",
        LAYERS,
    ),
    Mutant(
        "rescnet: a resumed fit makes no maps anew",
        f"{RESCNET}/network.py",
        "len(store) if number else 0, CHUNK",
        "0, CHUNK",
        LAYERS,
    ),
    Mutant(
        "rescnet: only one side of a response counts",
        f"{RESCNET}/features.py",
        "(responses + offset).clamp_(max=0))",
        "-(responses - offset).relu_())",
        LAYERS,
    ),
    Mutant(
        "rescnet: covariance about zero",
        f"{RESCNET}/filters.py",
        "self._products - self.count * torch.outer(self.mean, self.mean)",
        "self._products",
        LAYERS,
    ),
    Mutant(
        "rescnet: the order of the batches is kept",
        f"{RESCNET}/store.py",
        "for _, _, prints in self._parts]).argsort(stable=True)",
        "for _, _, prints in self._parts]).mul(0).argsort(stable=True)",
        LAYERS,
    ),
    Mutant(
        "pcanet: signs in reverse order",
        f"{RESCNET}/features.py",
        "bits = (responses > 0).unflatten(1, (-1, BITS))",
        "bits = (responses > 0).unflatten(1, (-1, BITS)).flip(2)",
        PCANET,
    ),
    Mutant(
        "pcanet: the classifier's hinge is not squared",
        f"{RESCNET}/pcanet.py",
        "pull = -2 * signs * slack / len(labels)",
        "pull = -2 * signs * (slack > 0) / len(labels)",
        PCANET,
    ),
    Mutant(
        "pcanet: the intercept is not trained",
        f"{RESCNET}/pcanet.py",
        "pull.sum(dim=0))",
        "0 * pull.sum(dim=0))",
        PCANET,
    ),
    Mutant(
        "threshold: zero is off",
        f"{THRESHOLD}/arrangements.py",
        "patterns = scores >= 0",
        "patterns = scores > 0",
        CONVEX,
    ),
    Mutant(
        "threshold: rays of one side alone",
        f"{THRESHOLD}/arrangements.py",
        "found += [ray[:, None] + step * turns, step * turns - ray[:, None]]",
        "found += [ray[:, None] + step * turns]",
        CONVEX,
    ),
    Mutant(
        "threshold: pricing for the largest sum alone",
        f"{THRESHOLD}/arrangements.py",
        "for sign in (1.0, -1.0)]",
        "for sign in (1.0, 1.0)]",
        CONVEX,
    ),
    Mutant(
        "threshold: the Lasso's penalty by the sample",
        f"{THRESHOLD}/lasso.py",
        "alpha=beta / n",
        "alpha=beta",
        CONVEX,
    ),
    Mutant(
        "threshold: the support is solved without the penalty",
        f"{THRESHOLD}/lasso.py",
        "d.T @ y - beta * signs[support]",
        "d.T @ y",
        CONVEX,
    ),
    Mutant(
        "threshold: an infeasible dual point",
        f"{THRESHOLD}/lasso.py",
        "theta = residual * min(1.0, beta / max(largest, 1e-300))",
        "theta = residual",
        CONVEX,
    ),
    Mutant(
        "threshold: levels sum to twice the penalty",
        f"{THRESHOLD}/shattered.py",
        "(np.cumsum(counts[order] * falling) - beta)",
        "(np.cumsum(counts[order] * falling) - 2 * beta)",
        CONVEX,
    ),
    Mutant(
        "threshold: negative targets are not cut off",
        f"{THRESHOLD}/shattered.py",
        "_capped(np.maximum(side, 0.0), counts, beta) for side in (y, -y)",
        "_capped(np.maximum(side, 0.0), counts, beta if side is y else 1e-9) for side in (y, -y)",
        CONVEX,
    ),
    Mutant(
        "threshold: amplitudes carry the whole weight",
        f"{THRESHOLD}/network.py",
        "root = np.sqrt(np.abs(flat))",
        "root = np.abs(flat)",
        CONVEX,
    ),
    Mutant(
        "threshold: straight through is everywhere the identity",
        f"{THRESHOLD}/straight_through.py",
        "SURROGATES[ctx.estimator](z), None",
        "1.0, None",
        CONVEX,
    ),
)
