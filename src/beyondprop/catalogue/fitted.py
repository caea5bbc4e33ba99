"""Systems that are fitted, not stepped."""

from __future__ import annotations

from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import rescnet, threshold

SYSTEMS = (
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
        "rescnet",
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
        "rescnet",
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
        "threshold",
        threshold.RECIPES,
    ),
)
