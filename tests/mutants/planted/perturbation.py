"""Planted defects of what rules that evaluate and never differentiate share: codes, processes, precision, reach."""

from mutant import Mutant, tests_named

PERTURBATION = "rules/perturbation"
SEEDS = ("tests/parallel/test_parallel_processes.py",)
FORWARD_GRADIENT = tests_named("test_forward_gradient_*")
CODES = ("tests/rules/perturbation/test_codes.py",)
GENERATORS = ("tests/test_generators.py",)
DIVISION = ("tests/rules/perturbation/test_division.py",)
NODES = tests_named("test_node_perturbation_*")
UPDATE_NOISE = ("tests/rules/perturbation/test_update_noise.py",)
PRECISION = ("tests/rules/perturbation/test_precision_perturbed.py",)

MUTANTS = (
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
        "codes: walsh without turning round",
        f"{PERTURBATION}/codes.py",
        "odd ^ (passes[:, None].to(small) & 1)",
        "odd",
        CODES,
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
        "codes: parity without the highest bits",
        f"{PERTURBATION}/codes.py",
        "if shift < bits:",
        "if shift < bits - 1:",
        CODES,
    ),
    Mutant(
        "codes: sinusoids without phases",
        f"{PERTURBATION}/codes.py",
        ".to(self.phases.dtype) + self.phases",
        ".to(self.phases.dtype)",
        CODES,
    ),
    Mutant(
        "code: sinusoids lose their phase",
        f"{PERTURBATION}/codes.py",
        "(self.places.double() * slots[:, None]) % 1",
        "self.places * slots[:, None]",
        CODES,
    ),
    Mutant(
        "noise on updates: one draw for all",
        f"{PERTURBATION}/update_noise.py",
        "torch.randn_like(parameter)",
        "torch.randn(())",
        UPDATE_NOISE,
    ),
    Mutant(
        "noise on updates: what has not moved",
        f"{PERTURBATION}/update_noise.py",
        "if parameter.grad is not None:",
        "if True:",
        UPDATE_NOISE,
    ),
    Mutant(
        "seeds: every process evaluates the first rows",
        f"{PERTURBATION}/division.py",
        "torch.arange(min(self.rank, count), count, self.ranks)",
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
        "seeds: more processes than evaluations",
        f"{PERTURBATION}/division.py",
        "torch.arange(min(self.rank, count), count",
        "torch.arange(self.rank, count",
        DIVISION,
    ),
    Mutant(
        "seeds: convolutions of no evaluation",
        f"{PERTURBATION}/layerwise.py",
        " if len(own) else ()",
        "",
        DIVISION,
    ),
    Mutant(
        "multiplexed: perturbations are rounded by autocast",
        f"{PERTURBATION}/multiplexed.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.no_grad()",
        PRECISION,
    ),
    Mutant(
        "analog: perturbations are rounded by autocast",
        f"{PERTURBATION}/analog.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.no_grad()",
        PRECISION,
    ),
    Mutant(
        "layerwise: perturbations are rounded by autocast",
        f"{PERTURBATION}/layerwise.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.no_grad()",
        PRECISION,
    ),
    Mutant(
        "node perturbation: perturbations are rounded by autocast",
        f"{PERTURBATION}/node_perturbation.py",
        "torch.autocast(x.device.type, enabled=False)",
        "torch.no_grad()",
        PRECISION,
    ),
    Mutant(
        "perturbed networks: narrow parameters are moved by nothing",
        f"{PERTURBATION}/perturbed.py",
        "        refuse_narrow(parameters)\n",
        "",
        PRECISION,
    ),
    Mutant(
        "layerwise: narrow parameters are moved by nothing",
        f"{PERTURBATION}/layerwise.py",
        "        refuse_narrow(dict(self.network.named_parameters()))\n",
        "",
        PRECISION,
    ),
    Mutant(
        "reach: a parameter that nothing teaches is taken",
        f"{PERTURBATION}/reach.py",
        "if id(parameter) not in taught:",
        "if False:",
        (*FORWARD_GRADIENT, *NODES),
    ),
    Mutant(
        "reach: activities take any parameter",
        f"{PERTURBATION}/forward_gradient.py",
        "check_reached(trained, watched_layers(network), 'perturb=\"weights\"')",
        "pass",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "reach: batch norm mixes nobody in forward gradients",
        f"{PERTURBATION}/forward_gradient.py",
        "losses.mean() if mixes_samples(self.network) else losses",
        "losses",
        FORWARD_GRADIENT,
    ),
    Mutant(
        "reach: batch norm mixes nobody in perturbed nodes",
        f"{PERTURBATION}/node_perturbation.py",
        "if change.ndim == 1 or not mixes_samples(self.network):",
        "if True:",
        NODES,
    ),
    Mutant(
        "reach: mixed examples' losses are added",
        f"{PERTURBATION}/node_perturbation.py",
        "change.mean(dim=1) if change.ndim == 2",
        "change.sum(dim=1) if change.ndim == 2",
        NODES,
    ),
    Mutant(
        "reach: mixed sequences' losses are averaged",
        f"{PERTURBATION}/node_perturbation.py",
        "change.sum(dim=1, keepdim=True).expand_as",
        "change.mean(dim=1, keepdim=True).expand_as",
        NODES,
    ),
    Mutant(
        "generators: forward gradients of weights forget CUDA's",
        f"{PERTURBATION}/forward_gradient.py",
        "state, moved, loss = GeneratorState(cuda_devices(self.network))",
        "state, moved, loss = GeneratorState([])",
        GENERATORS,
    ),
    Mutant(
        "generators: forward gradients of activities forget CUDA's",
        f"{PERTURBATION}/forward_gradient.py",
        "state, loss = GeneratorState(cuda_devices(self.network))",
        "state, loss = GeneratorState([])",
        GENERATORS,
    ),
    Mutant(
        "generators: a layer is taught with another mask on CUDA",
        f"{PERTURBATION}/forward_gradient.py",
        "devices = cuda_devices(network)",
        "devices = []",
        GENERATORS,
    ),
    Mutant(
        "generators: perturbed networks forget CUDA's",
        f"{PERTURBATION}/perturbed.py",
        "state = GeneratorState(cuda_devices(self.network))",
        "state = GeneratorState([])",
        GENERATORS,
    ),
    Mutant(
        "generators: CUDA's are not put back",
        "generators.py",
        "torch.cuda.set_rng_state(state, device)",
        "pass",
        GENERATORS,
    ),
    Mutant(
        "generators: buffers' devices forgotten",
        "generators.py",
        "chain(module.parameters(), module.buffers())",
        "module.parameters()",
        GENERATORS,
    ),
)
