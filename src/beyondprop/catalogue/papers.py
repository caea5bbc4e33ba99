"""Papers that several systems come from."""

from __future__ import annotations

from beyondprop.catalogue.system import Paper

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
