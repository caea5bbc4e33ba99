"""The side of github.com/dimarkov/nullaprop (JAX, Equinox, CT only) in `noprop_timed.py`; its files stay as they are.

Its package is imported with stubs for what only its data and plots need (datasets, jax_dataloader, matplotlib, tqdm).
The paths of a subclass of its NoPropCT are the paper's block, and its learned embedding starts as the identity, so that
z is one-hot as elsewhere. The training step, the optimizer's settings and both ways to predict are its own.

Its model hands the image path no random key, which dropout needs: ours is made of the bits of z, new noise every time.
The image path is written as XLA's CPU backend runs it fastest, in the peer's favour: channels last, pooling by reshape,
dropout from eight random bits an element. Its own style, channels first, falls to much slower code inside a loop.
XLA takes the image path out of the loop of a prediction: it is run once there, and once more after it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _common import CLASSES, DROPOUT, HIDDEN, LEARNING, check_commit, parser, serve

COMMIT = "437ca122f87dfeb73b39d0f2744b474de89041f1"
POSITIONS = 64


def import_peer(checkout: Path) -> Any:
    """Import its package, stubs in the place of what it needs for data and plots."""
    content: dict[str, dict[str, Any]] = {
        "datasets": {"load_dataset": None},
        "jax_dataloader": {},
        "matplotlib": {},
        "matplotlib.pyplot": {},
        "tqdm": {"tqdm": None},
    }
    for name, attributes in content.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(attributes)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(checkout / "src"))  # before this file's folder, where this file has the package's name
    return importlib.import_module("nullaprop")


class Convolution(eqx.Module):
    """3x3, padding 1, channels last."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, inside: int, outside: int, key: jax.Array) -> None:
        of_weight, of_bias = jax.random.split(key)
        bound = (9 * inside) ** -0.5
        self.weight = jax.random.uniform(of_weight, (3, 3, inside, outside), minval=-bound, maxval=bound)
        self.bias = jax.random.uniform(of_bias, (outside,), minval=-bound, maxval=bound)

    def __call__(self, x: jax.Array) -> jax.Array:  # noqa: D102
        layout = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(x, self.weight, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)
        return found + self.bias


