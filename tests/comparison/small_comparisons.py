"""Small comparisons on the digits, and what a page may not hold."""

from html.parser import HTMLParser

from beyondprop.comparison import compare, rule_contenders
from beyondprop.errors import NonFiniteError
from beyondprop.training.execution import Execution

SMALL = {"epochs": 2, "hidden": 8, "batch_size": 256}
FLAGS = ["--seeds", "2", "--epochs", "2", "--hidden", "8", "--batch-size", "256", "--threads", "1", "--quiet"]


def contenders(*rules, **changed):
    return rule_contenders(rules, "digits", changed=SMALL | changed)


def compared(*rules, seeds=1, **options):
    return compare(contenders(*rules), Execution(threads=1), seeds=seeds, progress=False, **options)


def raise_nan():
    raise NonFiniteError("the loss of layer 3 is nan")


class Outside(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "link", "iframe") or (
            tag == "img" and not attributes["src"].startswith("data:image/png;base64,")
        ):
            self.found.append((tag, attributes))
