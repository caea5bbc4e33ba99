"""Systems of networks and events in time."""

from __future__ import annotations

from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import network_inference, point_processes

SYSTEMS = (
    System(
        "gchp",
        "Graph-convolutional Hawkes processes",
        "point processes",
        Paper(
            "Mitigating Performance Saturation in Neural Marked Point Processes: Architectures and Loss Functions",
            "Tianbo Li, Tianze Luo, Yiping Ke, Sinno Jialin Pan",
            2021,
            "2107.03354",
            """@inproceedings{li2021mitigating,
  title     = {Mitigating Performance Saturation in Neural Marked Point Processes: Architectures and Loss Functions},
  author    = {Li, Tianbo and Luo, Tianze and Ke, Yiping and Pan, Sinno Jialin},
  booktitle = {ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year      = {2021}
}""",
        ),
        "beyondprop.point_processes.gchp:GCHP",
        "point_processes",
        point_processes.RECIPES,
        quick="simulated",
    ),
    System(
        "network-inference",
        "Networks inferred from series, by back-propagation through time",
        "dynamics",
        Paper(
            "Backpropagation on Dynamical Networks",
            "Eugene Tan, Débora Corrêa, Thomas Stemler, Michael Small",
            2022,
            "2207.03093",
            """@article{tan2022backpropagation,
  title   = {Backpropagation on Dynamical Networks},
  author  = {Tan, Eugene and Corrêa, Débora and Stemler, Thomas and Small, Michael},
  journal = {arXiv preprint arXiv:2207.03093},
  year    = {2022}
}""",
        ),
        "beyondprop.dynamics.inference:NetworkInference",
        "network_inference",
        network_inference.RECIPES,
        quick="lorenz-5",
    ),
)
