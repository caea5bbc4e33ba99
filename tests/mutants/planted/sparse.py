"""Planted defects of sparse layers, their kernels and their masks."""

from mutant import Mutant, tests_named

SPARSE = "layers/sparse"
NATIVE = f"{SPARSE}/native"
LAYERS = tests_named("test_layers_sparse*")
PRUNING = ("tests/layers/test_layers_sparse_pruning.py",)
LOOP = tests_named("test_training_loop*")
RULE = ("tests/rules/signals/test_sparseprop.py",)


MODULES = f"{SPARSE}/modules.py"


def kernel(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(f"sparse kernels: {name}", f"{NATIVE}/{file}", old, new, LAYERS)


MUTANTS = (
    Mutant(
        "sparse: odd padding on the wrong side",
        MODULES,
        "return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)",
        "return (total[0] - total[0] // 2, total[1] - total[1] // 2), (total[0] // 2, total[1] // 2)",
        LAYERS,
    ),
    Mutant("sparse: every padding is of zeros", MODULES, 'if self.padding_mode == "zeros" else', "if True else", LAYERS),
    Mutant(
        "sparse: a dense layer forgets its dilation",
        MODULES,
        "            conv.dilation,\n            conv.groups,\n            self.bias",
        "            1,\n            conv.groups,\n            self.bias",
        LAYERS,
    ),
    kernel("the last weight of a run is left out", "passes.h", "for (; k < stop; ++k) {\n      const T *in", "for (; k + 1 < stop; ++k) {\n      const T *in"),
    kernel("weights behind groups of four have no gradient", "passes.h", "for (; k < stop; ++k) dw[k] +=", "for (; k < stop; ++k) dw[k] = 0 *"),
    kernel("a thread without rows goes on", "passes.h", "if (row0 >= row1) return;\n    T *mine", "T *mine"),
    kernel("sums of four are mixed up", "vectors.h", "merged<2>(pairs, others)", "merged<2>(others, pairs)"),
    kernel("the bias is left out", "passes.h", "bias ? bias[row] : T(0)", "T(0)"),
    kernel("the bias of a thread's rows is not added up", "passes.h", "d_bias[row] += sums[a * own", "d_bias[row] = sums[a * own"),
    kernel("sums of threads are not added up", "passes.h", "sum += sums[a * own + k];", "sum = sums[a * own + k];"),
    kernel("lanes without samples keep what was there", "packing.h", "for (int64_t lane = samples; lane < lanes; ++lane) to[lane] = 0;\n  }\n}", "}\n}"),
    kernel("rows of padding keep what was there", "packing.h", "if (y < from || y >= to) std::memset", "if (y < from - 1 || y >= to + 1) std::memset"),
    kernel("dilation is forgotten along y", "packing.h", "rest % s.kernel_y * s.dilation_y", "rest % s.kernel_y * 1"),
    kernel("phases of a stride are swapped", "packing.h", "return (x % s.stride_x * p.phase_length", "return ((s.stride_x - 1 - x % s.stride_x) * p.phase_length"),
    kernel("bfloat16 is cut off in place of rounded", "packing.h", "bits + 0x7fff + ((bits >> 16) & 1)", "bits"),
    kernel("a band keeps a row of the last one that it does not share", "packing.h", "g_.reach - g_.s.stride_y);", "g_.reach - g_.s.stride_y + 1);"),
    Mutant("sparse layers: the order of an old mask is kept", f"{SPARSE}/layer.py", "self.indices = new.to(self.indices.dtype)\n        self._compiled = None", "self.indices = new.to(self.indices.dtype)", LAYERS),
    Mutant("sparse layers: loading keeps the order of before", f"{SPARSE}/layer.py", "super()._load_from_state_dict(state_dict, prefix, *args)\n        self._compiled = None", "super()._load_from_state_dict(state_dict, prefix, *args)", LAYERS),
    Mutant("sparse layers: autograd keeps the shape of before", f"{SPARSE}/layer.py", "weight.data = torch.empty(0, dtype=", "torch.empty(0, dtype=", LAYERS),
    Mutant("sparse layers: values are not counted", f"{SPARSE}/function.py", "if weight.shape != (compiled.nonzeros,):", "if False:", LAYERS),
    Mutant("pruning: zeros by chance are taken for missing", f"{SPARSE}/pruning.py", ".masked_fill(~layer.mask, -1.0)\n    return", "\n    return", PRUNING),
    Mutant("sparse layers: a wrong pattern is loaded", f"{SPARSE}/layer.py", "bool((flat.diff() > 0).all())", "True", LAYERS),
    Mutant("sparse layers: optimizer state stays where it was", f"{SPARSE}/layer.py", "state[name] = carried(value)", "state[name] = value.new_zeros(len(new))", LAYERS),
    Mutant("sparse layers: new weights begin with what stood there", f"{SPARSE}/layer.py", "dense[old] = value\n", "dense[: len(old)] = value\n", LAYERS),
    Mutant("sparse layers: copies share the order", f"{SPARSE}/layer.py", 'return {**self.__dict__, "_compiled": None}', "return self.__dict__", LAYERS),
    Mutant("sparse layers: groups are forgotten", f"{SPARSE}/pattern.py", "flat % inputs + group * inputs", "flat % inputs", LAYERS),
    Mutant("sparse layers: taps of the input's gradient are not turned round", f"{SPARSE}/pattern.py", "(ty - y[mine] // sy) * (tx + 1)", "(y[mine] // sy) * (tx + 1)", LAYERS),
    Mutant("sparse layers: the input's gradient is shifted by the padding", f"{SPARSE}/kernels.py", "first_x = pad_x // stride_x", "first_x = 0", LAYERS),
    Mutant("sparse layers: pixels that no tap reaches keep their memory", f"{SPARSE}/kernels.py", "rows.zero_()", "pass", LAYERS),
    Mutant("sparse layers: autocast is not asked", f"{SPARSE}/layer.py", "if torch.is_autocast_enabled(x.device.type)", "if False and torch.is_autocast_enabled(x.device.type)", LAYERS),
    Mutant("sparse layers: dense gradients are those of the survivors", f"{SPARSE}/layer.py", "gradient = d_out.t() @ x", "gradient = (d_out.t() @ x) * self.mask", LAYERS),
    Mutant("pruning: the largest go", f"{SPARSE}/pruning.py", "dense_weight().detach().abs()", "dense_weight().detach().abs().neg().add(9)", PRUNING),
    Mutant("pruning: signs count", f"{SPARSE}/pruning.py", "return layer.weight.detach().abs()", "return layer.weight.detach()", PRUNING),
    Mutant("pruning: weights that are gone come back", f"{SPARSE}/pruning.py", "layer.change_mask(kept & layer.mask, optimizer)", "layer.change_mask(kept | ~layer.mask, optimizer)", PRUNING),
    Mutant("pruning: the schedule is linear", f"{SPARSE}/pruning.py", "(1 - share) ** 3", "(1 - share)", PRUNING),
    Mutant("pruning: the schedule goes on for ever", f"{SPARSE}/pruning.py", "self.begin <= step <= self.end and", "self.begin <= step and", PRUNING),
    Mutant("pruning: groups of M run across outputs", f"{SPARSE}/pruning.py", "groups = size.reshape(-1, m)", "groups = size.reshape(m, -1).t().contiguous()", PRUNING),
    Mutant("exchange: the largest go", f"{SPARSE}/pruning.py", "values.abs().masked_fill(~mask, -1.0)", "(-values.abs()).masked_fill(~mask, -9.0)", PRUNING),
    Mutant("exchange: weights come where the gradient is small", f"{SPARSE}/pruning.py", "wish = layer.dense_gradient.abs()", "wish = 1 / layer.dense_gradient.abs()", PRUNING),
    Mutant("exchange: the share does not fall", f"{SPARSE}/pruning.py", "(1 + math.cos(math.pi * step / self.end))", "2", PRUNING),
    Mutant("exchange: dense gradients pile up", f"{SPARSE}/pruning.py", "layer.keeps_dense_gradient, layer.dense_gradient = False, None", "layer.keeps_dense_gradient = False", PRUNING),
    Mutant("sparsify: judged by the plain layer", f"{SPARSE}/sparsify.py", "faster = sum(sparse_ms) < sum(dense_ms)", "faster = sum(sparse_ms) < sum(plain_ms)", PRUNING),
    Mutant("sparsify: layers that are not passed go unsaid", f"{SPARSE}/sparsify.py", "tuple(name for name in candidates if name not in inputs)", "()", PRUNING),
    Mutant("sparsify: the slower form is kept", f"{SPARSE}/sparsify.py", "faster = sum(sparse_ms) < sum(dense_ms)", "faster = sum(sparse_ms) > sum(dense_ms)", PRUNING),
    Mutant("sparsify: the network itself is changed", f"{SPARSE}/sparsify.py", "network = copy.deepcopy(network)", "network = network", PRUNING),
    Mutant("sparsify: statistics of norms move", f"{SPARSE}/sparsify.py", "with without_trace(network):", "with torch.no_grad():", PRUNING),
    Mutant("sparse rule: random masks shrink the outputs", "rules/signals/sparseprop.py", "sparse.weight.div_((len(kept) / size) ** 0.5)", "sparse.weight.mul_(1.0)", RULE),
    Mutant("training: callbacks are not told of the step", "training/trainer.py", "callback.after_step(number, self.optimizer)", "callback.after_step(1, self.optimizer)", LOOP),
)  # fmt: skip
