"""Quaternion algebra and the linear layer, against complex 2x2 matrices and loops over quaternions."""

import pytest
import quaternion_oracle as oracle
import torch
from torch.nn import functional as F

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import QuaternionLinear, algebra, ghr
from beyondprop.layers.quaternion.initialisation import quaternion_
from beyondprop.layers.quaternion.products import wide_enough
from beyondprop.measure import peak_saved_bytes

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SIDES = ("left", "right", "both")


def make(side="left", products=8, *, memory_saving=False, bias=True, seed=0):
    torch.manual_seed(seed)
    layer = QuaternionLinear(12, 8, bias, side=side, products=products, memory_saving=memory_saving).double()
    if bias:
        torch.nn.init.normal_(layer.bias)
    return layer, torch.randn(5, 12, dtype=torch.float64, requires_grad=True)


def gradients(y, layer, x, seed=1):
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(seed))
    return g, torch.autograd.grad(y, [x, *layer.parameters()], g)


def test_products_equal_those_of_complex_matrices():
    p, q = torch.randn(2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(algebra.hamilton(p, q), oracle.times(p, q), **EXACT)
    wide = [oracle.quaternions_to_blocks(part) for part in (p, q)]
    torch.testing.assert_close(algebra.hamilton(*wide), oracle.quaternions_to_blocks(oracle.times(p, q)), **EXACT)
    inverse = algebra.inverse(q)
    one = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(7, 4)
    torch.testing.assert_close(oracle.times(q, inverse), one, **EXACT)
    turned = algebra.rotate(q, p)
    torch.testing.assert_close(turned, oracle.times(oracle.times(p, q), algebra.inverse(p)), **EXACT)
    torch.testing.assert_close(algebra.norm(turned), algebra.norm(q), **EXACT)
    torch.testing.assert_close(algebra.norm(q)[:, 0], q.norm(dim=1), **EXACT)
    torch.testing.assert_close(
        algebra.conjugate(algebra.hamilton(p, q)),
        algebra.hamilton(algebra.conjugate(q), algebra.conjugate(p)),
        **EXACT,
    )


@pytest.mark.parametrize("memory_saving", [False, True])
@pytest.mark.parametrize("products", [8, 16])
@pytest.mark.parametrize("side", SIDES)
def test_linear_equals_a_loop_over_quaternions_forward_and_backward(side, products, memory_saving):
    layer, x = make(side, products, memory_saving=memory_saving)
    expected = oracle.linear(x, layer)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    for found, wanted in zip(gradients(layer(x), layer, x)[1], gradients(expected, layer, x)[1], strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("side", SIDES)
def test_linear_equals_its_real_block_matrix_forward_and_backward(side):
    layer, x = make(side)
    if side == "both":
        matrix = algebra.real_matrix_two_sided(layer.weight, layer.right_weight)
    else:
        matrix = algebra.real_matrix(layer.weight, side)
    assert matrix.shape == (8, 12)
    expected = F.linear(x, matrix, layer.bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    for found, wanted in zip(gradients(layer(x), layer, x)[1], gradients(expected, layer, x)[1], strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_backward_is_the_formula_of_quaternion_back_propagation(side):
    """dx_k = Σ_i W_ik* G_i and dW_ik = Σ_batch G_i x_k*; from the right, G_i W_ik* and x_k* G_i."""
    layer, x = make(side)
    g, (dx, dW, db) = gradients(layer(x), layer, x)
    G, q, W = oracle.blocks_to_quaternions(g), oracle.blocks_to_quaternions(x), layer.weight.permute(1, 2, 0)
    star = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    order = (lambda p, q: (p, q)) if side == "left" else (lambda p, q: (q, p))
    by_pairs = oracle.times(*order((W * star)[None], G[:, :, None]))
    torch.testing.assert_close(dx, oracle.quaternions_to_blocks(by_pairs.sum(1)), **EXACT)
    by_pairs = oracle.times(*order(G[:, :, None], (q * star)[:, None]))
    torch.testing.assert_close(dW.permute(1, 2, 0), by_pairs.sum(0), **EXACT)
    torch.testing.assert_close(db, g.sum(0), **EXACT)


def test_gradient_is_four_times_the_ghr_derivative():
    """For one weight, the calculus itself: 4 ∂L/∂W* by the definition of the derivative."""
    torch.manual_seed(0)
    layer, x, t = QuaternionLinear(4, 4).double(), torch.randn(4).double(), torch.randn(4).double()
    loss = (layer(x[None])[0] - t).square().sum() / 2
    loss.backward()

    def of_weight(w):
        return (oracle.times(w, x) + layer.bias.detach() - t).square().sum() / 2

    direction = ghr.gradient(of_weight, layer.weight.detach().flatten())
    torch.testing.assert_close(layer.weight.grad.flatten(), 4 * direction, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("products", [8, 16])
@pytest.mark.parametrize("memory_saving", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_gradcheck(side, memory_saving, products, bias):
    layer, x = make(side, products, memory_saving=memory_saving, bias=bias)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *p):
        return torch.func.functional_call(layer, dict(zip(names, p, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.filterwarnings("ignore")  # torch's own, where it loads its forward mode
@pytest.mark.parametrize(("side", "products"), [("left", 8), ("right", 8), ("left", 16), ("both", 16)])
def test_transforms_of_functions_see_the_same_layer(side, products):
    layer, x = make(side, products, memory_saving=products == 16)
    x, weight = x.detach(), layer.weight.detach()
    bias, others = layer.bias.detach(), {name: p.detach() for name, p in layer.named_parameters() if name != "weight"}

    def run(weight, x):
        return torch.func.functional_call(layer, {"weight": weight, **others}, x)

    by_row = torch.vmap(run, (None, 0))(weight, x[:, None])[:, 0]
    torch.testing.assert_close(by_row, run(weight, x), **EXACT)
    of_rows = torch.vmap(torch.func.grad(lambda w, x: run(w, x[None]).square().sum()), (None, 0))(weight, x)
    together = torch.func.grad(lambda w: run(w, x).square().sum())(weight)
    torch.testing.assert_close(of_rows.sum(0), together, **EXACT)
    move, step = torch.randn_like(weight), torch.randn_like(x)
    _, tangent = torch.func.jvp(run, (weight, x), (move, step))
    torch.testing.assert_close(tangent, run(move, x) + run(weight, step) - 2 * bias, **EXACT)
    if side == "both":
        right, turn = layer.right_weight.detach(), torch.randn_like(weight)
        of_right = lambda right: torch.func.functional_call(layer, {"right_weight": right}, x)  # noqa: E731
        _, tangent = torch.func.jvp(of_right, (right,), (turn,))
        torch.testing.assert_close(tangent, of_right(turn) - bias, **EXACT)


@pytest.mark.parametrize("products", [8, 16])
def test_parts_that_need_no_gradient_get_none(products):
    layer, x = make(products=products, memory_saving=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    layer, x = make(products=products, memory_saving=True)
    layer(x.detach()).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((8,), 5.0, dtype=torch.float64))
    layer, x = make("both", memory_saving=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.right_weight.grad.abs().sum() > 0


@pytest.mark.parametrize("products", [8, 16])
def test_in_place_activations_may_follow(products):
    layer, x = make(products=products, memory_saving=True)
    layer(x).relu_().sum().backward()
    found = x.grad.clone()
    x.grad = None
    layer(x).relu().sum().backward()
    torch.testing.assert_close(x.grad, found, **EXACT)


def test_memory_saving_holds_input_and_weight_alone():
    """Kept: x, its transform and the weight's, beside the weight, which is a parameter and is not counted."""
    torch.manual_seed(0)
    held = {}
    for saving in (False, True):
        layer = QuaternionLinear(256, 256, products=8, memory_saving=saving)
        x = torch.randn(64, 256)
        held[saving] = peak_saved_bytes(lambda layer=layer, x=x: layer(x).sum().backward(), layer)
    of_x, of_weight = 4 * 64 * 256, 4 * 4 * 64 * 64
    assert held[False] - held[True] == of_x + of_weight


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("width", "eight"), [(64, False), (512, True)])  # as it is chosen in float32
def test_memory_saving_holds_the_input_alone_whatever_is_chosen(width, eight, side, bf16):
    """By default products are chosen by width and dtype: neither transforms nor a real matrix are held."""
    layer, x = QuaternionLinear(width, width, side=side, memory_saving=True), torch.randn(8, width, requires_grad=True)
    assert wide_enough(width, x, 512, 2048) == eight

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = layer(x)
        y.sum().backward()

    of_x, of_constants = x.numel() * (2 if bf16 else 4), 4 * 16 * 16 if side == "both" else 0  # signs, on the way back
    assert peak_saved_bytes(step, layer) == of_x + of_constants
    layer.memory_saving = False
    assert peak_saved_bytes(step, layer) > of_x + of_constants


def test_split_activations_act_on_components():
    """The gradient is G ∘ φ'(X) by components, no Hamilton product: what any activation of torch does here."""
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 8, dtype=torch.float64)
    torch.tanh(x).backward(g)
    torch.testing.assert_close(x.grad, g * (1 - torch.tanh(x.detach()).square()), **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_eight_products_are_as_accurate_as_the_real_matrix(side):
    """In float32 the error is within twice that of the real matrix; in bfloat16 gradients stay float32."""
    torch.manual_seed(0)
    layer, x = QuaternionLinear(512, 512, side=side), torch.randn(64, 512)
    errors = {}
    exact = F.linear(x.double(), algebra.real_matrix(layer.weight.double(), side))
    for products in (8, 16):
        layer.products = products
        errors[products] = (layer(x) - exact).norm() / exact.norm()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        errors[products, "bf16"] = (y - exact).norm() / exact.norm()
        y.float().square().mean().backward()
        assert layer.weight.grad.dtype == torch.float32
    assert errors[8] < 2 * errors[16]
    assert errors[8, "bf16"] < 2 * errors[16, "bf16"]


def test_initial_weights_keep_the_scale():
    torch.manual_seed(0)
    layer, x = QuaternionLinear(1024, 512), torch.randn(256, 1024)
    assert float(layer(x).detach().var()) == pytest.approx(2.0, rel=0.05)  # He's: ReLU halves the mean square
    layer.reset_parameters("glorot")
    assert float(layer(x).detach().var()) == pytest.approx(2 * 1024 / (1024 + 512), rel=0.05)
    weight = quaternion_(torch.empty(4, 50_000), 8, 8)
    modulus = weight.norm(dim=0)
    assert float(modulus.square().mean()) == pytest.approx(4 / 16, rel=0.02)
    assert float((weight[0] / modulus).square().mean()) == pytest.approx(0.5, rel=0.02)  # cos² of a uniform angle
    assert weight.mean(1).abs().max() < 0.01
    assert QuaternionLinear(16, 16, side="both")(x[:, :16]).shape == (256, 16)


def test_shapes_and_modes():
    layer = QuaternionLinear(8, 4)
    assert layer(torch.zeros(2, 3, 8)).shape == (2, 3, 4)
    assert layer(torch.zeros(8)).shape == (4,)
    assert layer(torch.zeros(0, 8)).shape == (0, 4)
    eight = QuaternionLinear(8, 4, products=8)
    assert eight(torch.zeros(0, 8)).shape == (0, 4)
    with torch.inference_mode():
        y = eight(torch.ones(2, 8))
    eight(torch.ones(2, 8)).sum().backward()  # constants that inference made serve training
    torch.testing.assert_close(y, eight(torch.ones(2, 8)).detach())
    assert not wide_enough(511, torch.zeros(1), 512, None)
    assert wide_enough(512, torch.zeros(1), 512, None)
    assert not wide_enough(4096, torch.zeros(1, dtype=torch.bfloat16), 512, None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QuaternionLinear(6, 8), "in_features .* multiple of 4, not 6"),
        (lambda: QuaternionLinear(8, 0), "out_features"),
        (lambda: QuaternionLinear(8, 8, side="top"), "side must be"),
        (lambda: QuaternionLinear(8, 8, products=9), "products must be"),
        (lambda: QuaternionLinear(8, 8)(torch.zeros(2, 12)), "takes 8 numbers .2 quaternions"),
        (lambda: QuaternionLinear(8, 8, products=8)(torch.zeros(2, 8).double()), "convert one"),
        (lambda: quaternion_(torch.zeros(3, 4), 1, 1), "first dimension of 4"),
        (lambda: quaternion_(torch.zeros(4, 4), 1, 1, "xavier"), "criterion"),
        (lambda: algebra.hamilton(torch.zeros(6), torch.zeros(6)), "multiple of 4"),
    ],
)
def test_bad_input_is_told(call, says):
    with pytest.raises(UserError, match=says):
        call()
