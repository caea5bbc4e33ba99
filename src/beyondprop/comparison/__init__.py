"""Rules side by side: trained on the same data with the same budget, and what each of them costs.

- `compare`: trains, measures, and writes compare.json and one self-contained page.
- `rule_contenders`, `recipe_contenders`: what is compared, rules on one network or recipes as they are.
- `costs_of`: time, memory and operations of one training step.
"""

from beyondprop.comparison.compare import compare
from beyondprop.comparison.contenders import Contender, recipe_contenders, rule_contenders
from beyondprop.comparison.costs import costs_of

__all__ = ["Contender", "compare", "costs_of", "recipe_contenders", "rule_contenders"]
