"""Plants the defects that ship in this field (signs, scales, layers that never learn) and checks that a test sees each.

    python tests/mutants/mutants.py            all of them
    python tests/mutants/mutants.py schedule   those whose name holds the word

Every mutant is a copy of the source with one line changed; the tests named beside it must fail on it. The checkout is
never changed. Exit status 1 if a mutant survives, or if a line to change is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NOPROP = "rules/local/noprop"
NOPROP_TESTS = ("tests/rules/local", "tests/networks")
BATTERY = ("tests/test_battery.py",)
RECIPES = ("tests/recipes",)
TRAINING = ("tests/training",)
AVERAGING = ("tests/training/test_training_averaging.py",)
DATA = ("tests/data/test_data_augmentation.py", "tests/data/test_data_batches.py")
TIMED = tuple(f"tests/rules/local/test_noprop_{name}.py" for name in ("continuous", "flow", "integrators"))
LEARNED = ("tests/rules/local/test_noprop_learned_schedule.py",)
BATCHED = ("tests/rules/local/test_noprop_batched.py",)
PARALLEL = ("tests/parallel",)
SIGNALS = "rules/signals"
CONSEQUENTIAL = ("tests/rules/signals/test_consequential.py",)
PROXPROP = ("tests/rules/signals/test_proxprop.py",)
SEMI_IMPLICIT = ("tests/rules/signals/test_semi_implicit.py",)
LAYERS = ("tests/rules/signals/test_layers.py",)
CHAINED = ("tests/rules/signals/test_feedback_alignment.py",)
DIRECT = ("tests/rules/signals/test_direct_feedback.py",)
TARGET = ("tests/rules/signals/test_target_projection.py",)
ALIGNMENT = ("tests/measure/test_alignment.py",)
ALIGNED_TRAINING = ("tests/training/test_training_alignment.py",)
ACTIVATIONS = ("tests/measure/test_activations.py",)
FEEDBACK = ("tests/rules/signals/test_feedback.py",)
SIMILARITY = ("tests/measure/test_similarity.py",)
STUDY = ("tests/test_study.py",)
CENTRED = ("tests/rules/signals/test_centred_signs.py",)
SOLVERS = ("tests/solvers",)
CONTRACTS = ("tests/test_rule.py",)
SOLVING = ("tests/training/test_training_solving.py",)
LOCAL = "rules/local"
BLOCKWISE = ("tests/rules/local/test_blockwise.py",)
LOCAL_LOSSES = ("tests/rules/local/test_local_losses.py",)
FF = ("tests/rules/local/test_forward_forward.py",)
CAFO = ("tests/rules/local/test_cascaded_forward.py",)
FIELDS = ("tests/layers/test_locally_connected.py",)
PERTURBATION = "rules/perturbation"
MGD = ("tests/rules/perturbation/test_multiplexed.py",)
ANALOG = ("tests/rules/perturbation/test_analog.py",)
LAYERWISE = ("tests/rules/perturbation/test_layerwise.py",)
SEEDS = ("tests/parallel/test_parallel_processes.py",)
FORWARD_GRADIENT = ("tests/rules/perturbation/test_forward_gradient.py",)
POPULATION = ("tests/networks/test_networks_population.py",)
CODES = ("tests/rules/perturbation/test_codes.py",)
BLOCK_RECIPES = ("tests/recipes/test_recipes_blockwise.py",)


class Mutant(NamedTuple):
    """One planted defect: in `file`, the first `old` becomes `new`; `tests` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = NOPROP_TESTS


