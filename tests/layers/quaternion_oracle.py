"""Quaternion products written without the library: by complex 2x2 matrices, and by loops over quaternions."""

import torch


def to_complex(q):
    """(..., 4) to (..., 2, 2): a + bi + cj + dk is [[a + bi, c + di], [-c + di, a - bi]]."""
    a, b, c, d = q.unbind(-1)
    rows = (torch.complex(a, b), torch.complex(c, d), torch.complex(-c, d), torch.complex(a, -b))
    return torch.stack(rows, -1).unflatten(-1, (2, 2))


def times(p, q):
    """The Hamilton product of quaternions, shape (..., 4)."""
    m = to_complex(p) @ to_complex(q)
    return torch.stack((m[..., 0, 0].real, m[..., 0, 0].imag, m[..., 0, 1].real, m[..., 0, 1].imag), -1)


def blocks_to_quaternions(x, dim=-1):
    """A dimension of four blocks to quaternions, whose components stand last."""
    return torch.stack(x.chunk(4, dim), -1)


def quaternions_to_blocks(q, dim=-1):
    """The reverse; `dim` as counted without the components."""
    return torch.cat(q.unbind(-1), dim)


def apply(side, weight, x, right=None):
    """One weight on one input: w x, x w or w x v."""
    if side == "left":
        return times(weight, x)
    return times(x, weight) if side == "right" else times(times(weight, x), right)


def linear(x, layer):
    """Row by row, output by output, input by input."""
    q = blocks_to_quaternions(x)
    weight = layer.weight.permute(1, 2, 0)
    right = None if layer.right_weight is None else layer.right_weight.permute(1, 2, 0)
    outputs = []
    for i in range(weight.shape[0]):
        terms = [
            apply(layer.side, weight[i, k], q[:, k], None if right is None else right[i, k])
            for k in range(weight.shape[1])
        ]
        outputs.append(sum(terms))
    y = quaternions_to_blocks(torch.stack(outputs, 1))
    return y if layer.bias is None else y + layer.bias


def conv(x, layer, real_convolution):
    """Component by component: each real convolution of one component of the input with one number of each weight.

    The basis products e_p (e_c) e_q come from `times`.
    """
    units = torch.eye(4, dtype=x.dtype)
    parts = x.chunk(4, 1)
    total = [0.0] * 4

    def add(product, part, weight):
        for out in range(4):
            if product[out]:
                total[out] = total[out] + product[out] * real_convolution(part, weight)

    for c in range(4):
        for p in range(4):
            if layer.side != "both":
                add(apply(layer.side, units[p], units[c]), parts[c], layer.weight[p])
                continue
            for q in range(4):
                add(apply("both", units[p], units[c], units[q]), parts[c], layer.weight[p] * layer.right_weight[q])
    y = torch.cat(total, 1)
    return y if layer.bias is None else y + layer.bias.view(1, -1, *[1] * (x.ndim - 2))
