"""Systems whose blocks have objectives of their own."""

from __future__ import annotations

from beyondprop.catalogue.papers import CAFO, NOPROP
from beyondprop.catalogue.system import Paper, System
from beyondprop.recipes import cascaded_forward, forward_forward, local_losses
from beyondprop.recipes.noprop import continuous as noprop_ct
from beyondprop.recipes.noprop import discrete as noprop_dt
from beyondprop.recipes.noprop import flow as noprop_fm

SYSTEMS = (
    System(
        "noprop-dt",
        "NoProp in discrete time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropDT",
        "noprop",
        noprop_dt.RECIPES,
    ),
    System(
        "noprop-ct",
        "NoProp in continuous time",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropCT",
        "noprop-ct",
        noprop_ct.RECIPES,
    ),
    System(
        "noprop-fm",
        "NoProp by flow matching",
        "local",
        NOPROP,
        "beyondprop.rules.local.noprop:NoPropFM",
        "noprop-fm",
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
        "forward_forward",
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
        "forward_forward",
        forward_forward.SYMBA,
    ),
    System(
        "cafo",
        "Cascaded Forward, random blocks",
        "local",
        CAFO,
        "beyondprop.rules.local.cascaded_forward:CascadedForward",
        "cascaded_forward",
        cascaded_forward.RANDOM,
    ),
    System(
        "cafo-dfa",
        "Cascaded Forward, blocks by direct feedback",
        "local",
        CAFO,
        "beyondprop.rules.local.cascaded_feedback:CascadedForwardDFA",
        "cascaded_forward",
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
        "local_losses",
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
        "local_losses",
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
        "local_losses",
        local_losses.CLASS_CHANNELS,
    ),
)
