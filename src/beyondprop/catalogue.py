"""The catalogue: one entry a system, from which the command line, the tables and the common tests are made.

Nothing here imports torch: a system's class is imported by `System.load`, a recipe's experiment by its build function.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beyondprop.checks import closest, suggestion
from beyondprop.errors import UserError
from beyondprop.recipe import Recipe
from beyondprop.recipes import (
    backprop,
    cascaded_forward,
    chip,
    compared,
    consequential,
    direct_feedback,
    equilibrium,
    feedback_alignment,
    forward_forward,
    forward_gradient,
    gauss_newton,
    hamiltonian_echo,
    l_drl,
    local_forward_gradient,
    local_losses,
    multiplexed,
    network_inference,
    node_perturbation,
    point_processes,
    quaternion,
    recurrent_echo,
    regularized_inversion,
    rescnet,
    semi_implicit,
    sparseprop,
    spike_timing,
    student_teacher,
    target_projection,
    target_propagation,
    threshold,
)
from beyondprop.recipes.noprop import continuous as noprop_ct
from beyondprop.recipes.noprop import discrete as noprop_dt
from beyondprop.recipes.noprop import flow as noprop_fm

if TYPE_CHECKING:
    from beyondprop.rule import Rule
    from beyondprop.solver import Solver


@dataclass(frozen=True)
class Paper:
    """Where a system was published."""

    title: str
    authors: str
    year: int
    arxiv: str | None
    bibtex: str
    doi: str | None = None
    page: str | None = None

    @property
    def url(self) -> str | None:
        """The paper's page: arXiv's where it has one, or that of its DOI, or `page`."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else self.page


@dataclass(frozen=True)
class System:
    """One learning rule or solver, as its paper describes it.

    Args:
        id: Short name, the first part of its recipes' ids.
        name: Full name.
        family: How it assigns credit: signals, local, perturbation, relaxation; or solvers.
        paper: Where it was published.
        rule: `module:Class` of a `Rule` or `Solver`.
        recipes: Its experiments.
        quick: Variant of the recipe that trains in seconds with nothing to download.
    """

    id: str
    name: str
    family: str
    paper: Paper
    rule: str
    recipes: tuple[Recipe, ...]
    quick: str = "digits"

    def load(self) -> type[Rule] | type[Solver]:
        """Import the class."""
        module, name = self.rule.split(":")
        loaded: type[Rule] | type[Solver] = getattr(importlib.import_module(module), name)
        return loaded


NOPROP = Paper(
    "NoProp: Training Neural Networks without Back-propagation or Forward-propagation",
    "Qinyu Li, Yee Whye Teh, Razvan Pascanu",
    2025,
    "2503.24322",
    """@article{li2025noprop,
  title   = {{NoProp}: Training Neural Networks without Back-propagation or Forward-propagation},
  author  = {Li, Qinyu and Teh, Yee Whye and Pascanu, Razvan},
  journal = {arXiv preprint arXiv:2503.24322},
  year    = {2025}
}""",
)

FRENKEL = Paper(
    "Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward Training of Deep Neural Networks",
    "Charlotte Frenkel, Martin Lefebvre, David Bol",
    2021,
    "1909.01311",
    """@article{frenkel2021learning,
  title   = {Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward Training of Deep Neural
             Networks},
  author  = {Frenkel, Charlotte and Lefebvre, Martin and Bol, David},
  journal = {Frontiers in Neuroscience},
  volume  = {15},
  number  = {629892},
  year    = {2021}
}""",
)

REN = Paper(
    "Scaling Forward Gradient With Local Losses",
    "Mengye Ren, Simon Kornblith, Renjie Liao, Geoffrey Hinton",
    2023,
    "2210.03310",
    """@inproceedings{ren2023scaling,
  title     = {Scaling Forward Gradient With Local Losses},
  author    = {Ren, Mengye and Kornblith, Simon and Liao, Renjie and Hinton, Geoffrey},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}""",
)

CAFO = Paper(
    "The Cascaded Forward Algorithm for Neural Network Training",
    "Gongpei Zhao, Tao Wang, Yidong Li, Yi Jin, Congyan Lang, Haibin Ling",
    2023,
    "2303.09728",
    """@article{zhao2023cascaded,
  title   = {The Cascaded Forward Algorithm for Neural Network Training},
  author  = {Zhao, Gongpei and Wang, Tao and Li, Yidong and Jin, Yi and Lang, Congyan and Ling, Haibin},
  journal = {arXiv preprint arXiv:2303.09728},
  year    = {2023}
}""",
)

