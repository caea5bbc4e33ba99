"""QRNN and QLSTM against loops over steps whose products are those of single quaternions."""

import pytest
import quaternion_oracle as oracle
import torch
from torch import nn

from beyondprop.errors import UserError
from beyondprop.layers.quaternion import QLSTM, QRNN, algebra

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def step(cell, index, x, h):
    return oracle.linear(x, cell.inputs[index]) + oracle.linear(h, cell.recurrent[index])


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_qrnn_equals_a_loop_over_steps(side):
    torch.manual_seed(0)
    cell, x, h = QRNN(4, 8, side=side).double(), torch.randn(3, 2, 4).double(), torch.randn(1, 2, 8).double()
    outputs, last = cell(x, h)
    state = h[0]
    for u, found in zip(x, outputs, strict=True):
        state = torch.tanh(step(cell, 0, u, state))
        torch.testing.assert_close(found, state, **EXACT)
    torch.testing.assert_close(last[0], state, **EXACT)


def test_qlstm_equals_a_loop_over_steps():
    torch.manual_seed(0)
    cell, x = QLSTM(4, 8).double(), torch.randn(3, 2, 4).double()
    outputs, (last, memory) = cell(x)
    h = c = torch.zeros(2, 8).double()
    for u, found in zip(x, outputs, strict=True):
        q = oracle.blocks_to_quaternions(step(cell, 0, u, h))  # (batch, gates * quaternions, 4)
        i, f, g, o = (oracle.quaternions_to_blocks(part) for part in q.unflatten(1, (4, 2)).unbind(1))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        torch.testing.assert_close(found, h, **EXACT)
    torch.testing.assert_close(last[0], h, **EXACT)
    torch.testing.assert_close(memory[0], c, **EXACT)


@pytest.mark.parametrize("options", [{}, {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}])
def test_qrnn_equals_torchs_with_the_real_matrices(options):
    """Layers, directions and order of states are torch's; two ways of a layer stand side by side in each block."""
    torch.manual_seed(0)
    cell = QRNN(4, 8, **options).double()
    real = nn.RNN(4, 8, **options).double()
    ways = 1 + cell.bidirectional
    order = torch.arange(16).view(2, 4, 2).transpose(0, 1).flatten()  # of our inputs among torch's
    with torch.no_grad():
        for index, (inputs, recurrent) in enumerate(zip(cell.inputs, cell.recurrent, strict=True)):
            suffix = f"l{index // ways}" + "_reverse" * (index % ways)
            matrix = algebra.real_matrix(inputs.weight)
            if index >= ways and ways == 2:
                matrix = matrix[:, order.argsort()]
            getattr(real, f"weight_ih_{suffix}").copy_(matrix)
            getattr(real, f"weight_hh_{suffix}").copy_(algebra.real_matrix(recurrent.weight))
            getattr(real, f"bias_ih_{suffix}").copy_(inputs.bias.normal_())
            getattr(real, f"bias_hh_{suffix}").zero_()
    x = torch.randn(5, 3, 4).double()
    (found, last), (wanted, wanted_last) = cell(x), real(x)
    torch.testing.assert_close(last, wanted_last, **EXACT)
    torch.testing.assert_close(found, wanted if ways == 1 else wanted[..., order], **EXACT)


@pytest.mark.parametrize("kind", [QRNN, QLSTM])
def test_gradcheck(kind):
    torch.manual_seed(0)
    cell, x = kind(4, 4, 2, bidirectional=True).double(), torch.randn(3, 2, 4).double().requires_grad_()
    names = [name for name, _ in cell.named_parameters()]

    def run(x, *p):
        return torch.func.functional_call(cell, dict(zip(names, p, strict=True)), x)[0]

    assert torch.autograd.gradcheck(run, (x, *cell.parameters()), fast_mode=True)


@pytest.mark.parametrize("kind", [QRNN, QLSTM])
def test_batch_first_dropout_and_autocast(kind):
    torch.manual_seed(0)
    cell = kind(4, 8, 2, dropout=0.5)
    x = torch.randn(5, 3, 4)
    assert not torch.equal(cell(x)[0], cell(x)[0])
    cell.eval()
    first = kind(4, 8, 2, batch_first=True)
    first.load_state_dict(cell.state_dict())
    torch.testing.assert_close(first(x.transpose(0, 1))[0], cell(x)[0].transpose(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cell(x)[0].float(), cell(x.float())[0].float(), rtol=0.05, atol=0.05)
    assert cell(x[:0])[0].shape == (0, 3, 8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QRNN(3, 8), "input_size"),
        (lambda: QLSTM(4, 6), "hidden_size"),
        (lambda: QRNN(4, 8, nonlinearity="gelu"), "nonlinearity"),
        (lambda: QRNN(4, 8, dropout=1.0), "dropout"),
        (lambda: QRNN(4, 8, 0), "num_layers"),
        (lambda: QRNN(4, 8)(torch.zeros(3, 4)), "three dimensions"),
        (lambda: QRNN(4, 8)(torch.zeros(3, 2, 8)), "takes 4 numbers"),
        (lambda: QRNN(4, 8)(torch.zeros(3, 2, 4), torch.zeros(1, 3, 8)), "takes states of shape"),
    ],
)
def test_bad_input_is_told(call, says):
    with pytest.raises(UserError, match=says):
        call()
