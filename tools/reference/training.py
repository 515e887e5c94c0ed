"""The training loop: one jitted step, data from (seed, step), Orbax checkpoints, exact resume.

Axes: `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from tokenizers import Tokenizer
from tqdm import tqdm

from svdjax.checkpoint.config import ModelConfig
from svdjax.errors import InputError
from svdjax.model import forward, init_params

from .recipes import Recipe

Params = Any
Draw = Callable[[Params, int], tuple[np.ndarray, np.ndarray]]
"""Gives the tokens and weights of a step, from the parameters before it and its number."""
Differentiate = Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, Params]]
"""Gives the loss of a batch and its gradients, from parameters, tokens and weights."""
LOG_EVERY = 20


@dataclasses.dataclass(frozen=True)
class Keeping:
    """When checkpoints are written (every `save_every` steps) and which stay for good."""

    save_every: int = 250
    keep_steps: int = 0


def loss_sum(
    params: Params, config: ModelConfig, tokens: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy in nats over the counted targets, and their number."""
    # Unrolled layers compile longer and train a good deal faster on CPUs.
    logits = forward(params, config, tokens[:, :-1], unroll=config.num_layers)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.sum(losses * weights), jnp.sum(weights)


class Schedule(NamedTuple):
    """What the optimiser needs of a recipe."""

    steps: int
    peak: float
    warmup: int
    decay: float


def optimiser(recipe: Recipe | Schedule) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and gradients clipped to norm 1."""
    warmup = min(recipe.warmup, recipe.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.peak, warmup, recipe.steps, 0.05 * recipe.peak
    )

    def matrices(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key in ("kernel", "embedding"), params
        )

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=recipe.decay, mask=matrices),
    )


def make_step(
    recipe: Recipe, config: ModelConfig, differentiate: Differentiate | None = None
) -> Callable[..., tuple[Any, jax.Array]]:
    """The jitted step: (state, tokens, weights) -> (state, loss); the state is donated.

    The loss is the mean over the counted tokens, or what `differentiate` says. Recipes that differ
    in their data alone share one program.
    """
    schedule = recipe.steps, recipe.peak, recipe.warmup, recipe.decay
    return _step(Schedule(*schedule), config, differentiate)


@functools.cache
def _step(
    schedule: Schedule, config: ModelConfig, differentiate: Differentiate | None
) -> Callable[..., tuple[Any, jax.Array]]:
    update = optimiser(schedule).update

    def mean_loss(params: Params, tokens: jax.Array, weights: jax.Array) -> jax.Array:
        total, count = loss_sum(params, config, tokens, weights)
        return total / count

    differentiated = differentiate or jax.value_and_grad(mean_loss)

    def step(state: dict[str, Any], tokens: jax.Array, weights: jax.Array) -> Any:
        loss, gradients = differentiated(state["params"], tokens, weights)
        changes, moments = update(gradients, state["moments"], state["params"])
        return {"params": optax.apply_updates(state["params"], changes), "moments": moments}, loss

    return jax.jit(step, donate_argnums=0)


def _claim(folder: pathlib.Path, recipe: Recipe, config: dict[str, Any]) -> None:
    """Records what a work folder is for, or refuses one that another recipe has begun."""
    settings = {"recipe": dataclasses.asdict(recipe), "config": config}
    record = folder / "recipe.json"
    if record.exists():
        recorded = json.loads(record.read_text(encoding="utf-8"))
        if recorded != settings:
            different = sorted(
                f"{part}.{key}: {recorded[part].get(key)!r} there, {value!r} now"
                for part, values in settings.items()
                for key, value in values.items()
                if recorded[part].get(key) != value
            )
            raise InputError(
                f"{record}: begun with other settings ({'; '.join(different)}); "
                "use the same settings or another --workdir"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def train(
    recipe: Recipe,
    config: ModelConfig,
    raw_config: dict[str, Any],
    tokenizer: Tokenizer,
    workdir: pathlib.Path,
    *,
    parent: Params | None = None,
    keeping: Keeping,
    draw: Draw | None = None,
    differentiate: Differentiate | None = None,
) -> Params:
    """Trains one member of the family, from where an earlier run in `workdir` stopped.

    Args:
        recipe: The run.
        config: The model.
        raw_config: Its config.json, which `workdir` records.
        tokenizer: Of the text.
        workdir: Folder of checkpoints and logs, one folder per recipe.
        parent: Parameters to start from; None: random ones.
        keeping: Which checkpoints are written and stay.
        draw: The batches; those of the recipe by default.
        differentiate: Loss and gradients; the mean loss of the counted tokens by default.

    Returns:
        The parameters after `recipe.steps` steps, as float32 arrays on the host.

    Raises:
        InputError: `workdir` was begun with other settings.
    """
    folder = workdir.resolve() / recipe.name
    _claim(folder, recipe, raw_config)
    params = parent if parent is not None else init_params(config, jax.random.key(recipe.seed))
    # A copy: donation would otherwise eat the caller's arrays.
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)
    state = {"params": params, "moments": optimiser(recipe).init(params)}
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        keep_period=keeping.keep_steps or None,
        enable_async_checkpointing=False,
    )
    with ocp.CheckpointManager(folder / "checkpoints", options=options) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        step_fn = make_step(recipe, config, differentiate)
        drawn = draw or (lambda _, step: recipe.batch(tokenizer, step))
        state = _loop(recipe, step_fn, drawn, state, done, manager, keeping, folder)
    return jax.tree.map(np.asarray, state["params"])


def _loop(
    recipe: Recipe,
    step_fn: Callable[..., tuple[Any, jax.Array]],
    draw: Draw,
    state: Any,
    done: int,
    manager: ocp.CheckpointManager,
    keeping: Keeping,
    folder: pathlib.Path,
) -> Any:
    every = [each for each in (keeping.save_every, keeping.keep_steps) if each]
    bar = tqdm(range(done, recipe.steps), recipe.name, recipe.steps, initial=done, unit="step")
    recent: list[jax.Array] = []
    begun = time.perf_counter()
    with (folder / "losses.jsonl").open("a", encoding="utf-8") as log:
        for step in bar:
            state, loss = step_fn(state, *draw(state["params"], step))
            recent.append(loss)
            number = step + 1
            if number % LOG_EVERY == 0 or number == recipe.steps:
                mean = float(np.mean(jax.device_get(recent)))
                recent.clear()
                bar.set_postfix(loss=f"{mean:.4f}")
                now = time.perf_counter()
                line = {"step": number, "loss": mean, "seconds": round(now - begun, 3)}
                begun = now
                log.write(json.dumps(line) + "\n")
                log.flush()
            if number == recipe.steps or any(number % each == 0 for each in every):
                manager.save(number, args=ocp.args.StandardSave(state))
    return state


def heldout_loss(
    recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, params: Params, batches: int = 16
) -> float:
    """Mean cross-entropy in nats per counted token on data that training did not draw."""
    evaluate = jax.jit(lambda tree, *batch: loss_sum(tree, config, *batch))
    sums = [evaluate(params, *recipe.batch(tokenizer, i, salt=10_000)) for i in range(batches)]
    return float(sum(total for total, _ in sums) / sum(count for _, count in sums))
