"""The torch loop that tools/benchmark.py measures against: one pair of checkpoints.

    python tools/benchmark_torch.py BASE POST [--naive | --construct]

As one would write it with care: one matrix pair at a time, read lazily, in float32 and in the tall
orientation (--naive: as stored), on CUDA where there is one. --construct makes eq. 11 of the
attention matrices instead of comparing all of them, and writes them. Prints JSON with the seconds
by projection.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def tensors(folder: str) -> dict:
    """Every tensor's open file by name."""
    paths = sorted(pathlib.Path(folder).glob("*.safetensors"))
    found = {}
    for file in (safe_open(path, "pt") for path in paths):
        found |= dict.fromkeys(file.keys(), file)
    return found


def main() -> None:
    """Does one of the two."""
    base, post, *options = sys.argv[1:]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    of_base, of_post = tensors(base), tensors(post)
    seconds: dict[str, float] = {}
    results = {}
    for name, file in of_base.items():
        projection = name.split(".")[-2]
        if not projection.endswith("_proj") or not name.endswith("weight"):
            continue
        if "--construct" in options and projection not in ATTENTION:
            continue
        start = time.perf_counter()
        # W is the transpose of what is stored.
        one = file.get_tensor(name).to(device).T.float()
        two = of_post[name].get_tensor(name).to(device).T.float()
        flip = one.shape[0] < one.shape[1] and "--naive" not in options
        if flip:
            one, two = one.T, two.T
        u1, s1, v1 = torch.linalg.svd(one, full_matrices=False)
        u2, s2, v2 = torch.linalg.svd(two, full_matrices=False)
        if flip:
            u1, v1, u2, v2 = v1.T, u1.T, v2.T, u2.T
        q1 = u1.T @ u2
        if "--construct" in options:
            turned = v1.T @ q1
            results[name] = ((u2 * s2) @ turned.T).T.to(torch.bfloat16).contiguous().cpu()
        else:
            i_orth = q1.T @ (v1 @ v2.T)
            eye = torch.eye(len(s1), device=device)
            nf = torch.linalg.norm(i_orth - eye) / len(s1)
            results[name] = (s2 / s1).cpu(), float(nf)
        seconds[projection] = seconds.get(projection, 0.0) + time.perf_counter() - start
    if "--construct" in options:
        save_file(results, f"{post}/../torch_out.safetensors")
    print(json.dumps({"shapes": seconds, "device": device}))


if __name__ == "__main__":
    main()
