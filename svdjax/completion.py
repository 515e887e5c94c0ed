r"""Prints a script that completes commands, flags, values and names of configs in a shell.

    bash    eval "$(svdjax completion bash)"        in ~/.bashrc
    zsh     eval "$(svdjax completion zsh)"         in ~/.zshrc, after compinit
    fish    svdjax completion fish | source         in ~/.config/fish/config.fish

Where it proposes nothing, the shell proposes files.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

from absl import flags

from svdjax import cli, config_files
from svdjax.__main__ import COMMANDS
from svdjax.errors import InputError, did_you_mean

# Each gives the line up to the cursor, and takes what its last word may become, one a line.
SCRIPTS = {
    "bash": r"""_svdjax() {
  local line=${COMP_LINE:0:COMP_POINT}
  mapfile -t COMPREPLY < <(svdjax completion words "$line" 2>/dev/null)
  # For bash a word ends at = and at colons too.
  local word=${line##* }
  local before=${word%"${word##*[=:]}"}
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _svdjax svdjax""",
    "zsh": r"""_svdjax() {
  local -a found=("${(@f)$(svdjax completion words "${BUFFER[1,CURSOR]}" 2>/dev/null)}")
  if [[ -n $found ]]; then compadd -S '' -- $found; else _files; fi
}
compdef _svdjax svdjax""",
    "fish": "complete -c svdjax -a '(svdjax completion words (commandline -cp) 2>/dev/null)'",
}


def candidates(line: str) -> list[str]:
    """What the last word of a command line, which may be empty, can become."""
    words = line.split()[1:]
    word = words.pop() if words and not line[-1].isspace() else ""
    if not words:
        options = [*COMMANDS, "--help", "--version"]
    elif words[0] == "completion":
        options = list(SCRIPTS)
    elif words[0] in COMMANDS and word.startswith("-"):
        options = _flags(COMMANDS[words[0]], word)
    else:
        options = []
    return [option for option in options if option.startswith(word)]


def _flags(module: str, word: str) -> list[str]:
    """Flags of a command, or values of the one that a word names."""
    name, equals, _ = word.partition("=")
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        module += ".__main__"
    importlib.import_module(module)
    options, values = ["--help"], []
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        options += [f"--{flag.name}", f"--no{flag.name}"] if flag.boolean else [f"--{flag.name}="]
        if name == f"--{flag.name}":
            known = getattr(flag.parser, "enum_values", None) or ()
            known = config_files.shipped_configs() if flag.name == "config" else known
            values = [f"{name}={value}" for value in known]
    if name.startswith("--config."):
        from svdjax.options import OPTIONS

        options += [f"--config.{leaf}=" for leaf in OPTIONS]
    return values if equals else options


def main(shell: str) -> str:
    """The script for a shell."""
    if shell not in SCRIPTS:
        hint = did_you_mean(shell, SCRIPTS)
        raise InputError(f"{shell!r}: expected one of {', '.join(SCRIPTS)}{hint}")
    return SCRIPTS[shell]


if __name__ == "__main__":
    if sys.argv[1:2] == ["words"]:
        cli.tell("\n".join(candidates(" ".join(sys.argv[2:]))))
    cli.run(main, positional=("SHELL",))
