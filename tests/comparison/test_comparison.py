"""What is compared, and what is measured of it: steps, curves, angles and accuracies."""

import itertools
from pathlib import Path

import pytest
import torch
from small_comparisons import SMALL, compared, contenders

from beyondprop import training
from beyondprop.catalogue import SYSTEMS, compared_recipe, find_recipe, find_system
from beyondprop.comparison import compare, costs_of, recipe_contenders, rule_contenders
from beyondprop.errors import UserError
from beyondprop.training.assembly import assemble
from beyondprop.training.execution import Execution
from beyondprop.training.run_folder import read_metrics


def test_every_system_that_classifies_can_be_compared():
    for system in SYSTEMS:
        if not system.load().classifies:
            with pytest.raises(UserError, match=f"{system.id} does not classify images"):
                compared_recipe(system, "digits")
            continue
        recipe = compared_recipe(system, "digits")
        assert recipe.id == f"{system.id}/digits-compared"
        assert find_recipe(recipe.id).settings == recipe.settings


def test_a_rule_begins_with_the_rate_of_its_own_recipe_on_this_data_and_network():
    system = find_system("bp")
    own = {recipe.id: recipe.settings for recipe in system.recipes}
    conv = compared_recipe(system, "mnist", "conv").settings
    assert conv.learning_rate == own["bp/mnist-conv"].learning_rate
    assert conv.network == "conv"
    assert compared_recipe(find_system("bpc"), "mnist").settings.optimizer == "sgd"


def test_all_rules_train_the_same_network():
    built = [assemble(c.recipe, c.settings, Execution()) for c in contenders("bp", "dfa", "mono-forward")]
    shapes = [{tuple(p.shape) for p in each.rule.parameters()} for each in built]
    assert shapes[0] <= shapes[1]
    assert str(built[0].rule.network) == str(built[1].rule.network)
    assert {(64, 8), (8, 64)} & shapes[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rule_contenders(["bp", "bp"], "digits"), "bp stands twice"),
        (lambda: rule_contenders(["backprop"], "digits"), "there is no system 'backprop'"),
        (lambda: rule_contenders(["bp"], "mnits"), "--data mnits is no data set .*did you mean 'mnist'"),
        (lambda: rule_contenders([], "digits"), "name at least one"),
        (lambda: recipe_contenders([find_recipe("bp/digits"), find_recipe("bp/mnist")]), "of the same data"),
        (lambda: recipe_contenders([find_recipe("dtp/student-teacher")]), "does not classify a named data set"),
    ],
)
def test_says_what_cannot_be_compared(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_step_is_every_stage_and_phase_and_is_counted_by_hand():
    (one,) = contenders("bp", batch_size=100)
    built = assemble(one.recipe, one.settings, Execution())
    found = costs_of(built, repeats=3)
    widths = [64, 8, 8, 10]
    products = sum(a * b for a, b in itertools.pairwise(widths))
    inputs = products - 64 * 8  # the first layer's inputs need no gradient
    assert found["operations"] == 2 * 100 * (2 * products + inputs)
    assert found["parameters"] == products + 8 + 8 + 10
    assert found["memory_bytes"]["parameters"] == 4 * found["parameters"]
    assert found["batch_size"] == 100
    assert found["memory_bytes"]["optimizer"] >= 2 * 4 * found["parameters"]  # AdamW's two means, and its counters
    assert 0 < found["step_seconds"]["low"] <= found["step_seconds"]["median"] <= found["step_seconds"]["high"]
    forward_only = costs_of(
        assemble(contenders("mgd")[0].recipe, contenders("mgd")[0].settings, Execution()), repeats=1
    )
    assert forward_only["saved_bytes"] == 0 < found["saved_bytes"]


def test_every_stage_and_phase_counts():
    (one,) = contenders("cafo-dfa")
    built = assemble(one.recipe, one.settings, Execution())
    seen = []
    backward = built.rule.backward
    built.rule.backward = lambda x, y, phase=None: (seen.append((built.rule.stage, phase)), backward(x, y, phase))[1]
    costs_of(built, repeats=1)
    assert set(seen) == {(stage, phase) for stage in built.rule.stages for phase in built.rule.phases}
    assert len(set(seen)) > 1


def test_curves_angles_and_accuracies_are_those_of_the_runs():
    document = compared("bp", "fa", seeds=2)
    assert list(document["contenders"]) == ["bp", "fa"]
    bp, fa = document["contenders"].values()
    outcomes = [training.load_run(path.parent) for path in sorted(Path("runs/bp").rglob("result.json"))]
    assert len(outcomes) == 2
    assert bp["metrics"]["test_accuracy"]["values"] == pytest.approx(
        [r.evaluate(r.splits.test)["accuracy"] for r in outcomes]
    )
    records = [record for record in read_metrics(next(Path("runs/bp").rglob("seed-0"))) if "seconds" in record]
    assert [point["accuracy"] for point in bp["curves"][0]] == [record["validation_accuracy"] for record in records]
    assert [point["images"] for point in bp["curves"][0]] == [1437 - 150, 2 * (1437 - 150)]
    assert [point["seconds"] for point in bp["curves"][0]] == [record["seconds"] for record in records]
    assert (document["images"], document["training_images"]) == (1437, 1437 - 150)
    assert 0 < bp["curves"][0][-1]["seconds"] <= bp["train_seconds"]["values"][0]
    assert all(layer["angle"]["mean"] == pytest.approx(0, abs=1e-2) for layer in bp["alignment"].values())
    angles = [layer["angle"]["mean"] for layer in fa["alignment"].values()]
    assert angles[-1] == pytest.approx(0, abs=1e-2)  # the last layer hears the loss itself
    assert all(5 < angle < 120 for angle in angles[:-1])


def test_measuring_a_step_leaves_the_weights_as_they_are():
    (one,) = contenders("dfa")
    built = assemble(one.recipe, one.settings, Execution())
    before = [p.detach().clone() for p in built.rule.parameters()]
    costs_of(built, repeats=1)
    assert all(torch.equal(p, q) for p, q in zip(built.rule.parameters(), before, strict=True))


def test_rates_are_taken_over_with_their_optimizer_alone():
    for name in ("l-drl", "local-forward-gradient", "tp-ri"):  # which are trained by SGD of their own
        settings = compared_recipe(find_system(name), "digits").settings
        assert (settings.learning_rate, settings.optimizer) == (1e-3, "adamw")


def test_images_of_every_pass_of_an_epoch_count():
    """As where feedback has passes of its own: two here before the first epoch, and one more in each."""
    settings = SMALL | {"validation": 150, "pretraining": 2, "extra_epochs": 1}
    each = recipe_contenders([find_recipe("dtp/digits")], settings)
    document = compare(each, Execution(threads=1), seeds=1, progress=False)
    images = {point["epoch"]: point["images"] for point in document["contenders"]["dtp/digits"]["curves"][0]}
    assert images == {1: 1287, 2: 2 * 1287, 3: 4 * 1287, 4: 6 * 1287}
