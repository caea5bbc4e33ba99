"""Systems that settle, or echo."""

from __future__ import annotations

from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import equilibrium, hamiltonian_echo, recurrent_echo

SYSTEMS = (
    System(
        "heb",
        "Hamiltonian echo back-propagation",
        "relaxation",
        Paper(
            "Self-learning Machines based on Hamiltonian Echo Backpropagation",
            "Víctor López-Pastor, Florian Marquardt",
            2023,
            "2103.04992",
            """@article{lopezpastor2023selflearning,
  title   = {Self-learning Machines based on {Hamiltonian} Echo Backpropagation},
  author  = {López-Pastor, Víctor and Marquardt, Florian},
  journal = {Physical Review X},
  volume  = {13},
  pages   = {031020},
  year    = {2023}
}""",
        ),
        "beyondprop.rules.relaxation.hamiltonian_echo:HamiltonianEcho",
        "hamiltonian_echo",
        hamiltonian_echo.RECIPES,
    ),
    System(
        "ep",
        "Equilibrium propagation",
        "relaxation",
        Paper(
            "Scaling Equilibrium Propagation to Deep ConvNets by Drastically Reducing its Gradient Estimator Bias",
            "Axel Laborieux, Maxence Ernoult, Benjamin Scellier, Yoshua Bengio, Julie Grollier, Damien Querlioz",
            2021,
            "2006.03824",
            """@article{laborieux2021scaling,
  title   = {Scaling Equilibrium Propagation to Deep {ConvNets} by Drastically Reducing its Gradient Estimator Bias},
  author  = {Laborieux, Axel and Ernoult, Maxence and Scellier, Benjamin and Bengio, Yoshua and Grollier, Julie and
             Querlioz, Damien},
  journal = {Frontiers in Neuroscience},
  volume  = {15},
  pages   = {633674},
  year    = {2021}
}""",
        ),
        "beyondprop.rules.relaxation.equilibrium:EquilibriumPropagation",
        "equilibrium",
        equilibrium.RECIPES,
    ),
    System(
        "rhel",
        "Recurrent Hamiltonian echo learning",
        "relaxation",
        Paper(
            "Learning long range dependencies through time reversal symmetry breaking",
            "Guillaume Pourcel, Maxence Ernoult",
            2025,
            "2506.05259",
            """@inproceedings{pourcel2025learning,
  title     = {Learning long range dependencies through time reversal symmetry breaking},
  author    = {Pourcel, Guillaume and Ernoult, Maxence},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025}
}""",
        ),
        "beyondprop.rules.relaxation.recurrent_echo:RecurrentEcho",
        "recurrent_echo",
        recurrent_echo.RECIPES,
    ),
)
