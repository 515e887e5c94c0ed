"""The tables of docs/checkpoints.md: what becomes of checkpoints of every kind, by trying it.

    python -m tests.support.supported            writes the tables

A row is a pair of tiny checkpoints: read, planned, one layer of it constructed, and loaded by the
decoder. `tests/docs/test_checkpoints.py` compares each row with the page.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import orbax.checkpoint as ocp

from svdjax.checkpoint import (
    Checkpoint,
    check_layer,
    load_params,
    model_config,
    open_checkpoint,
    plan_pair,
)
from svdjax.construct.checkpoint import run_construct
from svdjax.construct.job import ConstructJob
from svdjax.errors import InputError
from tests.support import adapters, held, tiny

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
HEAD = (
    "| checkpoint | read | compared | constructed | decoded | why not |\n|---|---|---|---|---|---|"
)
_MOST = 110

Make = Callable[[pathlib.Path], tuple[pathlib.Path, pathlib.Path]]
"""Writes base and post into a folder, in the place of those that are there."""


@dataclass(frozen=True)
class Row:
    """A kind of checkpoint: its table, its name, and what writes a pair of it."""

    table: str
    name: str
    make: Make

    def line(self, folder: pathlib.Path) -> str:
        """The row of the table."""
        base, post = self.make(folder)
        why: list[str] = []

        def tried(call: Callable[[], str]) -> str:
            try:
                return call()
            except InputError as error:
                text = _shown(str(error), folder)
                # The same fault, which may be told of both sides or of a pair.
                if not any(text.endswith(known) or known.endswith(text) for known in why):
                    why.append(text)
                return "no"

        cells = [tried(lambda: _read(base, post))]
        cells.append(tried(lambda: _compared(base, post)))
        cells.append(tried(lambda: _constructed(base, post, folder / "out")))
        cells.append(tried(lambda: _decoded(base, post)))
        return f"| {self.name} | {' | '.join(cells)} | {'; '.join(why)} |"


def _open(base: pathlib.Path, post: pathlib.Path) -> Checkpoint:
    return open_checkpoint(post, lambda: open_checkpoint(base))


def _read(base: pathlib.Path, post: pathlib.Path) -> str:
    checkpoint = _open(base, post)
    for name in checkpoint.names:
        checkpoint.read(name)
    return "yes"


def _compared(base: pathlib.Path, post: pathlib.Path) -> str:
    plan = plan_pair(open_checkpoint(base), _open(base, post))
    for each in plan.projections:
        for side in (plan.base, plan.post):
            for number in range(len(each.tensors)):
                check_layer(side, each, number)
    return f"{sum(len(each.tensors) for each in plan.projections)} matrices"


def _constructed(base: pathlib.Path, post: pathlib.Path, out: pathlib.Path) -> str:
    plan = plan_pair(open_checkpoint(base), _open(base, post))
    # Experts where there are some, else the smallest: there is little to compile.
    chosen = min(plan.projections, key=lambda each: (-len(each.tensors), np.prod(each.shape)))
    job = ConstructJob(
        base=str(base),
        post=str(post),
        construction="eq9",
        alpha="0.9",
        modules=re.escape(chosen.name.rpartition(".")[2]),
        out=str(out),
        devices=1,
    )
    run_construct(job)
    # It opens again, and something of it is new.
    with open_checkpoint(out) as made, _open(base, post) as before:
        assert any(
            made.read(name).tobytes() != before.read(name).tobytes()
            for name in made.names
            if name in before
        )
    return "yes"


def _decoded(base: pathlib.Path, post: pathlib.Path) -> str:
    with _open(base, post) as checkpoint:
        load_params(checkpoint, model_config(checkpoint), None)
    return "yes"


def _shown(text: str, folder: pathlib.Path) -> str:
    """A refusal without places, in short, for a cell."""
    text = text.replace(f"{folder}/", "").replace("|", "/")
    return text if len(text) <= _MOST else text[:_MOST].rsplit(" ", 1)[0] + " …"


# --- the kinds ---------------------------------------------------------------------------------


def _family(family: str, **changes: object) -> Make:
    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base = tiny.make_checkpoint(folder / "base", family, seed=1, **changes)  # type: ignore[arg-type]
        return base, tiny.perturb(base, folder / "post", seed=2)

    return make


def _held(change: Callable[[held.Tensors], held.Tensors], **config: object) -> Make:
    """A llama, and the same trained further and written in another way."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        plain, tensors = held.model()
        base = held.write(folder / "base", plain, tensors)
        return base, held.write(folder / "post", plain | config, change(held.moved(tensors)))

    return make