class ImagePath(eqx.Module):
    """The paper's convolutions (arXiv 2503.24322, Figure 6)."""

    first: Convolution
    second: Convolution
    third: Convolution
    linear: eqx.nn.Linear
    inference: bool

    def __init__(self, image: tuple[int, int, int], key: jax.Array) -> None:
        channels, height, width = image
        keys = jax.random.split(key, 4)
        self.first = Convolution(channels, 32, keys[0])
        self.second = Convolution(32, 64, keys[1])
        self.third = Convolution(64, 128, keys[2])
        self.linear = eqx.nn.Linear(128 * (height // 4) * (width // 4), HIDDEN, key=keys[3])
        self.inference = False

    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:  # noqa: D102
        keys = jax.random.split(key, 3)
        x = x.transpose(0, 2, 3, 1)
        x = self.drop(halve(jax.nn.relu(self.first(x))), keys[0])
        x = self.drop(jax.nn.relu(self.second(x)), keys[1])
        x = self.drop(halve(jax.nn.relu(self.third(x))), keys[2])
        return jax.nn.relu(jax.vmap(self.linear)(x.reshape(len(x), -1)))

    def drop(self, x: jax.Array, key: jax.Array) -> jax.Array:
        """Dropout, its probability rounded to 1/256."""
        if self.inference:
            return x
        keep = jax.random.bits(key, x.shape, jnp.uint8) >= round(256 * DROPOUT)
        return jnp.where(keep, x / (1 - DROPOUT), 0)


class LabelPath(eqx.Module):
    """FC - ReLU."""

    fc: eqx.nn.Linear

    def __call__(self, z: jax.Array) -> jax.Array:  # noqa: D102
        return jax.nn.relu(self.fc(z))


class TimePath(eqx.Module):
    """Positions of t - FC - ReLU; the positions are the peer's."""

    fc: eqx.nn.Linear
    embed: Callable[..., jax.Array]

    def __call__(self, t: jax.Array) -> jax.Array:  # noqa: D102
        half = POSITIONS // 2
        return jax.nn.relu(self.fc(self.embed(t, 10000.0 ** -(jnp.arange(half) / (half - 1)), POSITIONS)))


def halve(x: jax.Array) -> jax.Array:
    """Take the maximum of each 2x2 square."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def paper_model(peer: Any, image: tuple[int, int, int], key: jax.Array) -> Any:
    """Its model with the paper's block."""

    class PaperNoPropCT(peer.NoPropCT):
        def __call__(self, x: jax.Array, z: jax.Array, t: jax.Array, **_: Any) -> jax.Array:
            key = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(z).reshape(-1)[:2], jnp.uint32)
            of_z, of_t = jax.vmap(self.label_embedding)(z), jax.vmap(self.time_enc)(t)
            return jax.vmap(self.fuse_head)(self.cnn(x, key), of_z, of_t)

    keys = jax.random.split(key, 7)
    model = PaperNoPropCT(key=keys[0], num_classes=CLASSES, embed_dim=CLASSES, input_channels=image[0])
    relu = eqx.nn.Lambda(jax.nn.relu)
    fusion = [
        eqx.nn.Linear(3 * HIDDEN, HIDDEN, key=keys[1]),
        relu,
        eqx.nn.Linear(HIDDEN, HIDDEN // 2, key=keys[2]),
        relu,
        eqx.nn.Linear(HIDDEN // 2, CLASSES, key=keys[3]),
    ]
    embed = importlib.import_module("nullaprop.models").sinusoidal_embedding
    parts = (
        ImagePath(image, keys[4]),
        LabelPath(eqx.nn.Linear(CLASSES, HIDDEN, key=keys[5])),
        TimePath(eqx.nn.Linear(POSITIONS, HIDDEN, key=keys[6]), embed),
        eqx.nn.Sequential(fusion),
        jnp.eye(CLASSES),
    )
    where = lambda m: (m.cnn, m.label_embedding, m.time_enc, m.fuse_head.net, m.embed_matrix)  # noqa: E731
    model = eqx.tree_at(where, model, parts)
    # Two scalars of its schedule are weakly typed, for which its step would be compiled three times.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype) if eqx.is_array(leaf) else leaf, model)


class Peer:
    """Its model with the paper's block, and what it does with it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.peer = import_peer(options.checkout)
        self.key, of_model, of_state, of_x, of_y = jax.random.split(jax.random.PRNGKey(0), 5)
        model = paper_model(self.peer, options.image, of_model)
        self.optimizer = optax.adamw(learning_rate=LEARNING["lr"], weight_decay=LEARNING["weight_decay"])
        self.state = self.peer.create_train_state(model, self.optimizer, key=of_state)
        self.x = jax.random.normal(of_x, (options.batch, *options.image))
        self.y = jax.random.randint(of_y, (options.batch,), 0, CLASSES)
        self.compiled: set[str] = set()
        self.task("train")  # while the other sides start
        parts = eqx.filter((model.cnn, model.label_embedding, model.time_enc, model.fuse_head), eqx.is_inexact_array)
        self.facts: dict[str, Any] = {
            "block_parameters": sum(leaf.size for leaf in jax.tree.leaves(parts)),
            "commit": COMMIT,
            "jax": jax.__version__,
            "equinox": eqx.__version__,
            "optax": optax.__version__,
        }

    def task(self, name: str) -> Callable[[], object]:
        """See `_common.Side`; compiles when first asked for it."""
        call = self.train_step if name == "train" else self.prediction(*name.split())
        if name not in self.compiled:
            call()
            self.compiled.add(name)
        return call

    def train_step(self) -> None:
        """Take its own step."""
        self.state, loss = self.peer.train_step(self.state, self.x, self.y, self.optimizer, eta=1.0)
        jax.block_until_ready((loss, eqx.filter(self.state, eqx.is_array)))

    def prediction(self, method: str, steps: str) -> Callable[[], object]:
        """Make its own prediction of the batch, without dropout."""
        way = {"euler": self.peer.inference_ct_euler, "heun": self.peer.inference_ct_heun}[method]
        model = eqx.nn.inference_mode(self.state.model)
        return lambda: jax.block_until_ready(way(model, self.x, self.key, T_steps=int(steps)))


def main() -> None:
    """Serve."""
    command = parser(__doc__)
    command.add_argument("--checkout", type=Path, required=True, help=f"a clone at commit {COMMIT}")
    command.add_argument(
        "--ynn", choices=["on", "off"], default="on", help="XLA's YNNPACK fusions, which jax 0.10 uses"
    )
    options = command.parse_args()
    check_commit(options.checkout, COMMIT)
    # XLA reads these when it is first used, which is later than the import.
    if options.ynn == "off":
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_experimental_ynn_fusion_type="
    os.environ["NPROC"] = str(options.threads)
    jax.config.update("jax_platforms", "cpu")
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[: options.threads])
    serve(lambda: Peer(options))


if __name__ == "__main__":
    main()
