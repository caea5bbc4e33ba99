"""beyondprop: train neural networks with the learning rules that come after plain back-propagation.

Names are loaded when they are first used, so that `import beyondprop` (and the command line's help) needs no torch.
"""

from typing import TYPE_CHECKING

from beyondprop.lazy import lazy_names

if TYPE_CHECKING:
    from beyondprop.dynamics.inference import NetworkInference
    from beyondprop.errors import DeviceError, NonFiniteError, UnsupportedNetworkError, UserError
    from beyondprop.estimators import RuleClassifier, SolverClassifier, ThresholdClassifier
    from beyondprop.layers.quaternion import QLSTM, QRNN, QuaternionConv2d, QuaternionLinear, to_quaternion
    from beyondprop.layers.sparse import (
        DynamicSparseTraining,
        GradualPruning,
        SparseConv2d,
        SparseLinear,
        prune,
        sparsify,
        to_sparse,
    )
    from beyondprop.layers.spiking.encoders import LatencyEncoder, PoissonEncoder, PopulationEncoder
    from beyondprop.layers.spiking.linear import SpikingLinear
    from beyondprop.layers.spiking.readouts import FirstSpike, FirstSpikeLoss, SpikeCount, SpikeCountLoss
    from beyondprop.point_processes import GCHP, HawkesMLE
    from beyondprop.rule import Rule
    from beyondprop.rules.local.cascaded_feedback import CascadedForwardDFA
    from beyondprop.rules.local.cascaded_forward import CascadedForward
    from beyondprop.rules.local.class_channels import ClassChannels
    from beyondprop.rules.local.forward_forward import ForwardForward
    from beyondprop.rules.local.label_input import ClassPattern, Overlay
    from beyondprop.rules.local.linear_predictor import LinearPredictor
    from beyondprop.rules.local.local_losses import LocalLosses
    from beyondprop.rules.local.mono_forward import MonoForward
    from beyondprop.rules.local.noprop import (
        ClassEmbedding,
        DenoisingBlock,
        DiscreteSchedule,
        LearnedSchedule,
        NoPropCT,
        NoPropDT,
        NoPropFM,
        TimedBlock,
        cosine_schedule,
    )
    from beyondprop.rules.local.predsim import PredSim
    from beyondprop.rules.local.symba import SymBa
    from beyondprop.rules.perturbation.analog import AnalogMultiplexedGradientDescent
    from beyondprop.rules.perturbation.chip import ChipMGD
    from beyondprop.rules.perturbation.forward_gradient import ForwardGradient
    from beyondprop.rules.perturbation.layerwise import LayerwisePerturbation
    from beyondprop.rules.perturbation.local_forward_gradient import LocalForwardGradient
    from beyondprop.rules.perturbation.multiplexed import MultiplexedGradientDescent
    from beyondprop.rules.perturbation.node_perturbation import NodePerturbation
    from beyondprop.rules.perturbation.update_noise import add_update_noise
    from beyondprop.rules.relaxation.asymmetric import AsymmetricNetwork
    from beyondprop.rules.relaxation.convergent import ConvergentNetwork
    from beyondprop.rules.relaxation.equilibrium import EquilibriumPropagation
    from beyondprop.rules.relaxation.hamiltonian import HamiltonianSystem
    from beyondprop.rules.relaxation.hamiltonian_echo import HamiltonianEcho
    from beyondprop.rules.relaxation.recurrent_echo import RecurrentEcho
    from beyondprop.rules.relaxation.settling import PrimitiveNetwork
    from beyondprop.rules.relaxation.through_settling import BackpropThroughSettling
    from beyondprop.rules.signals.backprop import Backprop
    from beyondprop.rules.signals.consequential import BPC
    from beyondprop.rules.signals.direct_feedback import DFA, DirectKolenPollack, SignDFA
    from beyondprop.rules.signals.direct_target_propagation import DDTP
    from beyondprop.rules.signals.feedback_alignment import FeedbackAlignment, KolenPollack, SignSymmetry
    from beyondprop.rules.signals.gauss_newton import GaussNewtonTargets
    from beyondprop.rules.signals.l_drl import LDRL
    from beyondprop.rules.signals.learned_inversion import TPTT
    from beyondprop.rules.signals.proxprop import ProxProp
    from beyondprop.rules.signals.quaternion import QuaternionBackprop
    from beyondprop.rules.signals.regularized_inversion import TPRI
    from beyondprop.rules.signals.semi_implicit import SemiImplicit
    from beyondprop.rules.signals.sparseprop import SparseProp
    from beyondprop.rules.signals.spike_timing import SpikeTiming
    from beyondprop.rules.signals.target_projection import DRTP, TPSGD
    from beyondprop.rules.signals.target_propagation import DTP, DTPDR
    from beyondprop.solver import Solver
    from beyondprop.solvers.cascaded_forward import CascadedLeastSquares
    from beyondprop.solvers.rescnet.network import ResCNet
    from beyondprop.solvers.rescnet.pcanet import PCANet
    from beyondprop.solvers.threshold.network import ThresholdNetwork
    from beyondprop.training import evaluate, fit, load_exported

