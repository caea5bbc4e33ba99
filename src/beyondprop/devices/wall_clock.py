"""How long a training takes on given hardware: steps times what a step takes there. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Time constants of a device, in seconds (arXiv 2303.03986, Section V).

    Attributes:
        name: Short.
        summary: What it is.
        tau_p: From one perturbation to the next, with the cost's read in between.
        input_time: To present a sample; the paper counts it within tau_p.
        write_time: To write the parameters; the paper counts it within tau_p.
    """

    name: str
    summary: str
    tau_p: float
    input_time: float = 0.0
    write_time: float = 0.0

    def seconds(self, steps: int, *, tau_x: int = 1, tau_theta: int = 1) -> float:
        """Estimate a training's wall-clock: it depends on steps and time constants, not on what is learned.

        Args:
            steps: Perturbations, each with a read of the cost.
            tau_x: Steps for which a sample is presented.
            tau_theta: Steps between two updates.

        >>> round(HARDWARE[0].seconds(20_000_000) / 3600, 1)
        5.6
        """
        return steps * self.tau_p + -(-steps // tau_x) * self.input_time + steps // tau_theta * self.write_time


HARDWARE = (
    Hardware("HW1", "a chip in the loop of a computer", 1e-3),
    Hardware("HW2", "memory that computes, or analogue VLSI", 10e-9),
    Hardware("HW3", "superconducting electronics, or athermal photonics", 200e-12),
)


def table(steps: int) -> str:
    """Lay out as a Markdown table how long the paper's three kinds of hardware take.

    >>> print(table(20_000_000))
    | Hardware | What it is | tau_p | 20000000 steps |
    | :--- | :--- | ---: | ---: |
    | HW1 | a chip in the loop of a computer | 1 ms | 5.56 h |
    | HW2 | memory that computes, or analogue VLSI | 10 ns | 200 ms |
    | HW3 | superconducting electronics, or athermal photonics | 200 ps | 4 ms |
    """
    rows = [(h.name, h.summary, duration(h.tau_p), duration(h.seconds(steps))) for h in HARDWARE]
    lines = [("Hardware", "What it is", "tau_p", f"{steps} steps"), (":---", ":---", "---:", "---:"), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it.

    >>> [duration(seconds) for seconds in (2e-10, 0.2, 90, 20000)]
    ['200 ps', '200 ms', '1.5 min', '5.56 h']
    """
    units = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps"))
    # A thousandth below the unit is still the unit: 1e-3 seconds may lie one rounding below a millisecond.
    unit, name = next(((unit, name) for unit, name in units if seconds >= 0.999 * unit), units[-1])
    return f"{seconds / unit:.3g} {name}"
