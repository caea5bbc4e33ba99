"""`beyondprop device [RECIPE]`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

from beyondprop import data
from beyondprop.catalogue import find_recipe
from beyondprop.cli.arguments import parse, split_recipe
from beyondprop.cli.output import note, say
from beyondprop.errors import UserError
from beyondprop.recipes.chip import CHIP_FIELDS, DEFAULT, ChipSettings, read_token, simulated_chip

HELP = f"""Offers a simulated chip to a training in another process, which sees nothing of it but the protocol: write
parameters, present an input, read a cost. RECIPE says which network the chip has and which flaws (default: {DEFAULT});
the flags change them. It serves until it is interrupted, one training at a time, and prints the address where.

At an address that others can reach it asks for a token, which stands in a file or in $BEYONDPROP_TOKEN. Nothing is
encrypted: across a network that is not yours, go through a tunnel.

Examples:
  beyondprop device
  beyondprop device {DEFAULT} --port 4711 --noise 0.01 --bits 6
  beyondprop device {DEFAULT} --host 0.0.0.0 --port 4711 --token-file chip.token
"""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where the device is offered."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 0
    """0 takes a free one."""
    token_file: str = ""
    """File with the token that clients must show; without it $BEYONDPROP_TOKEN."""


def run(argv: list[str]) -> None:
    """Run the command."""
    recipe_id, flags = split_recipe(argv, DEFAULT)
    recipe = find_recipe(recipe_id)
    if not isinstance(recipe.settings, ChipSettings):
        raise UserError(f"{recipe_id} has no chip: name a recipe such as {DEFAULT}")
    hidden = tuple(f"recipe.{f.name}" for f in fields(recipe.settings) if f.name not in CHIP_FIELDS)
    _, given = parse(
        flags, f"beyondprop device {recipe_id}", HELP, without=hidden, recipe=recipe.settings, serving=Serving()
    )
    serving: Serving = given.serving
    splits = data.load(recipe.dataset)
    chip: Any = simulated_chip(given.recipe, splits.train.images.shape[1:], splits.train.classes)
    from beyondprop.devices import DeviceServer  # noqa: PLC0415  # it imports torch

    server = DeviceServer(chip, serving.host, serving.port, token=read_token(serving.token_file))
    anywhere = server.address.startswith(("0.0.0.0:", "[::]:"))
    host = f"HOST:{server.address.rpartition(':')[2]}" if anywhere else server.address
    token = f" --token-file {serving.token_file}" if serving.token_file else ""
    note(f"train it by: beyondprop train {recipe_id} --chip {host}{token}")
    say(f"a chip with {chip.size} parameters listens at {server.address}")
    sys.stdout.flush()  # last: whoever started this in a pipe goes on at this line, and may interrupt at once
    server.serve()
