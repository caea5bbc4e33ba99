"""Planted defects of training in several processes."""

from mutant import Mutant

PARALLEL = ("tests/parallel",)

MUTANTS = (
    Mutant(
        "parallel: a batch that fails takes accumulated gradients along",
        "parallel/share.py",
        "        finally:\n            for parameter, earlier",
        "        except ZeroDivisionError:\n            for parameter, earlier",
        ("tests/parallel/test_parallel_share.py",),
    ),
    Mutant(
        "parallel: replicas' gradients not weighted",
        "parallel/share.py",
        "for gradient in gradients]) * weight",
        "for gradient in gradients])",
        PARALLEL,
    ),
    Mutant(
        "parallel: embedding's gradient not summed",
        "parallel/share.py",
        "self._sum(self._common, weight, None)",
        "pass",
        PARALLEL,
    ),
    Mutant(
        "parallel: head trained by the first group too",
        "parallel/place.py",
        "return self.group == self.groups - 1",
        "return True",
        PARALLEL,
    ),
    Mutant(
        "parallel: a block for two groups",
        "parallel/place.py",
        "range(first + 1, first + 1 + least + (self.group < rest))",
        "range(first + 1, first + 2 + least)",
        PARALLEL,
    ),
    Mutant(
        "parallel: replicas draw the same noise",
        "parallel/share.py",
        "block_stream(draw_step_seed(), replica, x.device)",
        "block_stream(draw_step_seed(), 0, x.device)",
        PARALLEL,
    ),
    Mutant("parallel: bytes not counted", "parallel/share.py", "self.sent_bytes += bucket.nbytes", "pass", PARALLEL),
    Mutant(
        "parallel: gradients in another memory format",
        "parallel/share.py",
        "torch.empty_like(parameter).copy_(summed.view_as(parameter))",
        "summed.view_as(parameter)",
        PARALLEL,
    ),
    Mutant(
        "parallel: statistics of the first replica alone",
        "parallel/share.py",
        "values[0] if same else _averaged(values)",
        "values[0]",
        PARALLEL,
    ),
    Mutant(
        "parallel: earlier gradients forgotten",
        "parallel/share.py",
        "parameter.grad = earlier if parameter.grad is None else earlier + parameter.grad",
        "pass",
        PARALLEL,
    ),
    Mutant(
        "parallel: what another process trains is told as left out",
        "training/loop.py",
        "if id(p) in missing]",
        "if p.requires_grad and id(p) not in held]",
        PARALLEL,
    ),
)