__version__ = "0.1.0"

_HOME = {
    "AnalogMultiplexedGradientDescent": "rules.perturbation.analog",
    "AsymmetricNetwork": "rules.relaxation.asymmetric",
    "BPC": "rules.signals.consequential",
    "Backprop": "rules.signals.backprop",
    "BackpropThroughSettling": "rules.relaxation.through_settling",
    "CascadedForward": "rules.local.cascaded_forward",
    "CascadedForwardDFA": "rules.local.cascaded_feedback",
    "CascadedLeastSquares": "solvers.cascaded_forward",
    "ChipMGD": "rules.perturbation.chip",
    "ClassChannels": "rules.local.class_channels",
    "ClassEmbedding": "rules.local.noprop",
    "ClassPattern": "rules.local.label_input",
    "ConvergentNetwork": "rules.relaxation.convergent",
    "DDTP": "rules.signals.direct_target_propagation",
    "DFA": "rules.signals.direct_feedback",
    "DRTP": "rules.signals.target_projection",
    "DTP": "rules.signals.target_propagation",
    "DTPDR": "rules.signals.target_propagation",
    "DenoisingBlock": "rules.local.noprop",
    "DeviceError": "errors",
    "DirectKolenPollack": "rules.signals.direct_feedback",
    "DiscreteSchedule": "rules.local.noprop",
    "DynamicSparseTraining": "layers.sparse",
    "EquilibriumPropagation": "rules.relaxation.equilibrium",
    "FeedbackAlignment": "rules.signals.feedback_alignment",
    "FirstSpike": "layers.spiking.readouts",
    "FirstSpikeLoss": "layers.spiking.readouts",
    "ForwardForward": "rules.local.forward_forward",
    "ForwardGradient": "rules.perturbation.forward_gradient",
    "GCHP": "point_processes.gchp",
    "GaussNewtonTargets": "rules.signals.gauss_newton",
    "GradualPruning": "layers.sparse",
    "HawkesMLE": "point_processes.hawkes",
    "HamiltonianEcho": "rules.relaxation.hamiltonian_echo",
    "HamiltonianSystem": "rules.relaxation.hamiltonian",
    "KolenPollack": "rules.signals.feedback_alignment",
    "LDRL": "rules.signals.l_drl",
    "LatencyEncoder": "layers.spiking.encoders",
    "LayerwisePerturbation": "rules.perturbation.layerwise",
    "LearnedSchedule": "rules.local.noprop",
    "LinearPredictor": "rules.local.linear_predictor",
    "LocalForwardGradient": "rules.perturbation.local_forward_gradient",
    "LocalLosses": "rules.local.local_losses",
    "MonoForward": "rules.local.mono_forward",
    "MultiplexedGradientDescent": "rules.perturbation.multiplexed",
    "NoPropCT": "rules.local.noprop",
    "NoPropDT": "rules.local.noprop",
    "NoPropFM": "rules.local.noprop",
    "NodePerturbation": "rules.perturbation.node_perturbation",
    "NetworkInference": "dynamics.inference",
    "NonFiniteError": "errors",
    "Overlay": "rules.local.label_input",
    "PoissonEncoder": "layers.spiking.encoders",
    "PopulationEncoder": "layers.spiking.encoders",
    "PCANet": "solvers.rescnet.pcanet",
    "PredSim": "rules.local.predsim",
    "PrimitiveNetwork": "rules.relaxation.settling",
    "ProxProp": "rules.signals.proxprop",
    "QLSTM": "layers.quaternion",
    "QRNN": "layers.quaternion",
    "QuaternionBackprop": "rules.signals.quaternion",
    "QuaternionConv2d": "layers.quaternion",
    "QuaternionLinear": "layers.quaternion",
    "RecurrentEcho": "rules.relaxation.recurrent_echo",
    "ResCNet": "solvers.rescnet.network",
    "Rule": "rule",
    "RuleClassifier": "estimators",
    "SemiImplicit": "rules.signals.semi_implicit",
    "SignDFA": "rules.signals.direct_feedback",
    "SignSymmetry": "rules.signals.feedback_alignment",
    "Solver": "solver",
    "SolverClassifier": "estimators",
    "SparseConv2d": "layers.sparse",
    "SparseLinear": "layers.sparse",
    "SparseProp": "rules.signals.sparseprop",
    "SpikeCount": "layers.spiking.readouts",
    "SpikeCountLoss": "layers.spiking.readouts",
    "SpikeTiming": "rules.signals.spike_timing",
    "SpikingLinear": "layers.spiking.linear",
    "SymBa": "rules.local.symba",
    "TPRI": "rules.signals.regularized_inversion",
    "TPSGD": "rules.signals.target_projection",
    "TPTT": "rules.signals.learned_inversion",
    "ThresholdClassifier": "estimators",
    "ThresholdNetwork": "solvers.threshold.network",
    "TimedBlock": "rules.local.noprop",
    "UnsupportedNetworkError": "errors",
    "UserError": "errors",
    "add_update_noise": "rules.perturbation.update_noise",
    "cosine_schedule": "rules.local.noprop",
    "evaluate": "training",
    "fit": "training",
    "load_exported": "training",
    "prune": "layers.sparse",
    "sparsify": "layers.sparse",
    "to_sparse": "layers.sparse",
    "to_quaternion": "layers.quaternion",
}

