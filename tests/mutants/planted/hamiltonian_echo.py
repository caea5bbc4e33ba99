"""Planted defects of Hamiltonian echoes."""

from mutant import Mutant

RELAXATION = "rules/relaxation"
ECHO = ("tests/rules/relaxation/test_hamiltonian_echo.py",)
SYSTEM = ("tests/rules/relaxation/test_hamiltonian.py",)
PARTS = ("tests/rules/relaxation/test_parts.py",)
RECIPE = ("tests/recipes/test_recipes_hamiltonian_echo.py",)

MUTANTS = (
    Mutant(
        "heb: the error twice",
        f"{RELAXATION}/hamiltonian_echo.py",
        "free.grad * (terms / 2)",
        "free.grad * terms",
        ECHO,
    ),
    Mutant(
        "heb: pushed the other way",
        f"{RELAXATION}/hamiltonian_echo.py",
        "-= 1j * sign * error",
        "+= 1j * sign * error",
        ECHO,
    ),
    Mutant(
        "heb: pushed in phase", f"{RELAXATION}/hamiltonian_echo.py", "-= 1j * sign * error", "-= sign * error", ECHO
    ),
    Mutant(
        "heb: the learning field is not conjugated at the end",
        f"{RELAXATION}/hamiltonian_echo.py",
        "[..., system.psi_modes :].conj()",
        "[..., system.psi_modes :]",
        ECHO,
    ),
    Mutant(
        "heb: time is not reversed",
        f"{RELAXATION}/hamiltonian_echo.py",
        "pushed.conj().resolve_conj()",
        "pushed",
        ECHO,
    ),
    Mutant(
        "heb: the power that scores are shares of is held fixed",
        "layers/light.py",
        "self.gain / power.sum(",
        "self.gain / power.detach().sum(",
        ECHO,
    ),
    Mutant("heb: summed over the batch", f"{RELAXATION}/hamiltonian_echo.py", ".div_(terms)", "", ECHO),
    Mutant(
        "heb: divided by the batch twice",
        f"{RELAXATION}/hamiltonian_echo.py",
        "free.grad * (terms / 2)",
        "free.grad / 2",
        ECHO,
    ),
    Mutant(
        "heb: kicks of both echoes halved",
        f"{RELAXATION}/hamiltonian_echo.py",
        "return gained / signs[0]",
        "return gained / (2 * signs[0])",
        ECHO,
    ),
    Mutant(
        "heb: the displacement is forgotten",
        f"{RELAXATION}/hamiltonian_echo.py",
        "displaced += theta.real - start.real",
        "pass",
        ECHO,
    ),
    Mutant(
        "heb: the mass of the second echo is positive",
        f"{RELAXATION}/hamiltonian_echo.py",
        "math.copysign(self.mass, sign)",
        "self.mass",
        ECHO,
    ),
    Mutant(
        "heb: the second phase has the first one's sign",
        f"{RELAXATION}/hamiltonian_echo.py",
        '-chosen if phase == "-" else chosen',
        "chosen",
        ECHO,
    ),
    Mutant(
        "heb: a simple echo's rate is twice the machine's",
        f"{RELAXATION}/hamiltonian_echo.py",
        "(-2 * self.mass /",
        "(-1 * self.mass /",
        ECHO,
    ),
    Mutant(
        "heb: the limit is hard to reach",
        f"{RELAXATION}/hamiltonian_echo.py",
        "(distance / self.limit) ** 2",
        "(distance / self.limit) ** 4",
        ECHO,
    ),
    Mutant(
        "heb: friction takes all momentum",
        f"{RELAXATION}/hamiltonian_echo.py",
        "* math.exp(-self.damping))\n        return",
        "* 0)\n        return",
        ECHO,
    ),
    Mutant(
        "heb: momentum does not start",
        f"{RELAXATION}/hamiltonian_echo.py",
        "+= 1j * self.momentum",
        "+= 0 * self.momentum",
        ECHO,
    ),
    Mutant(
        "heb hamiltonian: segments are met in the same order on the way back",
        f"{RELAXATION}/hamiltonian.py",
        "self.plan[::-1] if back else self.plan",
        "self.plan",
        SYSTEM,
    ),
    Mutant(
        "heb hamiltonian: the outermost part is halved once more",
        f"{RELAXATION}/hamiltonian.py",
        "[*within, (first, time)]",
        "[*within, (first, time / 2)]",
        SYSTEM,
    ),
    Mutant(
        "heb hamiltonian: no half step at the end",
        f"{RELAXATION}/hamiltonian.py",
        "*joined, *within, (first, time / 2)]",
        "*joined, *within]",
        SYSTEM,
    ),
    Mutant(
        "heb hamiltonian: back-propagation never sees the system",
        f"{RELAXATION}/hamiltonian.py",
        "return self.unrolled(x)",
        "return self.unrolled(x).detach()",
        ECHO,
    ),
    Mutant(
        "heb hamiltonian: nothing is refused",
        f"{RELAXATION}/hamiltonian.py",
        "if not error < ROUNDING * longer:",
        "if False:",
        SYSTEM,
    ),
    Mutant(
        "heb hamiltonian: a loss is taken for rounding",
        f"{RELAXATION}/hamiltonian.py",
        "ROUNDING = 1e-11",
        "ROUNDING = 1e-0",
        SYSTEM,
    ),
    Mutant(
        "heb hamiltonian: short steps are tried alone",
        f"{RELAXATION}/hamiltonian.py",
        "LONGER = (1, 4, 16)",
        "LONGER = ()",
        SYSTEM,
    ),
    Mutant(
        "heb parts: couplings of half the strength",
        f"{RELAXATION}/parts.py",
        "-time * values)",
        "-time / 2 * values)",
        PARTS,
    ),
    Mutant(
        "heb parts: couplings turn the other way", f"{RELAXATION}/parts.py", "-time * values)", "time * values)", PARTS
    ),
    Mutant(
        "heb parts: propagators stay when couplings are loaded",
        f"{RELAXATION}/parts.py",
        "        self.prepared.clear()\n        super()._load",
        "        super()._load",
        PARTS,
    ),
    Mutant(
        "heb parts: propagators not unitary to rounding",
        f"{RELAXATION}/parts.py",
        "made = 1.5 * made - 0.5 * made @",
        "made = 1.5 * made - 0.5001 * made @",
        PARTS,
    ),
    Mutant(
        "heb parts: the Kerr stepper turns half as far",
        f"{RELAXATION}/parts.py",
        "scale = -time * self.strength",
        "scale = -time / 2 * self.strength",
        PARTS,
    ),
    Mutant(
        "heb parts: the Kerr stepper loses the detuning",
        f"{RELAXATION}/parts.py",
        "base.sub_(time * self.detuning)",
        "pass",
        PARTS,
    ),
    Mutant(
        "heb parts: learning modes do not feel light",
        f"{RELAXATION}/parts.py",
        "_turned(theta, -time * self.strength * met.sum(dim=-2))",
        "theta",
        PARTS,
    ),
    Mutant(
        "heb parts: diffraction of twice the strength",
        f"{RELAXATION}/parts.py",
        "strength / 2 * total",
        "strength * total",
        PARTS,
    ),
    Mutant(
        "heb array: hard walls are open",
        "networks/hamiltonian_echo.py",
        "if column + 1 < columns:",
        "if here + 1 < rows * columns:",
        SYSTEM,
    ),
    Mutant(
        "heb array: ports at the wrong corner",
        "networks/hamiltonian_echo.py",
        "side * (side - 1), side**2 - 1)",
        "side * (side - 1), side**2 - 2)",
        SYSTEM,
    ),
    Mutant(
        "heb modes: every layer meets the first learning modes",
        "networks/hamiltonian_echo.py",
        "met = slice(modes * (layer + 1), modes * (layer + 2))\n        segments += ",
        "met = slice(modes, modes * 2)\n        segments += ",
        ECHO,
    ),
    Mutant(
        "heb photonic: every layer meets the first learning field",
        "networks/hamiltonian_echo.py",
        "met = slice(modes * (layer + 1), modes * (layer + 2))\n        segments.append",
        "met = slice(modes, modes * 2)\n        segments.append",
        ECHO,
    ),
    Mutant("heb light: no plane wave beside an image", "layers/light.py", " + self.reference / self.side", "", ECHO),
    Mutant("heb light: what does not fit is cropped", "layers/light.py", "if not (fits and ", "if not (", ECHO),
    Mutant(
        "heb noting: costs not by the target",
        f"{RELAXATION}/noting_echo.py",
        "return outputs / self.loss.targets",
        "return outputs",
        ECHO,
    ),
    Mutant(
        "heb noting: yes and no exchanged",
        f"{RELAXATION}/noting_echo.py",
        "wanted = (1 - 2 * check_labels(y, 2).to(self.targets))",
        "wanted = (2 * check_labels(y, 2).to(self.targets) - 1)",
        ECHO,
    ),
    Mutant(
        "heb recipe: the mass of the wrong rate",
        "recipes/hamiltonian_echo.py",
        "settings.epsilon / (echoes * settings.learning_rate)",
        "settings.epsilon / settings.learning_rate",
        RECIPE,
    ),
    Mutant(
        "heb recipe: amplitudes are intensities", "recipes/hamiltonian_echo.py", ".mul(I0).sqrt()", ".mul(I0)", RECIPE
    ),
)
