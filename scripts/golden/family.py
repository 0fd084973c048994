"""One family of goldens: named tensors in test/golden/<family>.safetensors, its list of cases in <family>.json.

Inputs are float32 numbers; the reference is computed by PyTorch in float64 from exactly those numbers and rounded once
to float32, so that a test measures our error and not PyTorch's.
"""
import json
import re
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parents[2] / "test" / "golden"


def snake(name):
    return re.sub(r"[A-Z]", lambda m: "_" + m.group().lower(), name)


class Family:
    def __init__(self, name):
        self.name, self.tensors, self.cases = name, {}, []
        # The seed depends on the family alone: a new case in one family leaves the others' files as they are.
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    # ---- inputs
    def randn(self, *shape, scale=1.0):
        return torch.randn(shape, generator=self.generator) * scale

    def uniform(self, *shape, low=-1.0, high=1.0):
        return torch.rand(shape, generator=self.generator) * (high - low) + low

    def ints(self, *shape, low=0, high=10):
        return torch.randint(low, high, shape, generator=self.generator)

    def bools(self, *shape):
        return torch.rand(shape, generator=self.generator) < 0.5

    # ---- cases
    def put(self, key, tensor):
        """Stores a tensor; float64 references are rounded to float32."""
        assert key not in self.tensors, key
        tensor = tensor.detach()
        self.tensors[key] = (tensor.float() if tensor.dtype == torch.float64 else tensor).clone().contiguous()

    def case(self, kind, **fields):
        """Adds a case with a name of its own and returns the name."""
        name = f"{kind}_{sum(c['kind'] == kind for c in self.cases)}"
        self.cases.append({"name": name, "kind": kind, **fields})
        return name

    def op(self, kind, function, inputs, **options):
        """A function of tensors: in<i>, out<i>, and where an output is differentiable cot<i> and grad<i>.

        Options carry their TypeScript names; the PyTorch function gets them in snake case.
        """
        arguments = [x.double().requires_grad_() if x.is_floating_point() else x for x in inputs]
        outputs = function(*arguments, **{snake(k): v for k, v in options.items()})
        outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        differentiable = [i for i, y in enumerate(outputs) if y.requires_grad]
        name = self.case(kind, options=options, inputs=len(inputs), outputs=len(outputs), grads=[])
        for i, x in enumerate(inputs):
            self.put(f"{name}/in{i}", x)
        for i, y in enumerate(outputs):
            self.put(f"{name}/out{i}", y)
        if differentiable:
            cotangents = [self.randn(*outputs[i].shape) for i in differentiable]
            for i, cotangent in zip(differentiable, cotangents):
                self.put(f"{name}/cot{i}", cotangent)
            torch.autograd.backward([outputs[i] for i in differentiable], [c.double() for c in cotangents])
            for i, x in enumerate(arguments):
                if x.grad is not None:
                    self.cases[-1]["grads"].append(i)
                    self.put(f"{name}/grad{i}", x.grad)

    def write(self):
        lines = ",\n".join("  " + json.dumps(case) for case in self.cases)
        (FOLDER / f"{self.name}.json").write_text(f"[\n{lines}\n]\n")
        if self.tensors:
            path = FOLDER / f"{self.name}.safetensors"
            save_file(self.tensors, path, {"torch": torch.__version__})
            path.chmod(0o644)
        return sum(f.stat().st_size for f in FOLDER.glob(f"{self.name}.*"))
