"""Systems of layers with a backward pass of their own."""

from __future__ import annotations

from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import (
    quaternion,
    sparseprop,
    spike_timing,
)

SYSTEMS = (
    System(
        "sparseprop",
        "Sparse back-propagation",
        "signals",
        Paper(
            "SparseProp: Efficient Sparse Backpropagation for Faster Training of Neural Networks",
            "Mahdi Nikdan, Tommaso Pegolotti, Eugenia Iofinova, Eldar Kurtic, Dan Alistarh",
            2023,
            "2302.04852",
            """@inproceedings{nikdan2023sparseprop,
  title     = {{SparseProp}: Efficient Sparse Backpropagation for Faster Training of Neural Networks at the Edge},
  author    = {Nikdan, Mahdi and Pegolotti, Tommaso and Iofinova, Eugenia and Kurtic, Eldar and Alistarh, Dan},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}""",
        ),
        "beyondprop.rules.signals.sparseprop:SparseProp",
        "sparseprop",
        sparseprop.RECIPES,
    ),
    System(
        "quaternion",
        "Quaternion back-propagation by the GHR calculus",
        "signals",
        Paper(
            "Quaternion Backpropagation",
            "Johannes Pöppelbaum, Andreas Schwung",
            2022,
            "2212.13082",
            """@article{poppelbaum2022quaternion,
  title   = {Quaternion Backpropagation},
  author  = {Pöppelbaum, Johannes and Schwung, Andreas},
  journal = {arXiv preprint arXiv:2212.13082},
  year    = {2022}
}""",
        ),
        "beyondprop.rules.signals.quaternion:QuaternionBackprop",
        "quaternion",
        quaternion.RECIPES,
    ),
    System(
        "spike-timing",
        "Back-propagation through exact spike times",
        "signals",
        Paper(
            "Timing-Based Backpropagation in Spiking Neural Networks Without Single-Spike Restrictions",
            "Kakei Yamamoto, Yusuke Sakemi, Kazuyuki Aihara",
            2022,
            "2211.16113",
            """@article{yamamoto2022timing,
  title   = {Timing-Based Backpropagation in Spiking Neural Networks Without Single-Spike Restrictions},
  author  = {Yamamoto, Kakei and Sakemi, Yusuke and Aihara, Kazuyuki},
  journal = {arXiv preprint arXiv:2211.16113},
  year    = {2022}
}""",
        ),
        "beyondprop.rules.signals.spike_timing:SpikeTiming",
        "spike_timing",
        spike_timing.RECIPES,
    ),
)
