"""Systems whose layers hear a target in the place of a gradient."""

from __future__ import annotations

from beyondprop.catalogue.papers import MEULEMANS
from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import (
    gauss_newton,
    l_drl,
    regularized_inversion,
    student_teacher,
    target_propagation,
)

SYSTEMS = (
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
        "target_propagation",
        (*target_propagation.DTP, *student_teacher.DTP),
    ),
    System(
        "dtpdr",
        "Difference target propagation with difference reconstruction",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.target_propagation:DTPDR",
        "target_propagation",
        (*target_propagation.DTPDR, *student_teacher.DTPDR),
    ),
    System(
        "ddtp",
        "Direct difference target propagation",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.direct_target_propagation:DDTP",
        "target_propagation",
        (*target_propagation.DDTP, *student_teacher.DDTP),
    ),
    System(
        "gauss-newton",
        "Exact Gauss-Newton targets",
        "signals",
        MEULEMANS,
        "beyondprop.rules.signals.gauss_newton:GaussNewtonTargets",
        "gauss_newton",
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
        "l_drl",
        l_drl.RECIPES,
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
        "regularized_inversion",
        regularized_inversion.RECIPES,
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
            page="https://jmlr.org/papers/v21/18-141.html",
        ),
        "beyondprop.rules.signals.learned_inversion:TPTT",
        "regularized_inversion",
        regularized_inversion.LEARNED_RECIPES,
    ),
)
