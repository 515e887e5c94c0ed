r"""Runs lm-evaluation-harness with svdjax's decoder as one of its models, "svdjax".

    pip install 'svdjax[harness]'
    svdjax harness --model svdjax --model_args pretrained=DIR --tasks NAME \
        --include_path FOLDER --batch_size auto

All arguments go to lm-evaluation-harness, whose own help is

    python -m svdjax.harness run --help

and `ls tasks` instead of `run` lists the tasks it knows. Three are svdjax's own: --dry_run tells of
the model and asks nothing, --quiet and --progress=lines or json draw no bars. --model_args of the
model svdjax, separated by commas:

    pretrained=DIR      a directory with safetensors, or a hub id org/name[@revision]
    base=DIR            what an adapter is merged into, where it is not the model that it names
    dtype=float32       or bfloat16: dtype of weights and computation
    max_length=N        tokens the model sees at most; default: its max_position_embeddings
    max_gen_toks=256    new tokens where a task does not say how many
    add_bos_token=True  or False: whether special tokens are added; default: as the tokenizer does
    devices=0           devices to use; 0 takes all
    tensor_parallel=1   how many of them hold the model together; the others share the batch
    seed=0              of random draws

--batch_size takes a number (default 1) or auto. --apply_chat_template works with the checkpoint's
own template. Exit status: 0 done, 2 the input cannot be used (one line on stderr says why).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from svdjax import cli, streams
from svdjax.engine.memory import check_memory
from svdjax.engine.process import open_jax, prepare_process
from svdjax.errors import InputError, printable

_COMMAND = "python -m svdjax.harness"


def main(arguments: Sequence[str]) -> None:
    """Registers the model and runs the harness's command line with the arguments.

    Raises:
        InputError: lm_eval cannot be imported, or svdjax cannot use what is asked.
    """
    check_memory()
    own, arguments = _own_arguments(arguments)
    if own.quiet or own.progress in ("lines", "json"):
        # tqdm reads it when it is loaded.
        os.environ["TQDM_DISABLE"] = "1"
    if own.follow_links:
        from svdjax.checkpoint.files import follow_links

        follow_links(own.follow_links)
    prepare_process()
    open_jax()
    if own.dry_run:
        print(_dry_run(arguments))
        return
    try:
        import lm_eval.__main__ as harness  # pyright: ignore[reportMissingImports]
    # Not only ImportError: it builds on libraries that fail in their own ways.
    except Exception as error:
        why = printable(str(error), 200)
        raise InputError(
            f"lm-evaluation-harness cannot be imported ({why}); pip install 'svdjax[harness]'"
        ) from None
    import svdjax.harness.model  # noqa: F401  (registers the model)

    # The harness reads its arguments there.
    sys.argv = ["lm-eval", *arguments]
    harness.cli_evaluate()


def _own_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of svdjax, and those of the harness."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--progress", choices=("bar", "lines", "json"))
    parser.add_argument("--follow_links", type=lambda text: text.split(","), default=[])
    try:
        return parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None


def _dry_run(arguments: Sequence[str]) -> str:
    """The model that the harness would ask; nothing is fetched."""
    from svdjax.checkpoint import model_config, open_model, refuse_unused_base
    from svdjax.engine.dry_run import describe_model, offline

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model_args", default="", nargs="*")
    known, _ = parser.parse_known_args(arguments)
    words = ",".join([known.model_args] if isinstance(known.model_args, str) else known.model_args)
    parts = (word.partition("=") for word in words.split(","))
    options = {name: value for name, _, value in parts}
    if not options.get("pretrained"):
        raise InputError("--model_args: expected pretrained=DIR among them")
    base = options.get("base", "")
    with offline(), open_model(options["pretrained"], base) as checkpoint:
        refuse_unused_base(base, [checkpoint])
        config = model_config(checkpoint)
        model = describe_model(checkpoint, config, options.get("dtype", "float32"))
    return f"dry run of lm-evaluation-harness: nothing is asked\n{model}"


if __name__ == "__main__":
    streams.configure_streams()
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-h"):
        print((__doc__ or "").strip())
        raise SystemExit(0)
    try:
        main(sys.argv[1:])
    except InputError as error:
        cli.leave(f"{cli.program(_COMMAND)}: {error}", 2)
    except KeyboardInterrupt:
        cli.leave(f"{cli.program(_COMMAND)}: interrupted", 130)
