r"""Any two checkpoints: directories or hub ids, base first.

    python -m svdjax.sweep --config=configs/pair.py:base=DIR,post=DIR --workdir=runs/mine
    python -m svdjax.sweep --config=configs/pair.py:base=org/model@v1,post=org/model-it

Constructed models are made of it, and judged on held-out text, with

    python -m svdjax.sweep --config=configs/pair.py:base=D,post=D,text=FILE.jsonl \
        "--config.stages=('spectra', 'constructions', 'report')"

where FILE has a {"prompt": …, "completion": …} or {"text": …} a line; `other=D` names another
post model of the same base, for eq. 12.

Paths too strange for the argument go through leaves:

    python -m svdjax.sweep --config=configs/pair.py --config.base='odd,base=path' --config.post=D
"""

from ml_collections import config_dict

from svdjax.options import default_config, parse_argument


def get_config(argument=None):
    """One pair named `pair`; its sides are the leaves `base`, `post`, `other` and `text`."""
    given = parse_argument(argument, known=("base", "post", "other", "text"))
    config = default_config("pair", {})
    with config.unlocked():
        for side in ("base", "post", "other", "text"):
            config[side] = config_dict.placeholder(str)
            if side in given:
                config[side] = given[side]
        sides = {side: config.get_ref(side) for side in ("base", "post", "other", "text")}
        config.pairs = config_dict.ConfigDict({"pair": sides})
    return config
