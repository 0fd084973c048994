"""Writes test/golden: what PyTorch computes, for tests that need no Python.

    python -m venv env && env/bin/pip install torch numpy safetensors transformers
    env/bin/python scripts/goldens.py [family...]       without a name: all families

Every family is seeded by its name and computed on one thread, so a second run writes the same bytes.
"""
import sys

import torch

sys.dont_write_bytecode = True
from golden import amp, models, modules, ops, optim, pipeline, products  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

if __name__ == "__main__":
    wanted, total = sys.argv[1:], 0
    for family in [*ops.FAMILIES, *products.FAMILIES, *modules.FAMILIES, *optim.FAMILIES, *models.FAMILIES, *amp.FAMILIES, *pipeline.FAMILIES]:
        if wanted and family.__name__ not in wanted:
            continue
        written = family()
        size = written.write()
        total += size
        print(f"{written.name}: {len(written.cases)} cases, {size / 1024:.0f} KB")
    print(f"{total / 1024:.0f} KB, torch {torch.__version__}")
