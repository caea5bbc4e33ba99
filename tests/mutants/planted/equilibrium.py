"""Defects of equilibrium propagation and of the networks that settle."""

from mutant import Mutant

RELAXATION = "rules/relaxation"
CONVERGENT = "tests/rules/relaxation/test_convergent.py"
EQUILIBRIUM = "tests/rules/relaxation/test_equilibrium.py"
STEPS = (f"{CONVERGENT}::test_a_step_is_the_gradient_of_phi_to_rounding",)
GRADIENTS = (f"{CONVERGENT}::test_gradients_are_those_of_phi_to_rounding",)
OWN = (f"{CONVERGENT}::test_asymmetric_steps_and_gradients_are_those_of_each_states_own_phi",)
BIAS = (f"{EQUILIBRIUM}::test_the_order_of_the_bias",)
USERS = (f"{EQUILIBRIUM}::test_a_users_network_with_a_primitive_function_needs_nothing_else",)
TWO_WAYS = (f"{CONVERGENT}::test_k_even_odd_steps_are_2k_synchronous_ones",)
NORM = (f"{CONVERGENT}::test_batch_norm_takes_the_settled_batch_and_is_held_in_other_phases",)

MUTANTS = (
    Mutant(
        "equilibrium: sign of the estimate",
        f"{RELAXATION}/convergent.py",
        "(parameter, -gradient)\n            for number",
        "(parameter, gradient)\n            for number",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: not divided by the batch",
        f"{RELAXATION}/convergent.py",
        "return averaged(found, len(inputs.x) * (contrast",
        "return averaged(found, 1 * (contrast",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: divided by beta in place of 2 beta",
        f"{RELAXATION}/convergent.py",
        "return averaged(found, len(inputs.x) * (contrast.beta_high - contrast.beta_low))",
        "return averaged(found, len(inputs.x) * contrast.beta_high)",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: readout never learns",
        f"{RELAXATION}/convergent.py",
        "if self.readout is None:\n            return []",
        "if True:\n            return []",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: readout learns from one nudge alone",
        f"{RELAXATION}/convergent.py",
        "ends = [(state, weight) for state, weight in ends if weight]",
        "ends = ends[:1]",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: both phases are nudged alike",
        f"{RELAXATION}/equilibrium.py",
        "sign * beta) for sign in (1, -1)",
        "sign * beta) for sign in (1, 1)",
        BIAS,
    ),
    Mutant(
        "equilibrium: three phases are two",
        f"{RELAXATION}/equilibrium.py",
        "return Contrast(free, high, low, beta, -beta)",
        "return Contrast(free, high, free, beta, 0.0)",
        BIAS,
    ),
    Mutant(
        "equilibrium: nudged away from the targets",
        f"{RELAXATION}/convergent.py",
        "drive = drive - self._nudged(",
        "drive = drive + self._nudged(",
        STEPS,
    ),
    Mutant(
        "equilibrium: the nudge forgets beta",
        f"{RELAXATION}/convergent.py",
        "slope = slope * one_for_each(nudge.beta, slope)",
        "slope = slope * one_for_each(nudge.beta.sign(), slope)",
        STEPS,
    ),
    Mutant(
        "equilibrium: nothing comes down from the state above",
        f"{RELAXATION}/convergent.py",
        "if number + 1 < count and number + 1 in moved:",
        "if False:",
        STEPS,
    ),
    Mutant(
        "equilibrium: a stale product is used",
        f"{RELAXATION}/convergent.py",
        "                        pushed[number + 1] = None",
        "                        pass",
        TWO_WAYS,
    ),
    Mutant(
        "equilibrium: switches of max-pooling are those of another input",
        f"{RELAXATION}/connections.py",
        "pool.ceil_mode, where)",
        "pool.ceil_mode, where.flip(0))",
        STEPS,
    ),
    Mutant(
        "equilibrium: strided convolutions are transposed to another size",
        f"{RELAXATION}/connections.py",
        "signal, conv.weight, None, conv.stride, conv.padding, padded,",
        "signal, conv.weight.flip(2), None, conv.stride, conv.padding, padded,",
        STEPS,
    ),
    Mutant(
        "equilibrium: biases of convolutions never learn",
        f"{RELAXATION}/connections.py",
        "(conv.bias, signal.sum((0, 2, 3)))",
        "(conv.bias, 0 * signal.sum((0, 2, 3)))",
        GRADIENTS,
    ),
    Mutant(
        "equilibrium: slope of the cross-entropy",
        f"{RELAXATION}/costs.py",
        "return share - F.one_hot",
        "return share + F.one_hot",
        STEPS,
    ),
    Mutant(
        "equilibrium: squared error without its half",
        f"{RELAXATION}/costs.py",
        "return scores - y",
        "return 2 * (scores - y)",
        STEPS,
    ),
    Mutant(
        "equilibrium: feedback goes by the weights",
        f"{RELAXATION}/convergent.py",
        "back = self.returns[number - 1]\n",
        "back = self.sections[number].connection\n",
        OWN,
    ),
    Mutant(
        "equilibrium: feedback never learns",
        f"{RELAXATION}/convergent.py",
        "replaced(mine, common) + replaced(theirs, common)",
        "replaced(mine, common)",
        OWN,
    ),
    Mutant(
        "equilibrium: the same update is not the same",
        f"{RELAXATION}/convergent.py",
        "common = [(a + b) / 2 for",
        "common = [(a + b) for",
        OWN,
    ),
    Mutant(
        "equilibrium: the different update hears nudged presynaptic states",
        f"{RELAXATION}/convergent.py",
        "forward.gradients(free[number - 1], moved",
        "forward.gradients(high[number - 1], moved",
        OWN,
    ),
    Mutant(
        "equilibrium: sign of the general estimate",
        f"{RELAXATION}/settling.py",
        "estimate = (low - high) /",
        "estimate = (high - low) /",
        USERS,
    ),
    Mutant(
        "equilibrium: the general step forgets the nudge",
        f"{RELAXATION}/settling.py",
        "total = total - (nudge.beta *",
        "total = total - 0 * (nudge.beta *",
        USERS,
    ),
    Mutant(
        "equilibrium: random signs are all the same",
        f"{RELAXATION}/equilibrium.py",
        "torch.rand(()) < 0.5",
        "torch.rand(()) < 2",
        (f"{EQUILIBRIUM}::test_one_sided_and_random_sign_are_what_they_say",),
    ),
    Mutant(
        "equilibrium: a graph over the steps",
        f"{RELAXATION}/equilibrium.py",
        "with torch.no_grad():\n            inputs = network.prepare(x)",
        "with torch.enable_grad():\n            inputs = network.prepare(x)",
        (f"{EQUILIBRIUM}::test_memory_does_not_grow_with_the_number_of_steps",),
    ),
    Mutant(
        "equilibrium: back-propagation through fewer steps",
        f"{RELAXATION}/through_settling.py",
        "states = network.relax(inputs, states, traced)",
        "states = network.relax(inputs, states, max(1, traced - 1))",
        (f"{EQUILIBRIUM}::test_k_nudged_steps_are_k_steps_of_back_propagation_through_time",),
    ),
    Mutant(
        "equilibrium: nudged phases draw new masks",
        f"{RELAXATION}/connections.py",
        "held.masks = {stage: torch.cat([mask] * copies)",
        "held.masks = {stage: torch.cat([mask, mask.flip(0)])",
        (f"{CONVERGENT}::test_dropout_keeps_its_mask_in_all_phases",),
    ),
    Mutant(
        "equilibrium: running variance is the batch's own",
        f"{RELAXATION}/connections.py",
        "(variance * count / max(1, count - 1))",
        "(variance)",
        NORM,
    ),
    Mutant(
        "equilibrium: batch norm keeps what it saw first",
        f"{RELAXATION}/connections.py",
        "or (held.measuring and norm.training)",
        "",
        NORM,
    ),
    Mutant(
        "equilibrium: the tolerance is not heard",
        f"{RELAXATION}/settling.py",
        "if tolerance is not None and max(found) <= tolerance:",
        "if tolerance is not None and max(found) < 0:",
        (f"{CONVERGENT}::test_residuals_are_root_mean_squares_and_a_tolerance_ends_the_phase",),
    ),
)
