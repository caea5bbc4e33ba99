"""Planted defects of measuring: alignment, Gauss-Newton steps, similarity, activations."""

from mutant import Mutant

ALIGNMENT = ("tests/measure/test_alignment.py",)
ALIGNED_TRAINING = ("tests/training/test_training_alignment.py",)
ACTIVATIONS = ("tests/measure/test_activations.py",)
SIMILARITY = ("tests/measure/test_similarity.py",)
STUDY = ("tests/test_study.py",)
NULL_SPACE = ("tests/measure/test_gauss_newton_measure.py",)

MUTANTS = (
    Mutant(
        "alignment: radians for degrees",
        "measure/alignment.py",
        "Alignment(math.degrees(radians), ratio)",
        "Alignment(radians, ratio)",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: ratio upside down",
        "measure/alignment.py",
        "update / gradient)\n    if",
        "gradient / update)\n    if",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: more than 90 degrees folded back",
        "measure/alignment.py",
        "math.copysign(math.sqrt(squared), product)",
        "math.sqrt(squared)",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: what is not reached counts as zero",
        "measure/alignment.py",
        "        if update is not None and gradient is not None:\n",
        "        gradient = torch.zeros_like(update) if gradient is None else gradient\n        if True:\n",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: other random numbers for each side",
        "measure/alignment.py",
        "with torch.random.fork_rng(devices=list(devices)):",
        "with torch.random.fork_rng(enabled=False):",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: buffers stay moved", "measure/alignment.py", "tensor.copy_(value)", "value.copy_(tensor)", ALIGNMENT
    ),
    Mutant(
        "alignment: its gradients stay for the optimizer",
        "measure/alignment.py",
        "            parameter.grad = gradient\n",
        "            pass\n",
        ALIGNMENT,
    ),
    Mutant(
        "alignment: counted as training time",
        "training/trainer.py",
        "        self.tracker.start_clock()\n        return found",
        "        return found",
        ALIGNED_TRAINING,
    ),
    Mutant(
        "gauss-newton measure: a bias moves nothing",
        "measure/gauss_newton.py",
        "alike = alike + (bias is not None)",
        "alike = alike + 0",
        NULL_SPACE,
    ),
    Mutant(
        "gauss-newton measure: the part that moves outputs is told",
        "measure/gauss_newton.py",
        "return update - jacobian.mT",
        "return jacobian.mT",
        NULL_SPACE,
    ),
    Mutant(
        "gauss-newton measure: samples taken for independent in a batch norm",
        "measure/gauss_newton.py",
        "if alone and computes_as",
        "if computes_as",
        NULL_SPACE,
    ),
    Mutant(
        "gauss-newton measure: the whole batch is looked at",
        "measure/gauss_newton.py",
        "x, y = x[:samples], y[:samples]",
        "x, y = x[:], y[:]",
        NULL_SPACE,
    ),
    Mutant(
        "gauss-newton measure: what stood in .grad counts",
        "measure/alignment.py",
        "parameter.grad for parameter in rule.parameters()}",
        "parameter.grad for parameter in parameters}",
        NULL_SPACE,
    ),
    Mutant(
        "gauss-newton measure: written at every step",
        "training/trainer.py",
        "number == 1 or number % every == 0",
        "number >= 1 or every",
        ALIGNED_TRAINING,
    ),
    Mutant(
        "similarity: CKA without its root",
        "measure/similarity.py",
        "own_x.norm() * own_y.norm()",
        "own_x.norm().square() * own_y.norm().square()",
        SIMILARITY,
    ),
    Mutant("similarity: columns not centred", "measure/similarity.py", "each - each.mean(dim=0)", "each", SIMILARITY),
    Mutant(
        "similarity: Gram side of few samples in the wrong case",
        "measure/similarity.py",
        "product = (own_x * own_y).sum()",
        "product = (own_x * own_x).sum()",
        SIMILARITY,
    ),
    Mutant(
        "similarity: signs kept in the matching",
        "measure/similarity.py",
        "(x.t() @ y).abs()",
        "(x.t() @ y)",
        SIMILARITY,
    ),
    Mutant(
        "similarity: overlap of all samples",
        "measure/similarity.py",
        "/ either if either",
        "/ len(a) if either",
        SIMILARITY,
    ),
    Mutant(
        "similarity: divergence the other way round",
        "measure/similarity.py",
        "log_p.exp() * (log_p - log_q)",
        "log_q.exp() * (log_q - log_p)",
        SIMILARITY,
    ),
    Mutant(
        "study: rules compared at other seeds",
        "study.py",
        "for a, b in zip(first, second, strict=True)",
        "for a, b in zip(first, second[::-1], strict=True)",
        STUDY,
    ),
    Mutant(
        "study: a network with itself on the diagonal",
        "study.py",
        "itertools.combinations(first, 2) if symmetric",
        "zip(first, first, strict=True) if symmetric",
        STUDY,
    ),
    Mutant(
        "activations: the last evaluation of a layer in place of the first",
        "measure/activations.py",
        "if latest and latest not in found:",
        "if latest:",
        ACTIVATIONS,
    ),
)
