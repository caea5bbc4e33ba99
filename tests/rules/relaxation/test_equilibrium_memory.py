"""Memory of equilibrium propagation does not grow with the steps; that of back-propagation does."""

import pytest
from nudged_networks import make
from settling_networks import batch, convolutional, perceptron

from beyondprop.measure.memory import peak_live_bytes, peak_saved_bytes
from beyondprop.rules.relaxation.convergent import ConvergentNetwork
from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling


@pytest.mark.parametrize("order", ["even-odd", "synchronous"])
@pytest.mark.parametrize("nudging", ["symmetric", "one-sided"])
@pytest.mark.parametrize(("layers", "size"), [(perceptron, (4,)), (convolutional, (1, 14, 14))])
def test_memory_does_not_grow_with_the_number_of_steps(layers, size, nudging, order):
    """The convolutions have max-pooling, whose switches every step has anew."""
    x, y = batch(*size, count=64)
    sizes = []
    for steps in (4, 20):
        rule = make(layers(), x, beta=0.1, order=order, nudging=nudging, free_steps=steps, nudged_steps=steps)
        rule.backward(x, y)
        peaks = peak_live_bytes(lambda rule=rule: rule.backward(x, y), rule)
        sizes.append((peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule), peaks))
    assert sizes[0] == sizes[1]


def test_memory_of_back_propagation_grows_with_the_steps_it_goes_through():
    x, y = batch(4, count=64)
    network = ConvergentNetwork(perceptron(), x[:2])
    saved = []
    for steps in (5, 10, 20):
        rule = BackpropThroughSettling(network, free_steps=20, through=steps)
        saved.append(peak_saved_bytes(lambda rule=rule: rule.backward(x, y), rule))
    assert saved[2] - saved[1] == 2 * (saved[1] - saved[0]) > 0
