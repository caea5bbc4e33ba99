"""Systems that evaluate the network and never go backward."""

from __future__ import annotations

from beyondprop.catalogue.papers import REN
from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import chip, forward_gradient, local_forward_gradient, multiplexed, node_perturbation

SYSTEMS = (
    System(
        "mgd",
        "Multiplexed gradient descent",
        "perturbation",
        Paper(
            "Multiplexed gradient descent: Fast online training of modern datasets on hardware neural networks without "
            "backpropagation",
            "Adam N. McCaughan, Bakhrom G. Oripov, Natesh Ganesh, Sae Woo Nam, Andrew Dienstfrey, Sonia M. Buckley",
            2023,
            "2303.03986",
            """@article{mccaughan2023multiplexed,
  title   = {Multiplexed gradient descent: Fast online training of modern datasets on hardware neural networks without
             backpropagation},
  author  = {McCaughan, Adam N. and Oripov, Bakhrom G. and Ganesh, Natesh and Nam, Sae Woo and Dienstfrey, Andrew and
             Buckley, Sonia M.},
  journal = {APL Machine Learning},
  volume  = {1},
  number  = {026118},
  year    = {2023}
}""",
        ),
        "beyondprop.rules.perturbation.multiplexed:MultiplexedGradientDescent",
        "multiplexed",
        multiplexed.RECIPES + chip.RECIPES,
    ),
    System(
        "forward-gradient",
        "Forward gradient of weights and activities",
        "perturbation",
        REN,
        "beyondprop.rules.perturbation.forward_gradient:ForwardGradient",
        "forward_gradient",
        forward_gradient.RECIPES,
    ),
    System(
        "local-forward-gradient",
        "Forward gradient of local losses",
        "perturbation",
        REN,
        "beyondprop.rules.perturbation.local_forward_gradient:LocalForwardGradient",
        "local_forward_gradient",
        local_forward_gradient.RECIPES,
    ),
    System(
        "node-perturbation",
        "Node, weight and activity perturbation",
        "perturbation",
        Paper(
            "Gradient-free training of recurrent neural networks using random perturbations",
            "Jesús García Fernández, Sander Keemink, Marcel van Gerven",
            2024,
            "2405.08967",
            """@article{garciafernandez2024gradient,
  title   = {Gradient-free training of recurrent neural networks using random perturbations},
  author  = {García Fernández, Jesús and Keemink, Sander and van Gerven, Marcel},
  journal = {Frontiers in Neuroscience},
  volume  = {18},
  pages   = {1439155},
  year    = {2024}
}""",
        ),
        "beyondprop.rules.perturbation.node_perturbation:NodePerturbation",
        "node_perturbation",
        node_perturbation.RECIPES,
    ),
)