MUTANTS = (
    Mutant("schedule: a without the root", f"{NOPROP}/schedule.py", "a = math.sqrt(now)", "a = now"),
    Mutant(
        "schedule: b and its noise swapped",
        f"{NOPROP}/schedule.py",
        "b = math.sqrt(alpha) * (1 - now)",
        "b = math.sqrt(alpha) * (1 - before)",
    ),
    Mutant("schedule: c lacks a factor", f"{NOPROP}/schedule.py", "c = (1 - now) * (1 - alpha)", "c = (1 - alpha)"),
    Mutant(
        "schedule: time reversed in alpha",
        f"{NOPROP}/schedule.py",
        "alpha = before / now",
        "alpha = now / before if before else 0.5",
    ),
    Mutant(
        "schedule: reversed levels accepted",
        f"{NOPROP}/schedule.py",
        "if any(late <= early",
        "if False and any(late <= early",
    ),
    Mutant(
        "schedule: SNR increment of the next block",
        f"{NOPROP}/schedule.py",
        "self.snr[t] - self.snr[t - 1]",
        "self.snr[min(t + 1, self.steps)] - self.snr[t]",
    ),
    Mutant("schedule: KL with a wrong sign", f"{NOPROP}/schedule.py", "- dim * start - dim", "- dim * start + dim"),
    Mutant(
        "loss: block reads z_t in place of z_{t-1}",
        f"{NOPROP}/discrete.py",
        "self.noisy_label(t - 1, y), x)",
        "self.noisy_label(t, y), x)",
    ),
    Mutant("loss: eta/2 becomes eta", f"{NOPROP}/discrete.py", "return 0.5 * self.eta", "return self.eta"),
    Mutant(
        "loss: error averaged over d",
        "rules/local/noprop/embedding.py",
        "self(y)).square().sum(dim=-1)",
        "self(y)).square().mean(dim=-1)",
    ),
    Mutant(
        "loss: error summed over the batch",
        "rules/local/noprop/discrete.py",
        "snr_increment * error.mean(dim=-1)",
        "snr_increment * error.sum(dim=-1)",
    ),
    Mutant(
        "loss: target detached from the embedding",
        "rules/local/noprop/embedding.py",
        "- self(y)).square()",
        "- self(y).detach()).square()",
    ),
    Mutant(
        "loss: no SNR weight", "rules/local/noprop/discrete.py", "self.eta * snr_increment * error", "self.eta * error"
    ),
    Mutant("loss: KL left out", f"{NOPROP}/discrete.py", "return cross_entropy + kl", "return cross_entropy"),
    Mutant(
        "loss: head reads z_0",
        f"{NOPROP}/discrete.py",
        "self.noisy_label(self.schedule.steps, y)",
        "self.noisy_label(0, y)",
    ),
    Mutant(
        "training: the last block never learns",
        "rules/local/noprop/discrete.py",
        "self.train_only(range(1, len(self.network) + 1), head=True)",
        "self.train_only(range(1, len(self.network)), head=True)",
    ),
    Mutant(
        "training: the head never learns",
        "rules/local/noprop/discrete.py",
        'descend(total, "the head p_out")',
        "pass",
        BATTERY,
    ),
    Mutant(
        "training: sign turned",
        "rule.py",
        "        loss.backward()\n        torch.clear",
        "        (-loss).backward()\n        torch.clear",
        (*NOPROP_TESTS, *BATTERY),
    ),
    Mutant(
        "training: Algorithm 1 without its factor T", f"{NOPROP}/discrete.py", "share = float(steps)", "share = 1.0"
    ),
    Mutant(
        "training: blocks joined in one graph",
        f"{NOPROP}/discrete.py",
        "self._logits(t, self.noisy_label(t - 1, y), x)",
        "self._logits(t, z := self.noisy_label(t - 1, y), x) + 0.1 * self.network[t - 2](z, x)",
    ),
    Mutant(
        "noise: variance in place of deviation",
        f"{NOPROP}/discrete.py",
        "math.sqrt(1 - level) * torch.randn_like(u)",
        "(1 - level) * torch.randn_like(u)",
    ),
    Mutant("noise: signal without the root", f"{NOPROP}/discrete.py", "math.sqrt(level) * u", "level * u"),
    Mutant("chain: update noise c for sqrt(c)", f"{NOPROP}/discrete.py", "z = z + math.sqrt(c)", "z = z + c"),
    Mutant(
        "chain: a and b swapped",
        f"{NOPROP}/discrete.py",
        "a, b, c = self.schedule.coefficients(t)",
        "b, a, c = self.schedule.coefficients(t)",
    ),
    Mutant(
        "chain: blocks in reversed order",
        f"{NOPROP}/discrete.py",
        "for t in range(1, len(self.network) + 1):\n            a",
        "for t in range(len(self.network), 0, -1):\n            a",
    ),
    Mutant("posterior head: sigma not squared", f"{NOPROP}/discrete.py", "self.sigma**2", "self.sigma"),
    Mutant(
        "posterior head: sign",
        "rules/local/noprop/embedding.py",
        "return z @ rows.T - 0.5 *",
        "return z @ rows.T + 0.5 *",
    ),
    Mutant(
        "embedding: expectation of the wrong axis",
        "rules/local/noprop/embedding.py",
        ".softmax(dim=-1))",
        ".softmax(dim=0))",
    ),
    Mutant("embedding: medoid by the largest distance", f"{NOPROP}/embedding.py", ".argmin())", ".argmax())"),
    Mutant("embedding: medoid counts the distance to itself", f"{NOPROP}/embedding.py", "= torch.nan", "= 0.0"),
    Mutant(
        "embedding: head starts upside down",
        f"{NOPROP}/embedding.py",
        "copy_(sharpness * self.rows)",
        "copy_(-sharpness * self.rows)",
    ),
    Mutant("block: residual lost", f"{NOPROP}/blocks.py", "return h + self.change(h)", "return self.change(h)"),
    Mutant(
        "block: image path unused", f"{NOPROP}/blocks.py", "self.image_path(x), self", "0 * self.image_path(x), self"
    ),
    Mutant("chain baseline: shares swapped", "networks/noprop.py", "z = (1 - a) * z + a *", "z = a * z + (1 - a) *"),
    Mutant("dropout: scale forgotten", "layers/dropout.py", ".mul_(_LEVELS / (_LEVELS - cut))", "", ("tests/layers",)),
    Mutant("dropout: keeps what it should drop", "layers/dropout.py", ">= cut -", "< cut -", ("tests/layers",)),
    Mutant(
        "dropout: gradient of dropped values",
        "layers/dropout.py",
        "return input * _mask(input, cut)",
        "return input * _mask(input, cut) + 0.1 * (input - input.detach())",
        ("tests/layers",),
    ),
    Mutant(
        "backprop: sign turned",
        "rules/signals/backprop.py",
        "        loss.backward()",
        "        (-loss).backward()",
        ("tests/rules/signals",),
    ),
    Mutant(
        "backprop: gradients replaced, not added",
        "rules/signals/backprop.py",
        "        loss.backward()",
        "        self.zero_grad()\n        loss.backward()",
        BATTERY,
    ),
    Mutant("contract: graph kept in the loss", "rule.py", "phase).detach()", "phase)", BATTERY),
    Mutant(
        "embedding: no gradient through z",
        f"{NOPROP}/discrete.py",
        "self.schedule.alpha_bar[t], self.embedding(y)",
        "self.schedule.alpha_bar[t], self.embedding(y).detach()",
    ),
    Mutant(
        "chain: z_0 of a tenth of the noise",
        f"{NOPROP}/discrete.py",
        "return torch.randn_like(z) if start",
        "return 0.1 * torch.randn_like(z) if start",
    ),
    Mutant("labels: bytes taken for a mask", "rule.py", "return y.long()", "return y"),
    Mutant(
        "recipe: head of the settings forgotten",
        "recipes/noprop/discrete.py",
        "        head=settings.head,\n",
        "",
        RECIPES,
    ),
    Mutant(
        "recipe: embedding of the settings forgotten",
        "recipes/backprop.py",
        "make_embedding(settings",
        "make_embedding(type(settings)(epochs=1)",
        RECIPES,
    ),
    Mutant(
        "measures: blocks are given the chain",
        "recipes/noprop/discrete.py",
        "by_itself = rule.each_block_alone(x)",
        "by_itself = rule.run_chain(x)[1]",
        RECIPES,
    ),
    Mutant(
        "measures: the paper's way without noise",
        "recipes/noprop/discrete.py",
        "noise=True, start=",
        "noise=False, start=",
        RECIPES,
    ),
    Mutant(
        "optimizer: weight decay forgotten",
        "training/assembly.py",
        "weight_decay=settings.weight_decay",
        "weight_decay=0.01",
        TRAINING,
    ),
    Mutant("evaluation: dropout left on", "rule.py", "    network.eval()\n", "", TRAINING),
    Mutant(
        "evaluation: mean of batches for the mean", "training/evaluation.py", "count += len(x)", "count += 1", TRAINING
    ),
    Mutant(
        "loop: gradients not cleared",
        "training/trainer.py",
        "self.optimizer.zero_grad(set_to_none=True)",
        "pass",
        TRAINING,
    ),
    Mutant(
        "loop: only the first phase",
        "training/trainer.py",
        "for phase in self.rule.phases:",
        "for phase in self.rule.phases[:1]:",
        TRAINING,
    ),
    Mutant(
        "resume: random numbers begin anew",
        "training/trainer.py",
        '        self.random.set(saved.state["random"])\n',
        "",
        TRAINING,
    ),
    Mutant(
        "average: weights swapped",
        "training/averaging.py",
        "get_ema_multi_avg_fn(decay)",
        "get_ema_multi_avg_fn(1 - decay)",
        AVERAGING,
    ),
    Mutant(
        "average: no warm-up",
        "training/averaging.py",
        "decay = min(self.decay, self.steps / (9 + self.steps))",
        "decay = self.decay",
        AVERAGING,
    ),
    Mutant(
        "average: statistics of the present weights",
        "training/averaging.py",
        "if isinstance(module, _NormBase)",
        "if False and isinstance(module, _NormBase)",
        AVERAGING,
    ),
    Mutant(
        "average: the training goes on from the average",
        "training/averaging.py",
        "            _write(own, self.rule)",
        "            pass",
        AVERAGING,
    ),
    Mutant(
        "average: resumed from the average",
        "training/averaging.py",
        '        _write(saved["own_weights"], self.rule)',
        "        pass",
        AVERAGING,
    ),
    Mutant(
        "average: count begins anew",
        "training/averaging.py",
        'self.steps, self._average = saved["steps"]',
        "self.steps, self._average = 0",
        AVERAGING,
    ),
    Mutant(
        "average: validation by the present weights",
        "training/trainer.py",
        "        with self._averaged():\n            figures",
        "        with nullcontext():\n            figures",
        AVERAGING,
    ),
    Mutant(
        "average: stored weights are the present ones",
        "training/trainer.py",
        "            with self._averaged():  # the stored",
        "            with nullcontext():  # the stored",
        AVERAGING,
    ),
    Mutant(
        "average: final figures by the present weights",
        "training/trainer.py",
        "            self.average.apply()",
        "            pass",
        AVERAGING,
    ),
    Mutant(
        "average: taken in every phase",
        "training/trainer.py",
        "            self.optimizer.step()\n",
        "            self.optimizer.step()\n            _ = self.average and self.average.update()\n",
        AVERAGING,
    ),
    Mutant(
        "average: recipes do without",
        "training/runs.py",
        "ema=settings.ema",
        "ema=0.0",
        AVERAGING,
    ),
    Mutant(
        "cutout: off its middle",
        "data/augmentation.py",
        " + side // 8",
        "",
        DATA,
    ),
    Mutant(
        "cutout: crops redrawn",
        "data/batches.py",
        "generator = self._generator(epoch, 1 + index)",
        "generator = self._generator(epoch, 1)",
        DATA,
    ),
    Mutant(
        "residual: no skip",
        "networks/residual.py",
        "torch.relu(h + self.change(h))",
        "torch.relu(self.change(h))",
        NOPROP_TESTS,
    ),
    Mutant(
        "residual: branch starts at random",
        "networks/residual.py",
        "        nn.init.zeros_(last.weight)\n",
        "",
        NOPROP_TESTS,
    ),
    Mutant(
        "recipes: always the paper's encoder",
        "recipes/noprop/blocks.py",
        'if settings.encoder == "residual":',
        "if False:",
        RECIPES,
    ),
    Mutant(
        "integrators: heun takes the first slope twice",
        f"{NOPROP}/integrators.py",
        "0.5 * step * (slope + velocity(z + step * slope, then))",
        "step * slope",
        TIMED,
    ),
    Mutant(
        "integrators: adams-bashforth extrapolates the wrong way",
        f"{NOPROP}/integrators.py",
        "slope + 0.5 * step / (now - former[1]) * (slope - former[0])",
        "slope - 0.5 * step / (now - former[1]) * (slope - former[0])",
        TIMED,
    ),
    Mutant(
        "integrators: diffusion with the noise of the step before",
        f"{NOPROP}/integrators.py",
        "c = noise[i + 1] * new / noise[i]",
        "c = new",
        TIMED,
    ),
    Mutant(
        "integrators: diffusion's a without the root",
        f"{NOPROP}/integrators.py",
        "a = keep[i + 1].sqrt() * new / noise[i]",
        "a = keep[i + 1] * new / noise[i]",
        TIMED,
    ),
    Mutant(
        "integrators: a whole step of log SNR in place of half",
        f"{NOPROP}/integrators.py",
        "growth = -torch.expm1(0.5 * (gamma",
        "growth = -torch.expm1((gamma",
        TIMED,
    ),
    Mutant(
        "integrators: multistep of order 1",
        f"{NOPROP}/integrators.py",
        "ahead = guess + 0.5 * ratio",
        "ahead = guess + 0.0 * ratio",
        TIMED,
    ),
    Mutant(
        "learned schedule: slope of the wrong sign",
        f"{NOPROP}/learned_schedule.py",
        "-span * steepness",
        "span * steepness",
        LEARNED,
    ),
    Mutant(
        "learned schedule: slope without the hidden slopes",
        f"{NOPROP}/learned_schedule.py",
        "(weights * slopes) / (end - start)",
        "weights / (end - start)",
        LEARNED,
    ),
    Mutant(
        "learned schedule: weights not kept positive",
        "rules/local/noprop/learned_schedule.py",
        "slopes, weights = F.softplus(self.slopes), F.softplus(self.weights)",
        "slopes, weights = F.softplus(self.slopes), self.weights",
        LEARNED,
    ),
    Mutant(
        "learned schedule: not normalised at the ends",
        f"{NOPROP}/learned_schedule.py",
        "risen = (active @ weights - start)",
        "risen = (active @ weights)",
        LEARNED,
    ),
    Mutant(
        "ct: SNR' without the exponential",
        f"{NOPROP}/continuous.py",
        "weight = -slope * torch.exp(-gamma)",
        "weight = -slope * torch.exp(gamma)",
        TIMED,
    ),
    Mutant(
        "ct: log-snr weighting with SNR'",
        f"{NOPROP}/continuous.py",
        'if self.weighting == "snr" else -slope',
        "if True else -slope",
        TIMED,
    ),
    Mutant(
        "ct: noisy label without the root",
        f"{NOPROP}/continuous.py",
        "torch.sigmoid(gamma).sqrt() * noise",
        "torch.sigmoid(gamma) * noise",
        TIMED,
    ),
    Mutant(
        "ct: KL of the clean end",
        f"{NOPROP}/continuous.py",
        "keep = torch.sigmoid(-noisy)\n",
        "keep = torch.sigmoid(-clean)\n",
        TIMED,
    ),
    Mutant(
        "ct: eta forgotten", f"{NOPROP}/continuous.py", "loss = 0.5 * self.eta * (weight", "loss = 0.5 * (weight", TIMED
    ),
    Mutant(
        "ct: flow with the wrong sign of z",
        f"{NOPROP}/continuous.py",
        "self.denoise(z, h, t) - keep * z)",
        "self.denoise(z, h, t) + keep * z)",
        TIMED,
    ),
    Mutant(
        "ct: the consistency's aim is the same point",
        f"{NOPROP}/continuous.py",
        "aim = self.denoise(self.noisy_label(u, self.schedule(later), noise), h, later)",
        "aim = self.denoise(self.noisy_label(u, gamma, noise), h, t)",
        TIMED,
    ),
    Mutant(
        "ct: the image is read for every draw",
        f"{NOPROP}/timed.py",
        "h = self.encode(x)\n        loss = self.batch_loss(h.repeat(self.draws, *[1] * (h.ndim - 1))",
        "h = self.encode(x.repeat(self.draws, *[1] * (x.ndim - 1)))\n        loss = self.batch_loss(h",
        TIMED,
    ),
    Mutant(
        "ct: one time for the whole batch",
        f"{NOPROP}/timed.py",
        "return (regular + torch.rand((), device=rows.device, dtype=rows.dtype)) % 1",
        "return 0 * regular + torch.rand((), device=rows.device, dtype=rows.dtype)",
        TIMED,
    ),
    Mutant(
        "fm: the way from label to noise",
        f"{NOPROP}/flow.py",
        "(velocity - (clean - noise))",
        "(velocity - (noise - clean))",
        TIMED,
    ),
    Mutant("fm: the noise around the line forgotten", f"{NOPROP}/flow.py", " + self.sigma * blur", "", TIMED),
    Mutant(
        "fm: no anchor for a learned embedding",
        f"{NOPROP}/flow.py",
        "loss = loss + F.cross_entropy(self.head(reached), y)",
        "pass",
        TIMED,
    ),
    Mutant("fm: anchored at z, not where it leads", f"{NOPROP}/flow.py", "self.head(reached)", "self.head(z)", TIMED),
    Mutant(
        "fm: largest product in place of the nearest row",
        f"{NOPROP}/embedding.py",
        "z @ rows.T - 0.5 * rows.square().sum(dim=1)",
        "z @ rows.T",
        TIMED,
    ),
    Mutant(
        "timed block: parts of a layer started as whole ones",
        f"{NOPROP}/blocks.py",
        "bound = 1 / math.sqrt(3 * self.in_features)",
        "bound = 1 / math.sqrt(self.in_features)",
        TIMED,
    ),
    Mutant(
        "streams: one for all blocks",
        f"{NOPROP}/streams.py",
        "(step_seed + block * _GOLDEN)",
        "(step_seed + 0 * block)",
    ),
    Mutant(
        "streams: every step draws the same", f"{NOPROP}/streams.py", "return int(torch.randint(2**32, ()))", "return 7"
    ),
    Mutant(
        "batched: one mask of dropout for all blocks",
        f"{NOPROP}/batched.py",
        'randomness="different"',
        'randomness="same"',
        BATCHED,
    ),
    Mutant(
        "batched: statistics of batch norm do not move",
        f"{NOPROP}/batched.py",
        "list(moved.unbind())",
        "[owner[name] for owner in owners]",
        BATCHED,
    ),
    Mutant(
        "batched: parameters of the blocks reversed",
        f"{NOPROP}/batched.py",
        "dict(block.named_parameters()) for block in blocks",
        "dict(block.named_parameters()) for block in reversed(blocks)",
        BATCHED,
    ),
    Mutant(
        "batched: loss averaged over blocks",
        f"{NOPROP}/discrete.py",
        "descend(losses.sum(), ",
        "descend(losses.mean(), ",
        BATCHED,
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
        "ct: the consistency's aim is not held fixed",
        f"{NOPROP}/continuous.py",
        "            with torch.no_grad():\n                later",
        "            with torch.enable_grad():\n                later",
        TIMED,
    ),
    Mutant(
        "ct: consistency a tenth of the whole way",
        f"{NOPROP}/continuous.py",
        "later = t + 0.1 * (1 - t)",
        "later = t + 0.1",
        TIMED,
    ),
    Mutant(
        "ct: ends of the schedule learn from what is no bound",
        f"{NOPROP}/continuous.py",
        'ends_learn=self.weighting == "snr"',
        "ends_learn=True",
        TIMED,
    ),
    Mutant(
        "fm: the consistency's aim is not held fixed",
        f"{NOPROP}/flow.py",
        "            with torch.no_grad():\n                later",
        "            with torch.enable_grad():\n                later",
        TIMED,
    ),
    Mutant(
        "embedding: head starts as the farthest row",
        f"{NOPROP}/embedding.py",
        "head.bias.copy_(-0.5",
        "head.bias.copy_(0.5",
    ),
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
        "signals: a layer passes nothing on",
        "rules/signals/chained.py",
        "return list(torch.autograd.grad(edges, call.inputs, values, retain_graph=True, allow_unused=True))",
        "return [None for _ in call.inputs]",
        LAYERS,
    ),
    Mutant(
        "signals: norms are cut off as layers are",
        "rules/signals/layers.py",
        "nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)",
        "nn.GroupNorm, nn.RMSNorm, nn.PReLU)",
        LAYERS,
    ),
    Mutant(
        "signals: one tensor given thrice is cut thrice",
        "rules/signals/layers.py",
        "if before is tensor:",
        "if False:",
        LAYERS,
    ),
    Mutant(
        "fa: transposed by the forward weight",
        "rules/signals/feedback_alignment.py",
        "        del weight\n        return self.feedback[name]\n",
        "        return weight\n",
        CHAINED,
    ),
    Mutant(
        "fa: wrong sign",
        "rules/signals/feedback_alignment.py",
        "return [transposed(call.layer, weight, signal, given.shape).to(given.dtype)]",
        "return [-transposed(call.layer, weight, signal, given.shape).to(given.dtype)]",
        CHAINED,
    ),
    Mutant(
        "fa: dilation forgotten in the adjoint",
        "rules/signals/feedback_alignment.py",
        "        layer.dilation,\n        False,",
        "        [1] * len(layer.dilation),\n        False,",
        CHAINED,
    ),
    Mutant(
        "sign-symmetry: signs of the first weights for good",
        "rules/signals/feedback_alignment.py",
        "return weight.sign().mul_(self.feedback[name])",
        "return self.feedback[name].expand_as(weight)",
        CHAINED,
    ),
    Mutant(
        "kolen-pollack: feedback against the gradient",
        "rules/signals/feedback_alignment.py",
        "add_gradient(self.feedback[name], weight.grad.clone())",
        "add_gradient(self.feedback[name], -weight.grad)",
        CHAINED,
    ),
    Mutant(
        "dfa: signals pass along skip connections",
        "rules/signals/direct.py",
        "        self._seen |= passed\n",
        "",
        DIRECT,
    ),
    Mutant(
        "dfa: an output inside another counts twice",
        "rules/signals/direct.py",
        "if len(outputs) > 1:",
        "if len(outputs) > 99:",
        DIRECT,
    ),
    Mutant(
        "dfa: the output's own activation is hidden",
        "rules/signals/direct.py",
        "        if own:\n",
        "        if False:\n",
        DIRECT,
    ),
    Mutant(
        "sdfa: summed over the batch",
        "rules/signals/direct_feedback.py",
        "return sign / error[..., 0].numel()",
        "return sign",
        DIRECT,
    ),
    Mutant(
        "dkp: feedback against the gradient",
        "rules/signals/direct_feedback.py",
        "(error.t() @ value",
        "(-error.t() @ value",
        DIRECT,
    ),
    Mutant(
        "drtp: summed over the batch",
        "rules/signals/target_projection.py",
        "return projection.div_(count)",
        "return projection",
        TARGET,
    ),
    Mutant(
        "tpsgd: away from the target",
        "rules/signals/target_projection.py",
        '"l2": lambda value, target: target.sub_(value)',
        '"l2": lambda value, target: value - target',
        TARGET,
    ),
    Mutant(
        "tpsgd: linear loss with the wrong sign",
        "rules/signals/target_projection.py",
        '"linear": lambda _value, target: target',
        '"linear": lambda _value, target: -target',
        TARGET,
    ),
    Mutant(
        "tpsgd: targets out of reach",
        "rules/signals/target_projection.py",
        "(nn.ReLU, nn.ReLU6, nn.Softplus): (0.0, 1.0)",
        "(nn.ReLU, nn.ReLU6, nn.Softplus): (-1.0, 1.0)",
        TARGET,
    ),
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
        "centred signs: mean over the batch",
        "rules/signals/direct_feedback.py",
        "sign.mean(dim=-1, keepdim=True)",
        "sign.mean(dim=0, keepdim=True)",
        CENTRED,
    ),
    Mutant(
        "bpc: errors of the mean, not of each sample",
        f"{SIGNALS}/consequential.py",
        "delta = terms * delta",
        "",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: patches are not dilated",
        f"{SIGNALS}/affine.py",
        "[..., ::dilation]",
        "[..., :size]",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: groups of a convolution in the wrong order",
        f"{SIGNALS}/affine.py",
        "x.unflatten(1, (layer.groups, -1)).transpose(0, 1)",
        "x.unflatten(1, (-1, layer.groups)).transpose(1, 2).transpose(0, 1)",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: the bias is left out of an input's length",
        f"{SIGNALS}/consequential.py",
        "rows.square().sum(dim=2, keepdim=True)",
        "rows[..., :-1].square().sum(dim=2, keepdim=True)",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: the normalised form adds up over the batch",
        f"{SIGNALS}/consequential.py",
        ".mT @ rows / rows.shape[1]",
        ".mT @ rows",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: linear algebra in bfloat16",
        f"{SIGNALS}/consequential.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type))",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: only the last evaluation of a layer counts",
        f"{SIGNALS}/consequential.py",
        "for i in places if",
        "for i in places[-1:] if",
        CONSEQUENTIAL,
    ),
    Mutant(
        "bpc: a layer used by its weight alone never learns",
        f"{SIGNALS}/consequential.py",
        "others = self._others(layers)",
        "others = self._others(self._layers.values())",
        CONSEQUENTIAL,
    ),
    Mutant(
        "proxprop: tau upside down",
        f"{SIGNALS}/proxprop.py",
        "Ridge(rows, 1 / self.tau)",
        "Ridge(rows, self.tau)",
        PROXPROP,
    ),
    Mutant(
        "proxprop: conjugate gradients without the proximal term",
        f"{SIGNALS}/affine.py",
        "(direction @ rows.mT) @ rows + regularisation * direction",
        "(direction @ rows.mT) @ rows",
        PROXPROP,
    ),
    Mutant(
        "proxprop: conjugate gradients are steepest descent",
        f"{SIGNALS}/affine.py",
        "direction = residual + _ratio(size, former) * direction",
        "direction = residual",
        PROXPROP,
    ),
    Mutant(
        "proxprop: one step for all outputs",
        f"{SIGNALS}/affine.py",
        "alpha = _ratio(size, (direction * image).sum(dim=-1, keepdim=True))",
        "alpha = _ratio(size.sum(), (direction * image).sum())",
        PROXPROP,
    ),
    Mutant(
        "semi-implicit: neurons follow the old weights",
        f"{SIGNALS}/semi_implicit.py",
        "weight, _ = _stepped(self.unit.layer, steps)",
        "weight = _weight(self.unit.layer).detach()",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: the step is taken again at every layer",
        f"{SIGNALS}/semi_implicit.py",
        "difference = evaluation.passed_down(signal, taken)",
        "difference = self.step * evaluation.passed_down(signal, taken)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: further solves forget the change so far",
        f"{SIGNALS}/semi_implicit.py",
        "output_rows(layer, signal) + ridge.rows @ change.mT",
        "output_rows(layer, signal)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: further solves lead up",
        f"{SIGNALS}/semi_implicit.py",
        "if value < best:",
        "if True:",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: another dropout mask in every solve",
        f"{SIGNALS}/semi_implicit.py",
        "torch.set_rng_state(self._states[0])",
        "pass",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: statistics move in every solve",
        f"{SIGNALS}/semi_implicit.py",
        "buffer.copy_(before)",
        "pass",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: norms step by lambda alone",
        f"{SIGNALS}/semi_implicit.py",
        "weight = self.regularisation + at.rows",
        "weight = self.regularisation",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: norms step by their rows alone",
        f"{SIGNALS}/semi_implicit.py",
        "weight = self.regularisation + at.rows",
        "weight = at.rows",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: the batch's length for a tagger",
        f"{SIGNALS}/semi_implicit.py",
        "count_terms(self.terms, self.loss, scores, y)",
        "len(x)",
        SEMI_IMPLICIT,
    ),
    Mutant(
        "semi-implicit: a loss's parameters never learn",
        f"{SIGNALS}/semi_implicit.py",
        "own = self.loss_parameters()",
        "own: list[nn.Parameter] = []",
        CONSEQUENTIAL,
    ),
    Mutant(
        "outputwise: a loss's parameters never learn",
        f"{SIGNALS}/consequential.py",
        "[p for p in self.parameters() if p.requires_grad and id(p) not in theirs]",
        "[p for p in self.network.parameters() if p.requires_grad and id(p) not in theirs]",
        CONSEQUENTIAL,
    ),
    Mutant(
        "outputwise: an input changed in place is taken as it is",
        f"{SIGNALS}/consequential.py",
        "        _refuse_changed(passes)\n",
        "",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: the batch's length for a tagger",
        "rules/network_rule.py",
        "if y.is_floating_point() or y.shape == scores.shape:",
        "if True:",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: labels of the scores' shape are counted one by one",
        "rules/network_rule.py",
        "if y.is_floating_point() or y.shape == scores.shape:",
        "if y.is_floating_point():",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: padding is counted",
        "rules/network_rule.py",
        "y.numel() if ignored is None else (y != ignored).sum()",
        "y.numel()",
        CONSEQUENTIAL,
    ),
    Mutant(
        "terms: a sum taken for a mean",
        "rules/network_rule.py",
        'getattr(loss, "reduction", "mean") == "sum"',
        "False",
        CONSEQUENTIAL,
    ),
    Mutant(
        "activations: the last evaluation of a layer in place of the first",
        "measure/activations.py",
        "if latest and latest not in found:",
        "if latest:",
        ACTIVATIONS,
    ),
    Mutant(
        "feedback: half the variance",
        f"{SIGNALS}/feedback.py",
        "math.sqrt(6 /",
        "math.sqrt(3 /",
        FEEDBACK,
    ),
    Mutant(
        "feedback: fan_in over all dimensions",
        f"{SIGNALS}/feedback.py",
        "math.prod(shape[1:])",
        "math.prod(shape)",
        FEEDBACK,
    ),
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
        "blockwise: gradients cross blocks",
        f"{LOCAL}/blockwise.py",
        "            x = x.detach()\n",
        "            pass\n",
        BLOCKWISE,
    ),
    Mutant(
        "blockwise: finished blocks stay in training mode",
        f"{LOCAL}/blockwise.py",
        "    block.eval()\n",
        "    pass\n",
        BLOCKWISE,
    ),
    Mutant(
        "blockwise: every block learns at every stage",
        f"{LOCAL}/blockwise.py",
        "trained = only is None or only == index",
        "trained = True",
        BLOCKWISE,
    ),
    Mutant(
        "blockwise: a batch norm begins a block",
        f"{LOCAL}/blockwise.py",
        "FOLLOWERS = (_NormBase, ",
        "FOLLOWERS = (",
        BLOCKWISE,
    ),
    Mutant(
        "blockwise: flatten stays with the block before",
        f"{LOCAL}/blockwise.py",
        "starts.append(position - flattened)",
        "starts.append(position)",
        BLOCKWISE,
    ),
    Mutant(
        "local losses: the output layer learns nothing",
        f"{LOCAL}/local_losses.py",
        "return self.loss(h, y)",
        "return 0 * self.loss(h, y)",
        BLOCKWISE,
    ),
    Mutant(
        "mono-forward: a head of its own for the last hidden layer",
        f"{LOCAL}/mono_forward.py",
        "return starts[:-1] if len(starts) > 1 else starts",
        "return starts",
        LOCAL_LOSSES,
    ),
    Mutant(
        "predsim: beta and its rest swapped",
        f"{LOCAL}/predsim.py",
        "loss = loss + (1 - self.beta) *",
        "loss = loss + self.beta *",
        LOCAL_LOSSES,
    ),
    Mutant(
        "predsim: similarity not centred",
        f"{LOCAL}/predsim.py",
        "centred = h - h.mean(dim=1, keepdim=True)",
        "centred = h",
        LOCAL_LOSSES,
    ),
    Mutant(
        "predsim: centred over the batch",
        f"{LOCAL}/predsim.py",
        "h - h.mean(dim=1, keepdim=True)",
        "h - h.mean(dim=0, keepdim=True)",
        LOCAL_LOSSES,
    ),
    Mutant(
        "cwcomp: sums instead of means",
        f"{LOCAL}/class_channels.py",
        "row[group] = 1 / len(group)",
        "row[group] = 1",
        LOCAL_LOSSES,
    ),
    Mutant(
        "cwcomp: squares forgotten",
        f"{LOCAL}/class_channels.py",
        'h.square() if self.goodness == "square" else h',
        "h",
        LOCAL_LOSSES,
    ),
    Mutant(
        "ff: sign of the positive pass",
        f"{LOCAL}/forward_forward.py",
        "pull, push = (threshold - positive)",
        "pull, push = (positive - threshold)",
        FF,
    ),
    Mutant(
        "ff: no threshold on the negative pass",
        f"{LOCAL}/forward_forward.py",
        "(negative - threshold).clamp",
        "negative.clamp",
        FF,
    ),
    Mutant(
        "ff: the true class drawn as a wrong one",
        f"{LOCAL}/forward_forward.py",
        "torch.randint_like(y, 1, self.classes)",
        "torch.randint_like(y, 0, self.classes)",
        FF,
    ),
    Mutant(
        "ff: hard negatives without the root",
        f"{LOCAL}/forward_forward.py",
        "likely = goodness.sqrt() + 1e-12",
        "likely = goodness + 1e-12",
        FF,
    ),
    Mutant(
        "ff: threshold not scaled with the width",
        f"{LOCAL}/forward_forward.py",
        '(self.shapes[k].numel() if self.goodness == "sum" else 1)',
        "1",
        FF,
    ),
    Mutant(
        "ff: peer average never moves",
        f"{LOCAL}/forward_forward.py",
        "        average.copy_(present.detach())\n",
        "        pass\n",
        FF,
    ),
    Mutant(
        "symba: scale forgotten",
        f"{LOCAL}/symba.py",
        "wrong = self.alpha * (negative - positive)",
        "wrong = negative - positive",
        FF,
    ),
    Mutant(
        "symba: sign",
        f"{LOCAL}/symba.py",
        "self.alpha * (negative - positive)",
        "self.alpha * (positive - negative)",
        FF,
    ),
    Mutant(
        "overlay: old pixels stay",
        f"{LOCAL}/label_input.py",
        "marked = self._replaced(x, 0.0)",
        "marked = x.clone()",
        FF,
    ),
    Mutant(
        "patterns: neutral is the first class",
        f"{LOCAL}/label_input.py",
        "self.patterns.mean(dim=0)",
        "self.patterns[0]",
        FF,
    ),
    Mutant(
        "predictor: not a mean",
        f"{LOCAL}/linear_predictor.py",
        "            error /= len(y)\n",
        "            pass\n",
        CAFO,
    ),
    Mutant(
        "contract: sets the gradient",
        "rule.py",
        "gradient if parameter.grad is None else parameter.grad + gradient",
        "gradient",
        CAFO,
    ),
    Mutant(
        "predictor: target not taken off",
        f"{LOCAL}/linear_predictor.py",
        "error[torch.arange(len(y), device=y.device), y] -= 1",
        "error += 0",
        CAFO,
    ),
    Mutant(
        "sparsemax: support one too small",
        f"{LOCAL}/linear_predictor.py",
        "(counts * descending > excess).sum(dim=1, keepdim=True)",
        "(counts * descending > excess).sum(dim=1, keepdim=True).sub(1).clamp(min=1)",
        CAFO,
    ),
    Mutant(
        "sparsemax loss: constant forgotten",
        f"{LOCAL}/linear_predictor.py",
        "(0.5 * inside.sum(dim=1) + 0.5 -",
        "(0.5 * inside.sum(dim=1) -",
        CAFO,
    ),
    Mutant(
        "cafo: the last block's opinion alone",
        f"{LOCAL}/cascaded_forward.py",
        "return torch.stack(said).mean(dim=0)",
        "return said[-1]",
        CAFO,
    ),
    Mutant(
        "cafo: random blocks can be trained",
        f"{LOCAL}/cascaded_forward.py",
        "        self.network.requires_grad_(False)\n",
        "        pass\n",
        CAFO,
    ),
    Mutant(
        "cafo-dfa: not a mean",
        f"{LOCAL}/cascaded_feedback.py",
        "- F.one_hot(y, self.classes)) / len(y)",
        "- F.one_hot(y, self.classes))",
        BLOCKWISE,
    ),
    Mutant(
        "cafo-dfa: sign of the error",
        f"{LOCAL}/cascaded_feedback.py",
        "(error.to(feedback.dtype) @ feedback)",
        "(-error.to(feedback.dtype) @ feedback)",
        BLOCKWISE,
    ),
    Mutant(
        "cafo-dfa: feedback rows of any length",
        f"{LOCAL}/cascaded_feedback.py",
        "F.normalize(rows, dim=1)",
        "rows",
        CAFO,
    ),
    Mutant(
        "local fields: inputs in another order",
        "layers/locally_connected.py",
        "dense[:, self.rows, self.columns]",
        "dense[:, self.rows, self.columns.flip(0)]",
        FIELDS,
    ),
    Mutant(
        "schedule: goes on over stages",
        "training/runs.py",
        'stages if rule.stage_span == "training" else 1',
        "1",
        BLOCK_RECIPES,
    ),
    Mutant(
        "mgd: not divided by the norm",
        f"{PERTURBATION}/multiplexed.py",
        "changes, perturbations) / self.norm**2",
        "changes, perturbations) / self.norm",
        MGD,
    ),
    Mutant(
        "mgd: sign",
        f"{PERTURBATION}/multiplexed.py",
        "changes = self._noisy(costs[1:]) - costs[0]",
        "changes = costs[0] - self._noisy(costs[1:])",
        MGD,
    ),
    Mutant(
        "mgd: not scaled by the parameters' number",
        f"{PERTURBATION}/multiplexed.py",
        "(self.size / int(self.steps))",
        "(1 / int(self.steps))",
        MGD,
    ),
    Mutant(
        "mgd: what was heard is never forgotten",
        f"{PERTURBATION}/multiplexed.py",
        "                self.accumulated.zero_()\n",
        "",
        MGD,
    ),
    Mutant(
        "mgd: another dropout mask for every part",
        f"{PERTURBATION}/perturbed.py",
        "            torch.set_rng_state(state)  # one",
        "            pass  # one",
        MGD,
    ),
    Mutant(
        "mgd: statistics do not move",
        f"{PERTURBATION}/perturbed.py",
        "            buffer.copy_(first[name])\n",
        "            pass\n",
        MGD,
    ),
    Mutant(
        "mgd: frozen parameters are perturbed",
        f"{PERTURBATION}/perturbed.py",
        "for name, p in network.named_parameters() if p.requires_grad]",
        "for name, p in network.named_parameters()]",
        MGD,
    ),
    Mutant(
        "codes: random signs too large",
        f"{PERTURBATION}/codes.py",
        "(self.norm / math.sqrt(self.size))",
        "self.norm",
        CODES,
    ),
    Mutant(
        "codes: sinusoids of half the power",
        f"{PERTURBATION}/codes.py",
        "self.norm * math.sqrt(2 / self.size) *",
        "self.norm * math.sqrt(1 / self.size) *",
        CODES,
    ),
    Mutant(
        "codes: walsh without turning round", f"{PERTURBATION}/codes.py", "+ passes[:, None]) % 2)", ") % 2)", CODES
    ),
    Mutant(
        "codes: a slot ends with the call",
        f"{PERTURBATION}/codes.py",
        "goes_on = int(start % self.tau_p != 0)",
        "goes_on = 0",
        CODES,
    ),
    Mutant(
        "codes: parity of the low bits alone",
        f"{PERTURBATION}/codes.py",
        "for shift in (32, 16, 8, 4, 2, 1):",
        "for shift in (1,):",
        CODES,
    ),
    Mutant(
        "forward gradient: projection not scaled",
        f"{PERTURBATION}/forward_gradient.py",
        "share = torch.linalg.qr(drawn.T).Q.T, sum(sizes) / self.directions",
        "share = torch.linalg.qr(drawn.T).Q.T, 1 / self.directions",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: directions summed",
        f"{PERTURBATION}/forward_gradient.py",
        "share = 1 / self.directions",
        "share = 1.0",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: activities' directions summed",
        f"{PERTURBATION}/forward_gradient.py",
        "add_gradient(parameter, gradient / self.directions)",
        "add_gradient(parameter, gradient)",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: not a mean over the batch",
        f"{PERTURBATION}/forward_gradient.py",
        "change / (len(x) if losses.ndim else 1)",
        "change",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: tangents of earlier layers lost",
        f"{PERTURBATION}/forward_gradient.py",
        "noise if tangent is None else tangent + noise",
        "noise",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: one signal for all samples",
        f"{PERTURBATION}/forward_gradient.py",
        "if change.ndim and len(call.noise) == batch:",
        "if False:",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: norms are not taught",
        f"{PERTURBATION}/forward_gradient.py",
        "layers |= modules_between(self.network, layers.values(), NORMS)",
        "pass",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "forward gradient: another mask for each direction",
        f"{PERTURBATION}/forward_gradient.py",
        "            torch.set_rng_state(state)  # one dropout",
        "            pass  # one dropout",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "ff: the readout moves statistics",
        "rules/local/forward_forward.py",
        "            with finished(self):\n                outputs",
        "            with torch.no_grad():\n                outputs",
        FF,
    ),
    Mutant(
        "ff: hard negatives may be the true class",
        "rules/local/forward_forward.py",
        "likely.scatter(1, y[:, None], 0.0)",
        "likely",
        FF,
    ),
    Mutant(
        "symba: the first block does not count", "rules/local/symba.py", '"skip_first": False', '"skip_first": True', FF
    ),
    Mutant(
        "cwcomp: goodness under autocast",
        "rules/local/class_channels.py",
        "enabled=False",
        "enabled=True",
        LOCAL_LOSSES,
    ),
    Mutant(
        "predictor: autocast keeps the weight",
        "rules/local/linear_predictor.py",
        "torch.autocast(device, enabled=False)",
        "torch.autocast(device, enabled=True)",
        CAFO,
    ),
    Mutant(
        "contract: casts of before a step",
        "rule.py",
        "        torch.clear_autocast_cache()  # of weights before",
        "        pass  # of weights before",
        BATTERY,
    ),
    Mutant(
        "cafo: predictions by the batch's statistics",
        "rules/local/cascaded_forward.py",
        "        with finished(self.network):\n            said",
        "        with torch.no_grad():\n            said",
        CAFO,
    ),
    Mutant(
        "blockwise: replaced layers are forgotten",
        "rules/local/blockwise.py",
        "children_of(self.network) != [child for block in self._blocks for child in block]",
        "not self._blocks",
        BLOCKWISE,
    ),
    Mutant(
        "local fields: bound without channels",
        "layers/locally_connected.py",
        "bound = 1 / math.sqrt(self.image[0] * self.field**2)",
        "bound = 1 / math.sqrt(self.field**2)",
        FIELDS,
    ),
    Mutant(
        "solving: every pass reads the first epoch",
        "training/solving.py",
        "self.source.open(number)",
        "self.source.open(0)",
        SOLVING,
    ),
    Mutant(
        "mgd: random codes of copies too small",
        "rules/perturbation/perturbed.py",
        "norm=norm * self._own**0.5",
        "norm=norm",
        MGD,
    ),
    Mutant(
        "analog: the change of input is heard",
        f"{PERTURBATION}/analog.py",
        "if phase == self.phases[0]:",
        "if False:",
        ANALOG,
    ),
    Mutant(
        "analog: high-pass without its gain",
        f"{PERTURBATION}/analog.py",
        ".mul_(self.tau_hp / (self.tau_hp + 1))",
        ".mul_(1.0)",
        ANALOG,
    ),
    Mutant(
        "analog: low-pass forgets at once",
        f"{PERTURBATION}/analog.py",
        "self.gradient.mul_(self.tau_theta)",
        "self.gradient.mul_(0.0)",
        ANALOG,
    ),
    Mutant(
        "analog: the last cost is not kept",
        f"{PERTURBATION}/analog.py",
        "            self.last.copy_(cost)\n            heard",
        "            heard",
        ANALOG,
    ),
    Mutant(
        "analog: not divided by the norm twice",
        f"{PERTURBATION}/analog.py",
        "(self.size / self.norm**2)",
        "(self.size / self.norm)",
        ANALOG,
    ),
    Mutant(
        "layerwise: sign",
        f"{PERTURBATION}/layerwise.py",
        "return signs, changed - run.losses",
        "return signs, run.losses - changed",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: behind the layer itself",
        f"{PERTURBATION}/layerwise.py",
        "run.layers[place + 1 :]",
        "run.layers[place:]",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: the length without the steps",
        f"{PERTURBATION}/layerwise.py",
        "1 / size + 1 / self.steps - 1 / (size * self.steps)",
        "1 / size",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: not averaged over samples",
        f"{PERTURBATION}/layerwise.py",
        "(self._scale(size) / len(value))",
        "self._scale(size)",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: unbiased only up to the layer",
        f"{PERTURBATION}/layerwise.py",
        "return math.sqrt(size) / (self.norm * self.steps)",
        "return 1 / (self.norm * self.steps)",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: all samples hear the mean",
        f"{PERTURBATION}/layerwise.py",
        "return signs, changed - run.losses",
        "return signs, (changed - run.losses).mean(dim=1, keepdim=True).expand_as(changed)",
        LAYERWISE,
    ),
    Mutant(
        "layerwise: in place over the nodes",
        f"{PERTURBATION}/layerwise.py",
        'values[-1].clone() if getattr(layer, "inplace", False) else values[-1]',
        "values[-1]",
        LAYERWISE,
    ),
    Mutant(
        "noise on updates: one draw for all",
        f"{PERTURBATION}/update_noise.py",
        "torch.randn_like(parameter)",
        "torch.randn(())",
        ("tests/rules/perturbation/test_update_noise.py",),
    ),
    Mutant(
        "noise on updates: what has not moved",
        f"{PERTURBATION}/update_noise.py",
        "if parameter.grad is not None:",
        "if True:",
        ("tests/rules/perturbation/test_update_noise.py",),
    ),
    Mutant(
        "defects: all units alike",
        "layers/defective_sigmoid.py",
        "torch.randn(units)",
        "torch.randn(1).expand(units)",
        ("tests/layers/test_defective_sigmoid.py",),
    ),
    Mutant(
        "seeds: every process evaluates the first rows",
        f"{PERTURBATION}/division.py",
        "torch.arange(self.rank, count, self.ranks)",
        "torch.arange(0, count, self.ranks)[: len(range(self.rank, count, self.ranks))]",
        SEEDS,
    ),
    Mutant(
        "seeds: statistics go by other rows",
        f"{PERTURBATION}/perturbed.py",
        "torch.zeros(extra, dtype=torch.long)",
        "torch.full((extra,), len(perturbations) - 1)",
        SEEDS,
    ),
    Mutant(
        "seeds: a process believes itself alone",
        f"{PERTURBATION}/division.py",
        "        self.exchange(whole)  # every",
        "        pass  # every",
        SEEDS,
    ),
    Mutant(
        "mgd: copies listen to the mean",
        "rules/perturbation/multiplexed.py",
        'torch.einsum("kc,kcp->cp", changes,',
        'torch.einsum("kc,kcp->cp", changes.mean(dim=1, keepdim=True).expand_as(changes),',
        MGD,
    ),
    Mutant(
        "population: all copies are the first",
        "networks/population.py",
        "networks = [make() for _ in range(count)]",
        "networks = [make()] * count",
        POPULATION,
    ),
)


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the mutant's tests pass on a source tree with the defect in it."""
    package = folder / "beyondprop"
    shutil.copytree(ROOT / "src" / "beyondprop", package, ignore=shutil.ignore_patterns("__pycache__"))
    target = package / mutant.file
    source = target.read_text()
    if mutant.old not in source:
        raise SystemExit(f"{mutant.name}: {mutant.old!r} is not in {mutant.file} any more; mend the mutant")
    target.write_text(source.replace(mutant.old, mutant.new, 1))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-o", f"pythonpath={folder}"]
    command = [sys.executable, "-m", "pytest", *options, *mutant.tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: tests failed; anything else: they did not run
        raise SystemExit(f"{mutant.name}: the tests could not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(word: str = "") -> int:
    """Try every mutant whose name holds a word; return the exit status."""
    chosen = [mutant for mutant in MUTANTS if word in mutant.name]
    survivors = []
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            alive = survives(mutant, Path(folder))
        print(f"{'SURVIVED' if alive else 'caught  '}  {mutant.name}", flush=True)
        survivors += [mutant.name] * alive
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} planted defects caught")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(__doc__ if "--help" in sys.argv else main(*sys.argv[1:]))
