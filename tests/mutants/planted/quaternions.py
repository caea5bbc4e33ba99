"""Planted defects of quaternion layers, their calculus and their recipes."""

from mutant import Mutant

LAYERS = "layers/quaternion/"
LINEAR = ("tests/layers/test_layers_quaternion.py",)
CONV = ("tests/layers/test_layers_quaternion_conv.py",)
NORM = ("tests/layers/test_layers_quaternion_norm.py",)
RECURRENT = ("tests/layers/test_layers_quaternion_recurrent.py",)
CONVERSION = ("tests/layers/test_layers_quaternion_conversion.py",)
GHR = ("tests/layers/test_layers_quaternion_ghr.py",)
RECIPES = ("tests/recipes/test_recipes_quaternion.py",)

MUTANTS = (
    Mutant("quaternion: ij is -k", LAYERS + "algebra.py", "a * h + b * g - c * f", "a * h - b * g + c * f", LINEAR),
    Mutant(
        "quaternion: inverse without the square", LAYERS + "algebra.py", "sum(part * part for", "sum(part for", LINEAR
    ),
    Mutant(
        "quaternion: right weights stand on the left",
        LAYERS + "algebra.py",
        "SIGNS[column][component]",
        "SIGNS[component][column]",
        LINEAR,
    ),
    Mutant(
        "quaternion: right pairs are the left ones",
        LAYERS + "products.py",
        '"right": ((0, 0), (3, 2), (1, 3), (2, 1))',
        '"right": ((0, 0), (2, 3), (3, 1), (1, 2))',
        LINEAR,
    ),
    Mutant(
        "quaternion: the first output keeps its sign",
        LAYERS + "products.py",
        "TURN = (-1, 1, 1, 1)",
        "TURN = (1, 1, 1, 1)",
        LINEAR,
    ),
    Mutant(
        "quaternion: half of the mending",
        LAYERS + "products.py",
        "weight[m].T, alpha=-2.0",
        "weight[m].T, alpha=-1.0",
        LINEAR,
    ),
    Mutant(
        "quaternion: the input's gradient is not mended",
        LAYERS + "products.py",
        "            form.mend_input(dx, g, weight.to(x.dtype))\n",
        "",
        LINEAR,
    ),
    Mutant(
        "quaternion: the weight's gradient is four times too large",
        LAYERS + "products.py",
        "dW = of_weight(form.weight_gradient(q, u, weight).to(weight.dtype))",
        "dW = 4 * of_weight(form.weight_gradient(q, u, weight).to(weight.dtype))",
        LINEAR,
    ),
    Mutant(
        "quaternion: gradients of the forward tangent lose the weight's",
        LAYERS + "products.py",
        "if dW is not None:\n            found = found + plain",
        "if dW is None:\n            found = found + plain",
        LINEAR,
    ),
    Mutant(
        "quaternion: kept transforms are held when memory is saved",
        LAYERS + "products.py",
        "*((u, v) if keep else ())",
        "u, v",
        LINEAR,
    ),
    Mutant(
        "quaternion: the real matrix is held when memory is saved",
        LAYERS + "real_product.py",
        "    if not keep:",
        "    if False:",
        LINEAR,
    ),
    Mutant(
        "quaternion: narrow layers save no memory",
        LAYERS + "linear.py",
        "(self.weight,), self.bias, keep=keep)",
        "(self.weight,), self.bias)",
        LINEAR,
    ),
    Mutant(
        "quaternion: layers with two weights save no memory",
        LAYERS + "linear.py",
        "(self.weight, self.right_weight), self.bias, keep=keep)",
        "(self.weight, self.right_weight), self.bias)",
        LINEAR,
    ),
    Mutant(
        "quaternion: the gradient of the matrix built anew is transposed",
        LAYERS + "products.py",
        "g.T @ x if wanted[1] else None",
        "x.T @ g if wanted[1] else None",
        LINEAR,
    ),
    Mutant(
        "quaternion: bfloat16 sums forget the turned output",
        LAYERS + "products.py",
        'first = -even - high if turned == "after" else even + high',
        "first = even + high",
        LINEAR,
    ),
    Mutant(
        "quaternion: weights start without an angle",
        LAYERS + "initialisation.py",
        "modulus * theta.cos()",
        "modulus",
        LINEAR,
    ),
    Mutant(
        "quaternion: He's criterion counts real numbers",
        LAYERS + "initialisation.py",
        "else inputs))",
        "else 4 * inputs))",
        LINEAR,
    ),
    Mutant(
        "quaternion: convolutions mend another block",
        LAYERS + "conv.py",
        "blocks[j].add_(part)",
        "blocks[0].add_(part)",
        CONV,
    ),
    Mutant(
        "quaternion: convolutions drop their dilation",
        LAYERS + "conv.py",
        "list(dilation)",
        "[1] * len(dilation)",
        CONV,
    ),
    Mutant(
        "quaternion: few channels save no memory",
        LAYERS + "conv.py",
        "return plain_product(form, x, (self.weight,), self.bias, keep=keep)",
        "return plain_product(form, x, (self.weight,), self.bias)",
        CONV,
    ),
    Mutant(
        "quaternion: gradients of grouped inputs stay in the order of the groups",
        LAYERS + "conv.py",
        "regroup(dx, self.groups, 4), dM",
        "dx, dM",
        CONV,
    ),
    Mutant(
        "quaternion: groups of real matrices do not find their blocks",
        LAYERS + "conv.py",
        "torch.convolution(regroup(x, 4, self.groups)",
        "torch.convolution(regroup(x, self.groups, 4)",
        CONV,
    ),
    Mutant(
        "quaternion: batch norm's gradient forgets the shared scale",
        LAYERS + "norm.py",
        "        dx -= torch.nn.functional.batch_norm(",
        "        torch.nn.functional.batch_norm(",
        NORM,
    ),
    Mutant(
        "quaternion: running variance is that of the sample", LAYERS + "norm.py", "(count / (count - 1))", "1.0", NORM
    ),
    Mutant(
        "quaternion: whitening by the factor itself",
        LAYERS + "norm.py",
        "upper=False, left=False",
        "upper=True, left=False",
        NORM,
    ),
    Mutant(
        "quaternion: the forget gate is the input's",
        LAYERS + "recurrent.py",
        "i, f, g, o = gates",
        "f, i, g, o = gates",
        RECURRENT,
    ),
    Mutant(
        "quaternion: two ways stand one after another",
        LAYERS + "recurrent.py",
        "return torch.cat(blocks, -1).flatten(-2)",
        "return torch.cat(parts, -1)",
        RECURRENT,
    ),
    Mutant(
        "quaternion: backward states stay reversed",
        LAYERS + "recurrent.py",
        "states.flip(0) if way else states",
        "states",
        RECURRENT,
    ),
    Mutant(
        "quaternion: conversion thaws frozen layers",
        LAYERS + "conversion.py",
        "requires_grad_(any(real.requires_grad for real in _counterparts(module, name)))",
        "requires_grad_(True)",
        CONVERSION,
    ),
    Mutant(
        "quaternion: conversion skips silently", LAYERS + "conversion.py", "kept[name] = reason", "pass", CONVERSION
    ),
    Mutant(
        "quaternion: conversion drops backward hooks",
        LAYERS + "conversion.py",
        'if name.endswith("_hooks")',
        'if name in ("_forward_hooks", "_forward_pre_hooks")',
        CONVERSION,
    ),
    Mutant(
        "quaternion: conversion forgets the dilation",
        LAYERS + "conversion.py",
        "dilation=m.dilation,",
        "dilation=1,",
        CONVERSION,
    ),
    Mutant(
        "quaternion: GHR derivatives without the quarter", LAYERS + "ghr.py", "return total / 4", "return total", GHR
    ),
    Mutant(
        "quaternion: GHR derivatives by the conjugate are swapped",
        LAYERS + "ghr.py",
        "total + term if conjugated",
        "total - term if conjugated",
        GHR,
    ),
    Mutant(
        "quaternion: the product rule does not rotate",
        LAYERS + "ghr.py",
        "derivative(f, q, hamilton(g_q, mu), conj",
        "derivative(f, q, mu, conj",
        GHR,
    ),
    Mutant(
        "quaternion: the chain rule has one rotation",
        LAYERS + "ghr.py",
        "for nu in _axes(q):",
        "for nu in _axes(q)[:1]:",
        GHR,
    ),
    Mutant(
        "quaternion: the naive product rule multiplies in the other order",
        LAYERS + "ghr.py",
        "+ hamilton(_value(f, q), naive(g, q))",
        "+ hamilton(naive(g, q), _value(f, q))",
        GHR,
    ),
    Mutant(
        "quaternion: formulas of q and q* are swapped",
        LAYERS + "symbolic.py",
        "if s.conjugated == conjugated",
        "if s.conjugated != conjugated",
        GHR,
    ),
    Mutant(
        "quaternion: right formulas turn as left ones",
        LAYERS + "symbolic.py",
        'Letter(mu, side == "right", True)',
        "Letter(mu, False, True)",
        GHR,
    ),
    Mutant(
        "quaternion: Lorenz coordinates are scaled apart",
        "data/lorenz.py",
        "values[:series].std()",
        "values[:series].std((0, 1))",
        RECIPES,
    ),
    Mutant(
        "quaternion: Lorenz targets are inputs", "data/lorenz.py", "values[:, shift:]", "values[:, :-shift]", RECIPES
    ),
    Mutant(
        "quaternion: the twin is a quaternion network",
        "networks/quaternion.py",
        'if algebra == "real"',
        'if algebra == "none"',
        RECIPES,
    ),
    Mutant(
        "quaternion: split batch norm is converted",
        "networks/quaternion.py",
        'skip=split if norm == "split"',
        'skip=split if norm == "none"',
        RECIPES,
    ),
)