__all__ = [
    "BPC",
    "DDTP",
    "DFA",
    "DRTP",
    "DTP",
    "DTPDR",
    "GCHP",
    "LDRL",
    "QLSTM",
    "QRNN",
    "TPRI",
    "TPSGD",
    "TPTT",
    "AnalogMultiplexedGradientDescent",
    "AsymmetricNetwork",
    "Backprop",
    "BackpropThroughSettling",
    "CascadedForward",
    "CascadedForwardDFA",
    "CascadedLeastSquares",
    "ChipMGD",
    "ClassChannels",
    "ClassEmbedding",
    "ClassPattern",
    "ConvergentNetwork",
    "DenoisingBlock",
    "DeviceError",
    "DirectKolenPollack",
    "DiscreteSchedule",
    "DynamicSparseTraining",
    "EquilibriumPropagation",
    "FeedbackAlignment",
    "FirstSpike",
    "FirstSpikeLoss",
    "ForwardForward",
    "ForwardGradient",
    "GaussNewtonTargets",
    "GradualPruning",
    "HamiltonianEcho",
    "HamiltonianSystem",
    "HawkesMLE",
    "KolenPollack",
    "LatencyEncoder",
    "LayerwisePerturbation",
    "LearnedSchedule",
    "LinearPredictor",
    "LocalForwardGradient",
    "LocalLosses",
    "MonoForward",
    "MultiplexedGradientDescent",
    "NetworkInference",
    "NoPropCT",
    "NoPropDT",
    "NoPropFM",
    "NodePerturbation",
    "NonFiniteError",
    "Overlay",
    "PCANet",
    "PoissonEncoder",
    "PopulationEncoder",
    "PredSim",
    "PrimitiveNetwork",
    "ProxProp",
    "QuaternionBackprop",
    "QuaternionConv2d",
    "QuaternionLinear",
    "RecurrentEcho",
    "ResCNet",
    "Rule",
    "RuleClassifier",
    "SemiImplicit",
    "SignDFA",
    "SignSymmetry",
    "Solver",
    "SolverClassifier",
    "SparseConv2d",
    "SparseLinear",
    "SparseProp",
    "SpikeCount",
    "SpikeCountLoss",
    "SpikeTiming",
    "SpikingLinear",
    "SymBa",
    "ThresholdClassifier",
    "ThresholdNetwork",
    "TimedBlock",
    "UnsupportedNetworkError",
    "UserError",
    "add_update_noise",
    "cosine_schedule",
    "evaluate",
    "fit",
    "load_exported",
    "prune",
    "sparsify",
    "to_quaternion",
    "to_sparse",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
