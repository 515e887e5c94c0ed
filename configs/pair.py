"""Any two checkpoints: directories or hub ids, base first.

    python -m svdjax.sweep --config=configs/pair.py:base=DIR,post=DIR --workdir=runs/mine
    python -m svdjax.sweep --config=configs/pair.py:base=org/model@v1,post=org/model-it

Paths too strange for the argument go through leaves:

    python -m svdjax.sweep --config=configs/pair.py --config.base='odd,base=path' --config.post=D
"""

from ml_collections import config_dict

from svdjax.options import default_config, parse_argument


def get_config(argument=None):
    """One pair named `pair`; its sides are the leaves `base` and `post`."""
    given = parse_argument(argument, known=("base", "post"))
    config = default_config("pair", {})
    with config.unlocked():
        for side in ("base", "post"):
            config[side] = config_dict.placeholder(str)
            if side in given:
                config[side] = given[side]
        sides = {"base": config.get_ref("base"), "post": config.get_ref("post"), "paper": ""}
        config.pairs = config_dict.ConfigDict({"pair": sides})
    return config
