"""The card of an export: what its words are made of. That it tells all is tested with exports."""

from beyondprop.report.changes import changed_flags
from beyondprop.report.model_card import _data, _results


def test_flags_are_those_of_changed_settings_alone():
    defaults = {"on": False, "off": True, "widths": (1,), "steps": 2, "epochs": 3, "same": [1, 2]}
    settings = {"on": True, "off": False, "widths": [4, 5], "steps": None, "epochs": 3, "same": (1, 2), "gone": 7}
    assert changed_flags(settings, defaults) == "--on --no-off --widths 4 5 --steps auto"


def test_every_seed_has_its_own_figures_and_a_dash_where_it_has_none():
    runs = [{"seed": 3, "metrics": {"test_accuracy": 0.9, "rows": [1, 2]}}, {"seed": 7, "metrics": {}}]
    table = _results(runs).splitlines()
    assert table[0] == "| seed | test accuracy |"
    assert table[2].startswith("| 3 | 90.00 % |")
    assert table[3].startswith("| 7 | ")
    assert "90" not in table[3]


def test_the_data_are_counted_and_what_was_held_out_is_told():
    data = {"samples": 1287, "shape": [1, 8, 8], "classes": 10}
    told = _data("digits", data, {"validation": 150})
    counted = "1287 training samples of shape (1, 8, 8) in 10 classes, without 150 that were held out."
    assert told.startswith(f"`digits`: {counted}")
    assert "held out" not in _data("digits", data, {"validation": 0})
    assert _data("xor", None, {}) == "`xor`, which the recipe makes from its settings."