MEULEMANS = Paper(
    "A Theoretical Framework for Target Propagation",
    "Alexander Meulemans, Francesco S. Carzaniga, Johan A.K. Suykens, João Sacramento, Benjamin F. Grewe",
    2020,
    "2006.14331",
    """@inproceedings{meulemans2020theoretical,
  title     = {A Theoretical Framework for Target Propagation},
  author    = {Meulemans, Alexander and Carzaniga, Francesco S. and Suykens, Johan A. K. and Sacramento, João and
               Grewe, Benjamin F.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
)

SYSTEMS: tuple[System, ...] = (
    System(
        "bp",
        "Back-propagation",
        "signals",
        Paper(
            "Learning representations by back-propagating errors",
            "David E. Rumelhart, Geoffrey E. Hinton, Ronald J. Williams",
            1986,
            None,
            """@article{rumelhart1986learning,
  title   = {Learning representations by back-propagating errors},
  author  = {Rumelhart, David E. and Hinton, Geoffrey E. and Williams, Ronald J.},
  journal = {Nature},
  volume  = {323},
  number  = {6088},
  pages   = {533--536},
  year    = {1986},
  doi     = {10.1038/323533a0}
}""",
            doi="10.1038/323533a0",
        ),
        "beyondprop.rules.signals.backprop:Backprop",
        (
            *backprop.RECIPES,
            *forward_forward.BASELINES,
            *cascaded_forward.BASELINES,
            *local_losses.BASELINES,
            *target_propagation.BASELINES,
            *l_drl.BASELINES,
            *student_teacher.BP,
            *multiplexed.BASELINES,
            *equilibrium.BASELINES,
            *sparseprop.BASELINES,
            *quaternion.BASELINES,
        ),
    ),
    System(
        "fa",
        "Feedback alignment",
        "signals",
        Paper(
            "Random synaptic feedback weights support error backpropagation for deep learning",
            "Timothy P. Lillicrap, Daniel Cownden, Douglas B. Tweed, Colin J. Akerman",
            2016,
            "1411.0247",
            """@article{lillicrap2016random,
  title   = {Random synaptic feedback weights support error backpropagation for deep learning},
  author  = {Lillicrap, Timothy P. and Cownden, Daniel and Tweed, Douglas B. and Akerman, Colin J.},
  journal = {Nature Communications},
  volume  = {7},
  number  = {13276},
  year    = {2016}
}""",
        ),
        "beyondprop.rules.signals.feedback_alignment:FeedbackAlignment",
        feedback_alignment.FA,
    ),
    System(
        "dfa",
        "Direct feedback alignment",
        "signals",
        Paper(
            "Direct Feedback Alignment Provides Learning in Deep Neural Networks",
            "Arild Nøkland",
            2016,
            "1609.01596",
            """@inproceedings{nokland2016direct,
  title     = {Direct Feedback Alignment Provides Learning in Deep Neural Networks},
  author    = {Nøkland, Arild},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2016}
}""",
        ),
        "beyondprop.rules.signals.direct_feedback:DFA",
        direct_feedback.DFA,
    ),
    System(
        "sdfa",
        "Direct feedback alignment by the error's sign",
        "signals",
        FRENKEL,
        "beyondprop.rules.signals.direct_feedback:SignDFA",
        direct_feedback.SIGN_DFA,
    ),
    System(
        "sign-symmetry",
        "Sign-symmetric feedback (uSF, frSF, brSF)",
        "signals",
        Paper(
            "How Important is Weight Symmetry in Backpropagation?",
            "Qianli Liao, Joel Z. Leibo, Tomaso Poggio",
            2016,
            "1510.05067",
            """@inproceedings{liao2016how,
  title     = {How Important is Weight Symmetry in Backpropagation?},
  author    = {Liao, Qianli and Leibo, Joel Z. and Poggio, Tomaso},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2016}
}""",
        ),
        "beyondprop.rules.signals.feedback_alignment:SignSymmetry",
        feedback_alignment.SIGN_SYMMETRY,
    ),
    System(
        "kolen-pollack",
        "Kolen-Pollack: feedback learned beside the weights",
        "signals",
        Paper(
            "Deep Learning without Weight Transport",
            "Mohamed Akrout, Collin Wilson, Peter C. Humphreys, Timothy Lillicrap, Douglas B. Tweed",
            2019,
            "1904.05391",
            """@inproceedings{akrout2019deep,
  title     = {Deep Learning without Weight Transport},
  author    = {Akrout, Mohamed and Wilson, Collin and Humphreys, Peter C. and Lillicrap, Timothy and Tweed, Douglas B.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
        ),
        "beyondprop.rules.signals.feedback_alignment:KolenPollack",
        feedback_alignment.KOLEN_POLLACK,
    ),
    System(
        "direct-kolen-pollack",
        "Direct Kolen-Pollack: direct feedback learned beside the weights",
        "signals",
        Paper(
            "Learning the Connections in Direct Feedback Alignment",
            "Matthew Bailey Webster, Jonghyun Choi, Changwook Ahn",
            2020,
            None,
            """@misc{webster2020learning,
  title  = {Learning the Connections in Direct Feedback Alignment},
  author = {Webster, Matthew Bailey and Choi, Jonghyun and Ahn, Changwook},
  year   = {2020},
  url    = {https://openreview.net/forum?id=zgGmAx9ZcY}
}""",
            page="https://openreview.net/forum?id=zgGmAx9ZcY",
        ),
        "beyondprop.rules.signals.direct_feedback:DirectKolenPollack",
        direct_feedback.DIRECT_KOLEN_POLLACK,
    ),
    System(
        "drtp",
        "Direct random target projection",
        "signals",
        FRENKEL,
        "beyondprop.rules.signals.target_projection:DRTP",
        target_projection.DRTP,
    ),
    System(
        "tpsgd",
        "Target projection stochastic gradient descent",
        "signals",
        Paper(
            "Learning with Local Gradients at the Edge",
            "Michael Lomnitz, Zachary Daniels, David Zhang, Michael Piacentino",
            2022,
            "2208.08503",
            """@article{lomnitz2022learning,
  title   = {Learning with Local Gradients at the Edge},
  author  = {Lomnitz, Michael and Daniels, Zachary and Zhang, David and Piacentino, Michael},
  journal = {arXiv preprint arXiv:2208.08503},
  year    = {2022}
}""",
        ),
        "beyondprop.rules.signals.target_projection:TPSGD",
        target_projection.TPSGD,
    ),
    System(
        "dtp",
        "Difference target propagation",
        "signals",
        Paper(
            "Difference Target Propagation",
            "Dong-Hyun Lee, Saizheng Zhang, Asja Fischer, Yoshua Bengio",
            2015,
            "1412.7525",
            """@inproceedings{lee2015difference,
  title     = {Difference Target Propagation},
  author    = {Lee, Dong-Hyun and Zhang, Saizheng and Fischer, Asja and Bengio, Yoshua},
  booktitle = {Machine Learning and Knowledge Discovery in Databases},
  year      = {2015}
}""",
        ),
        "beyondprop.rules.signals.target_propagation:DTP",
        (*target_propagation.DTP, *student_teacher.DTP),
    ),
    System(
        "dtpdr",
        "Difference target propagation with difference reconstruction",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.target_propagation:DTPDR",
        (*target_propagation.DTPDR, *student_teacher.DTPDR),
    ),
    System(
        "ddtp",
        "Direct difference target propagation",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.direct_target_propagation:DDTP",
        (*target_propagation.DDTP, *student_teacher.DDTP),
    ),
    System(
        "gauss-newton",
        "Exact Gauss-Newton targets",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.gauss_newton:GaussNewtonTargets",
        (*gauss_newton.RECIPES, *student_teacher.GAUSS_NEWTON),
    ),
    System(
        "l-drl",
        "Layer-local difference reconstruction (L-DRL)",
        "signals",
        Paper(
            "Towards Scaling Difference Target Propagation by Learning Backprop Targets",
            "Maxence Ernoult, Fabrice Normandin, Abhinav Moudgil, Sean Spinney, Eugene Belilovsky, Irina Rish, "
            "Blake Richards, Yoshua Bengio",
            2022,
            "2201.13415",
            """@inproceedings{ernoult2022towards,
  title     = {Towards Scaling Difference Target Propagation by Learning Backprop Targets},
  author    = {Ernoult, Maxence and Normandin, Fabrice and Moudgil, Abhinav and Spinney, Sean and Belilovsky, Eugene and
               Rish, Irina and Richards, Blake and Bengio, Yoshua},
  booktitle = {International Conference on Machine Learning},
  year      = {2022}
}""",
        ),
        "beyondprop.rules.signals.l_drl:LDRL",
        l_drl.RECIPES,
    ),
    System(
        "bpc",
        "Consequential updates (BPC)",
        "signals",
        Paper(
            "Improving the Backpropagation Algorithm with Consequentialism Weight Updates over Mini-Batches",
            "Naeem Paeedeh, Kamaledin Ghiasi-Shirazi",
            2021,
            "2003.05164",
            """@article{paeedeh2021improving,
  title   = {Improving the Backpropagation Algorithm with Consequentialism Weight Updates over Mini-Batches},
  author  = {Paeedeh, Naeem and Ghiasi-Shirazi, Kamaledin},
  journal = {Neurocomputing},
  volume  = {461},
  pages   = {86--98},
  year    = {2021}
}""",
        ),
        "beyondprop.rules.signals.consequential:BPC",
        consequential.BPC,
    ),
    System(
        "semi-implicit",
        "Semi-implicit back-propagation",
        "signals",
        Paper(
            "Semi-Implicit Back Propagation",
            "Ren Liu, Xiaoqun Zhang",
            2020,
            "2002.03516",
            """@article{liu2020semi,
  title   = {Semi-Implicit Back Propagation},
  author  = {Liu, Ren and Zhang, Xiaoqun},
  journal = {arXiv preprint arXiv:2002.03516},
  year    = {2020}
}""",
        ),
        "beyondprop.rules.signals.semi_implicit:SemiImplicit",
        semi_implicit.RECIPES,
    ),
    System(
        "proxprop",
        "Proximal back-propagation",
        "signals",
        Paper(
            "Proximal Backpropagation",
            "Thomas Frerix, Thomas Möllenhoff, Michael Moeller, Daniel Cremers",
            2018,
            "1706.04638",
            """@inproceedings{frerix2018proximal,
  title     = {Proximal Backpropagation},
  author    = {Frerix, Thomas and Möllenhoff, Thomas and Moeller, Michael and Cremers, Daniel},
  booktitle = {International Conference on Learning Representations},
  year      = {2018}
}""",
        ),
        "beyondprop.rules.signals.proxprop:ProxProp",
        consequential.PROXPROP,
    ),
    System(
        "noprop-dt",
        "NoProp in discrete time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropDT",
        noprop_dt.RECIPES,
    ),
    System(
        "noprop-ct",
        "NoProp in continuous time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropCT",
        noprop_ct.RECIPES,
    ),
    System(
        "noprop-fm",
        "NoProp by flow matching",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropFM",
        noprop_fm.RECIPES,
    ),
    System(
        "ff",
        "Forward-Forward",
        "local",
        Paper(
            "The Forward-Forward Algorithm: Some Preliminary Investigations",
            "Geoffrey Hinton",
            2022,
            "2212.13345",
            """@article{hinton2022forward,
  title   = {The Forward-Forward Algorithm: Some Preliminary Investigations},
  author  = {Hinton, Geoffrey},
  journal = {arXiv preprint arXiv:2212.13345},
  year    = {2022}
}""",
        ),
        "beyondprop.rules.local.forward_forward:ForwardForward",
        forward_forward.FF,
    ),
    System(
        "symba",
        "SymBa",
        "local",
        Paper(
            "SymBa: Symmetric Backpropagation-Free Contrastive Learning with Forward-Forward Algorithm for Optimizing "
            "Convergence",
            "Heung-Chang Lee, Jeonggeun Song",
            2023,
            "2303.08418",
            """@article{lee2023symba,
  title   = {{SymBa}: Symmetric Backpropagation-Free Contrastive Learning with Forward-Forward Algorithm for Optimizing
             Convergence},
  author  = {Lee, Heung-Chang and Song, Jeonggeun},
  journal = {arXiv preprint arXiv:2303.08418},
  year    = {2023}
}""",
        ),
        "beyondprop.rules.local.symba:SymBa",
        forward_forward.SYMBA,
    ),
    System(
        "cafo",
        "Cascaded Forward, random blocks",
        "local",
        CAFO,
        "beyondprop.rules.local.cascaded_forward:CascadedForward",
        cascaded_forward.RANDOM,
    ),
    System(
        "cafo-dfa",
        "Cascaded Forward, blocks by direct feedback",
        "local",
        CAFO,
        "beyondprop.rules.local.cascaded_feedback:CascadedForwardDFA",
        cascaded_forward.FEEDBACK,
    ),
    System(
        "mono-forward",
        "Mono-Forward",
        "local",
        Paper(
            "Mono-Forward: Backpropagation-Free Algorithm for Efficient Neural Network Training Harnessing Local "
            "Errors",
            "James Gong, Bruce Li, Waleed Abdulla",
            2025,
            "2501.09238",
            """@article{gong2025mono,
  title   = {{Mono-Forward}: Backpropagation-Free Algorithm for Efficient Neural Network Training Harnessing Local
             Errors},
  author  = {Gong, James and Li, Bruce and Abdulla, Waleed},
  journal = {arXiv preprint arXiv:2501.09238},
  year    = {2025}
}""",
        ),
        "beyondprop.rules.local.mono_forward:MonoForward",
        local_losses.MONO_FORWARD,
    ),
    System(
        "predsim",
        "Local prediction and similarity losses",
        "local",
        Paper(
            "Training Neural Networks with Local Error Signals",
            "Arild Nøkland, Lars Hiller Eidnes",
            2019,
            "1901.06656",
            """@inproceedings{nokland2019training,
  title     = {Training Neural Networks with Local Error Signals},
  author    = {Nøkland, Arild and Eidnes, Lars Hiller},
  booktitle = {International Conference on Machine Learning},
  year      = {2019}
}""",
        ),
        "beyondprop.rules.local.predsim:PredSim",
        local_losses.PRED_SIM,
    ),
    System(
        "cwcomp",
        "Channel-wise competitive learning",
        "local",
        Paper(
            "Convolutional Channel-wise Competitive Learning for the Forward-Forward Algorithm",
            "Andreas Papachristodoulou, Christos Kyrkou, Stelios Timotheou, Theocharis Theocharides",
            2024,
            "2312.12668",
            """@inproceedings{papachristodoulou2024convolutional,
  title     = {Convolutional Channel-wise Competitive Learning for the Forward-Forward Algorithm},
  author    = {Papachristodoulou, Andreas and Kyrkou, Christos and Timotheou, Stelios and Theocharides, Theocharis},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2024},
  doi       = {10.1609/aaai.v38i13.29369}
}""",
        ),
        "beyondprop.rules.local.class_channels:ClassChannels",
        local_losses.CLASS_CHANNELS,
    ),
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
        multiplexed.RECIPES + chip.RECIPES,
    ),
    System(
        "forward-gradient",
        "Forward gradient of weights and activities",
        "perturbation",
        REN,
        "beyondprop.rules.perturbation.forward_gradient:ForwardGradient",
        forward_gradient.RECIPES,
    ),
    System(
        "local-forward-gradient",
        "Forward gradient of local losses",
        "perturbation",
        REN,
        "beyondprop.rules.perturbation.local_forward_gradient:LocalForwardGradient",
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
        node_perturbation.RECIPES,
    ),
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
        sparseprop.RECIPES,
    ),
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
        hamiltonian_echo.RECIPES,
    ),
    System(
        "tp-ri",
        "Target propagation via regularized inversion",
        "signals",
        Paper(
            "Target Propagation via Regularized Inversion for Recurrent Neural Networks",
            "Vincent Roulet, Zaid Harchaoui",
            2023,
            "2112.01453",
            """@article{roulet2023target,
  title   = {Target Propagation via Regularized Inversion for Recurrent Neural Networks},
  author  = {Roulet, Vincent and Harchaoui, Zaid},
  journal = {Transactions on Machine Learning Research},
  year    = {2023}
}""",
        ),
        "beyondprop.rules.signals.regularized_inversion:TPRI",
        regularized_inversion.RECIPES,
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
        equilibrium.RECIPES,
    ),
    System(
        "tptt",
        "Target propagation through time",
        "signals",
        Paper(
            "Target Propagation in Recurrent Neural Networks",
            "Nikolay Manchev, Michael Spratling",
            2020,
            None,
            """@article{manchev2020target,
  title   = {Target Propagation in Recurrent Neural Networks},
  author  = {Manchev, Nikolay and Spratling, Michael},
  journal = {Journal of Machine Learning Research},
  volume  = {21},
  number  = {7},
  pages   = {1--33},
  year    = {2020}
}""",
            page="https://jmlr.org/papers/v21/",
        ),
        "beyondprop.rules.signals.learned_inversion:TPTT",
        regularized_inversion.LEARNED_RECIPES,
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
        recurrent_echo.RECIPES,
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
        spike_timing.RECIPES,
    ),
    System(
        "rescnet",
        "Residual compensation by fitted layers (ResCNet)",
        "solvers",
        Paper(
            "Deep Residual Compensation Convolutional Network without Backpropagation",
            "Mubarakah Alotaibi, Richard C. Wilson",
            2023,
            "2301.11663",
            """@inproceedings{alotaibi2023deep,
  title     = {Deep Residual Compensation Convolutional Network without Backpropagation},
  author    = {Alotaibi, Mubarakah and Wilson, Richard C.},
  booktitle = {International Joint Conference on Neural Networks},
  year      = {2023}
}""",
        ),
        "beyondprop.solvers.rescnet.network:ResCNet",
        rescnet.RESCNET,
    ),
    System(
        "pcanet",
        "Principal components, hashed (PCANet)",
        "solvers",
        Paper(
            "PCANet: A Simple Deep Learning Baseline for Image Classification?",
            "Tsung-Han Chan, Kui Jia, Shenghua Gao, Jiwen Lu, Zinan Zeng, Yi Ma",
            2015,
            "1404.3606",
            """@article{chan2015pcanet,
  title   = {{PCANet}: A Simple Deep Learning Baseline for Image Classification?},
  author  = {Chan, Tsung-Han and Jia, Kui and Gao, Shenghua and Lu, Jiwen and Zeng, Zinan and Ma, Yi},
  journal = {IEEE Transactions on Image Processing},
  volume  = {24},
  number  = {12},
  pages   = {5017--5032},
  year    = {2015}
}""",
        ),
        "beyondprop.solvers.rescnet.pcanet:PCANet",
        rescnet.PCANET,
    ),
    System(
        "threshold",
        "Threshold networks by convex programs",
        "solvers",
        Paper(
            "Globally Optimal Training of Neural Networks with Threshold Activation Functions",
            "Tolga Ergen, Halil Ibrahim Gulluk, Jonathan Lacotte, Mert Pilanci",
            2023,
            "2303.03382",
            """@inproceedings{ergen2023globally,
  title     = {Globally Optimal Training of Neural Networks with Threshold Activation Functions},
  author    = {Ergen, Tolga and Gulluk, Halil Ibrahim and Lacotte, Jonathan and Pilanci, Mert},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}""",
        ),
        "beyondprop.solvers.threshold.network:ThresholdNetwork",
        threshold.RECIPES,
    ),
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
        network_inference.RECIPES,
        quick="lorenz-5",
    ),
)


