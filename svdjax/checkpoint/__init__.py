"""Disk and pytree: lazy validated reader, name tables, pairing, streaming writer."""

from __future__ import annotations

from svdjax.checkpoint.config import ModelConfig, Rope, model_config
from svdjax.checkpoint.digest import digest_of, input_digest
from svdjax.checkpoint.families import FAMILIES, Family, Weight
from svdjax.checkpoint.merged import MergedCheckpoint, is_adapter
from svdjax.checkpoint.opening import open_checkpoint, open_model, refuse_unused_base
from svdjax.checkpoint.origin import swapped
from svdjax.checkpoint.params import load_params, param_shapes
from svdjax.checkpoint.plan import PairPlan, plan_pair
from svdjax.checkpoint.projection import Projection
from svdjax.checkpoint.reader import Checkpoint, TensorSpec
from svdjax.checkpoint.shards import LazyTensor
from svdjax.checkpoint.source import resolve
from svdjax.checkpoint.stack import check_layer, read_stack, stack_dtype
from svdjax.checkpoint.writer import save_checkpoint, write_checkpoint

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Family",
    "LazyTensor",
    "MergedCheckpoint",
    "ModelConfig",
    "PairPlan",
    "Projection",
    "Rope",
    "TensorSpec",
    "Weight",
    "check_layer",
    "digest_of",
    "input_digest",
    "is_adapter",
    "load_params",
    "model_config",
    "open_checkpoint",
    "open_model",
    "param_shapes",
    "plan_pair",
    "read_stack",
    "refuse_unused_base",
    "resolve",
    "save_checkpoint",
    "stack_dtype",
    "swapped",
    "write_checkpoint",
]