def _renamed(rename: Callable[[str], str], **config: object) -> Make:
    return _held(lambda tensors: held.renamed(tensors, rename), **config)


def _mixture(change: Callable[[held.Tensors], held.Tensors], **config: object) -> Make:
    """A mixture of experts, and the same trained further and written in another way."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        plain, tensors = held.model("qwen3")
        plain |= {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
        plain |= {"moe_intermediate_size": 12, "norm_topk_prob": True}
        tensors = held.experts(tensors, 4, 12)
        base = held.write(folder / "base", plain, tensors)
        return base, held.write(folder / "post", plain | config, change(held.moved(tensors)))

    return make


def _edited(edit: Callable[[pathlib.Path], None], **options: object) -> Make:
    """A llama, and the same trained further, in a directory that is edited."""

    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base, post = _family("llama", **options)(folder)
        edit(post)
        return base, post

    return make


def _adapter(edit: Callable[[pathlib.Path], None] = lambda _: None, **options: object) -> Make:
    def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        base = tiny.make_checkpoint(folder / "base", "llama", seed=1)
        adapter = adapters.make_adapter(folder / "post", base, **options)  # type: ignore[arg-type]
        edit(adapter)
        return base, adapter

    return make


def _rename_file(old: str, new: str) -> Callable[[pathlib.Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def _without_index(folder: pathlib.Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def _drop_shard(folder: pathlib.Path) -> None:
    next(folder.glob("model-00002*")).unlink()


def _cut(folder: pathlib.Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _nonfinite(folder: pathlib.Path) -> None:
    tensors = tiny.read_tensors(folder)
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    tiny.write_checkpoint(folder, json.loads((folder / "config.json").read_text()), tensors)


def _orbax(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    base, post = _family("llama")(folder)
    with open_checkpoint(post) as checkpoint:
        params = load_params(checkpoint, model_config(post), None)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager((folder / "run").absolute(), options=options) as manager:
        manager.save(3, args=ocp.args.StandardSave(params))
    shutil.copy(post / "config.json", folder / "run")
    return base, folder / "run" / "3"


FAMILIES, NAMES, EXPERTS = "Families", "Names and layouts", "Mixtures of experts"
FILES, ADAPTERS = "Files", "Adapters"

ROWS = (
    *(Row(FAMILIES, family, _family(family)) for family in tiny.FAMILIES),
    Row(NAMES, "plain", _held(dict)),
    Row(NAMES, "without `model.`", _renamed(lambda name: name.removeprefix("model."))),
    Row(NAMES, "`_orig_mod.` (torch.compile)", _renamed(lambda name: f"_orig_mod.{name}")),
    Row(NAMES, "`module.` (DDP)", _renamed(lambda name: f"module.{name}")),
    Row(NAMES, "`base_model.model.` (PEFT)", _renamed(lambda name: f"base_model.model.{name}")),
    Row(
        NAMES,
        "`model.language_model.` (the text part of a vision-language model)",
        _renamed(lambda name: name.replace("model.", "model.language_model.")),
    ),
    Row(NAMES, "another `model_type`, known", _held(dict, model_type="mistral")),
    Row(NAMES, "another `model_type`, unknown", _held(dict, model_type="my_llama")),
    Row(
        NAMES,
        "phi3's fused projections against their parts",
        _held(held.fused_dense, model_type="phi3", rope_scaling=None, partial_rotary_factor=1.0),
    ),
    Row(
        NAMES,
        "two layers of three",
        _held(lambda tensors: held.relayered(tensors, (0, 2)), num_hidden_layers=2),
    ),
    Row(
        NAMES,
        "one layer twice",
        _held(lambda tensors: held.relayered(tensors, (0, 1, 1, 2)), num_hidden_layers=4),
    ),
    Row(
        NAMES,
        "without lm_head",
        _held(lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"}),
    ),
    Row(EXPERTS, "an expert a tensor (qwen3_moe)", _mixture(dict)),
    Row(EXPERTS, "mixtral's names", _mixture(held.mixtral)),
    Row(
        EXPERTS,
        "fused, `[experts, out, in]` (transformers 5)",
        _mixture(lambda t: held.fused(t, "out")),
    ),
    Row(
        EXPERTS,
        "fused, `[experts, in, out]` (llama4)",
        _mixture(lambda t: held.fused(t, "in"), model_type="llama4_text"),
    ),
    Row(
        EXPERTS,
        "gate and up alternating (gpt_oss)",
        _mixture(lambda t: held.fused(t, "gpt_oss"), model_type="gpt_oss"),
    ),
    Row(FILES, "one file, bf16", _family("llama")),
    Row(FILES, "one file, f16", _family("llama", dtype="float16")),
    Row(FILES, "one file, f32", _family("llama", dtype="float32")),
    Row(FILES, "shards and their index", _family("llama", shards=3)),
    Row(FILES, "shards without an index", _edited(_without_index, shards=3)),
    Row(
        FILES,
        "a variant alone (`model.fp16.safetensors`)",
        _edited(_rename_file("model.safetensors", "model.fp16.safetensors")),
    ),
    Row(FILES, "a step that Orbax's CheckpointManager wrote", _orbax),
    Row(FILES, "a shard is missing", _edited(_drop_shard, shards=3)),
    Row(FILES, "a file is cut off", _edited(_cut)),
    Row(FILES, "NaN in a compared matrix", _edited(_nonfinite)),
    Row(FILES, "pickles", _edited(_rename_file("model.safetensors", "pytorch_model.bin"))),
    Row(FILES, "GGUF", _edited(_rename_file("model.safetensors", "model.gguf"))),
    Row(
        FILES,
        "`consolidated.safetensors` alone (Mistral's own layout)",
        _edited(_rename_file("model.safetensors", "consolidated.safetensors")),
    ),
    Row(FILES, "no config.json", _edited(lambda folder: (folder / "config.json").unlink())),
    Row(ADAPTERS, "LoRA", _adapter()),
    Row(ADAPTERS, "rsLoRA", _adapter(use_rslora=True)),
    Row(ADAPTERS, "DoRA", _adapter(lambda folder: adapters.edit(folder, use_dora=True))),
    Row(
        ADAPTERS,
        "another method (IA3)",
        _adapter(lambda folder: adapters.edit(folder, peft_type="IA3")),
    ),
    Row(
        ADAPTERS,
        "an adapter as a pickle",
        _adapter(_rename_file("adapter_model.safetensors", "adapter_model.bin")),
    ),
)
"""All rows, table by table."""


def page_rows(text: str) -> dict[tuple[str, str], str]:
    """Rows of the page by table and name."""
    rows: dict[tuple[str, str], str] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("## "):
            table = line[3:]
        elif line.startswith("| ") and not line.startswith("| checkpoint |"):
            rows[table, line.split(" | ")[0].removeprefix("| ")] = line
    return rows


def write_page(lines: Iterable[tuple[Row, str]]) -> None:
    """Puts the rows into the page, which keeps its words."""
    tables: dict[str, list[str]] = {}
    for row, line in lines:
        tables.setdefault(row.table, [HEAD]).append(line)
    text = PAGE.read_text("utf-8")
    for table, rows in tables.items():
        pattern = rf"(^## {re.escape(table)}\n(?:(?!^## |^\|).*\n)*)((?:^\|.*\n)*\n*)"
        body = "\n".join(rows) + "\n"
        match = re.search(pattern, text, re.MULTILINE)
        assert match, f"{PAGE}: has no heading {table}"
        words = match[1].rstrip("\n")
        text = f"{text[: match.start()]}{words}\n\n{body}\n{text[match.end() :]}"
    PAGE.write_text(text.rstrip("\n") + "\n", "utf-8")


def main() -> None:
    """Tries all rows, and writes the page."""
    lines = []
    for row in ROWS:
        folder = pathlib.Path(tempfile.mkdtemp())
        try:
            lines.append((row, row.line(folder)))
            print(lines[-1][1])
        finally:
            shutil.rmtree(folder)
    write_page(lines)


if __name__ == "__main__":
    main()