def find_system(system_id: str) -> System:
    """Find a system.

    Raises:
        UserError: No system has this id; the message names the closest.
    """
    for system in SYSTEMS:
        if system.id == system_id:
            return system
    known = [system.id for system in SYSTEMS]
    raise UserError(f"there is no system {system_id!r}{suggestion(system_id, known)} (known: {', '.join(known)})")


def compared_recipe(system: System, dataset: str, network: str = "mlp") -> Recipe:
    """Make the recipe of a system on a data set and a network that other systems share: `SYSTEM/DATA-compared`.

    Raises:
        UserError: There is no such data set.
    """
    solver = system.family == "solvers"
    return compared.compared(system.id, system.rule, system.recipes, dataset, solver=solver, network=network)


def find_recipe(recipe_id: str) -> Recipe:
    """Find a recipe, one of the catalogue or `SYSTEM/DATA-compared`.

    Raises:
        UserError: No recipe has this id; the message names the closest, or those of the system that is named.
    """
    recipes = {recipe.id: recipe for system in SYSTEMS for recipe in system.recipes}
    if recipe_id in recipes:
        return recipes[recipe_id]
    if recipe_id.endswith(compared.SUFFIX):
        named, _, dataset = recipe_id.removesuffix(compared.SUFFIX).partition("/")
        return compared_recipe(find_system(named), dataset)
    named, slash, variant = recipe_id.lower().partition("/")
    named = {system.name.lower().replace(" ", "-"): system.id for system in SYSTEMS}.get(named, named)
    own = {recipe.id.partition("/")[2]: recipe.id for s in SYSTEMS for recipe in s.recipes if s.id == named}
    if own:
        found = closest(variant, own)
        hint = f"; did you mean {own[found]!r}?" if found else f": those of {named} are {', '.join(own.values())}"
    elif slash and closest(named, [system.id for system in SYSTEMS]) is None:
        hint = ""  # what is alike is the name of the data alone
    else:
        hint = suggestion(recipe_id, recipes)
    raise UserError(f"there is no recipe {recipe_id!r}{hint} (`beyondprop list` names them all)")
