"""PyTorch's side of bench/kernels.ts and bench/gpu/kernels.ts: one JSON line names a case, one answers with milliseconds a call, or with
nanoseconds of a small call. What a case works on is made once and kept until {"forget": true}."""
import json
import math
import os
import statistics
import sys
import time


def make(sizes, dtype, device):
    import torch
    import torch.nn.functional as F

    s = sizes
    new = lambda *shape: torch.randn(shape, dtype=dtype, device=device)
    leaf = lambda *shape: new(*shape).requires_grad_()
    ids = lambda high, n: torch.randint(0, high, (n,), device=device)

    def backward(y, *inputs):
        g = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, inputs, g, retain_graph=True)

    def pointwise(fn, *inputs):
        return lambda: fn(*inputs)

    def norm(kind, grad):
        create = leaf if grad else new
        x, w, b = create(s["rows"], s["cols"]), create(s["cols"]), create(s["cols"])
        if kind == "layer":
            call = lambda: F.layer_norm(x, [s["cols"]], w, b)
            return backward(call(), x, w, b) if grad else call
        call = lambda: F.rms_norm(x, [s["cols"]], w, eps=1e-6)
        return backward(call(), x, w) if grad else call

    def cross_entropy(grad):
        x, y = (leaf if grad else new)(s["rows"], s["cols"]), ids(s["cols"], s["rows"])
        call = lambda: F.cross_entropy(x, y)
        return backward(call(), x) if grad else call

    def embedding(grad):
        w, x = (leaf if grad else new)(s["vocabSize"], s["dim"]), ids(s["vocabSize"], s["tokens"])
        call = lambda: F.embedding(x, w)
        return backward(call(), w) if grad else call

    def attention(grad):
        q, k, v = ((leaf if grad else new)(s["b"], s["h"], s["t"], s["d"]) for _ in range(3))
        call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return backward(call(), q, k, v) if grad else call

    def softmax(grad):
        x = (leaf if grad else new)(s["rows"], s["cols"])
        call = lambda: torch.softmax(x, -1)
        return backward(call(), x) if grad else call

    def adamw():
        dim = s["dim"]
        block = [(3 * dim, dim), (3 * dim,), (dim, dim), (dim,), (4 * dim, dim), (4 * dim,), (dim, 4 * dim), (dim,)] + [(dim,)] * 4
        parameters = [leaf(*shape) for shape in [(s["vocabSize"], dim), (1024, dim)] + block * s["layers"]]
        for p in parameters:
            p.grad = torch.randn_like(p)
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True).step

    def conv(grad):
        create = leaf if grad else new
        x, w = create(s["n"], s["c"], s["size"], s["size"]), create(s["f"], s["c"] // s["groups"], s["k"], s["k"])
        padding = s["dilation"] * (s["k"] - 1) // 2
        call = lambda: F.conv2d(x, w, None, s["stride"], padding, s["dilation"], s["groups"])
        return backward(call(), x, w) if grad else call

    def max_pool(grad):
        x = (leaf if grad else new)(s["n"], s["c"], s["size"], s["size"])
        call = lambda: F.max_pool2d(x, 2)
        return backward(call(), x) if grad else call

    def batch_norm(grad):
        create = leaf if grad else new
        x, w, b = create(s["n"], s["c"], s["size"], s["size"]), create(s["c"]), create(s["c"])
        call = lambda: F.batch_norm(x, None, None, w, b, training=True)
        return backward(call(), x, w, b) if grad else call

    def transpose():
        x = new(s["rows"], s["cols"])
        return lambda: x.t().contiguous()

    def weight_gradient():
        x, g = new(s["m"], s["k"]), new(s["m"], s["n"])
        return lambda: g.t() @ x

    matrix = lambda: new(s["rows"], s["cols"])
    return {
        "copy": lambda: pointwise(torch.clone, new(s["n"])),
        "add": lambda: pointwise(torch.add, new(s["n"]), new(s["n"])),
        "gelu": lambda: pointwise(lambda x: F.gelu(x, approximate="tanh"), new(s["n"])),
        "exp": lambda: pointwise(torch.exp, new(s["n"])),
        "addRow": lambda: pointwise(torch.add, matrix(), new(s["cols"])),
        "cast": lambda: pointwise(lambda x: x.to(torch.bfloat16), new(s["n"])),
        "transpose": transpose,
        "sumAll": lambda: pointwise(torch.sum, new(s["n"])),
        "sumRows": lambda: pointwise(lambda x: x.sum(1), matrix()),
        "sumColumns": lambda: pointwise(lambda x: x.sum(0), matrix()),
        "softmax": lambda: softmax(False),
        "softmaxBackward": lambda: softmax(True),
        "layerNorm": lambda: norm("layer", False),
        "layerNormBackward": lambda: norm("layer", True),
        "rmsNorm": lambda: norm("rms", False),
        "rmsNormBackward": lambda: norm("rms", True),
        "crossEntropy": lambda: cross_entropy(False),
        "crossEntropyBackward": lambda: cross_entropy(True),
        "embedding": lambda: embedding(False),
        "embeddingBackward": lambda: embedding(True),
        "adamw": adamw,
        "attention": lambda: attention(False),
        "attentionBackward": lambda: attention(True),
        "conv": lambda: conv(False),
        "convBackward": lambda: conv(True),
        "maxPool": lambda: max_pool(False),
        "maxPoolBackward": lambda: max_pool(True),
        "batchNorm": lambda: batch_norm(False),
        "batchNormBackward": lambda: batch_norm(True),
        "matmul": lambda: pointwise(torch.matmul, new(s["m"], s["k"]), new(s["k"], s["n"])),
        "linear": lambda: pointwise(F.linear, new(s["m"], s["k"]), new(s["n"], s["k"])),
        "weightGradient": weight_gradient,
    }


def host_call(name):
    """What bench/host_calls.ts has by the same name."""
    import torch

    one = lambda value: torch.full((1,), float(value))
    a, b = one(1), one(2)
    p = one(1).requires_grad_()
    square = torch.ones(1, 1)

    def backward():
        (p * b).sum().backward()
        p.grad = None

    return {
        "a.add(b)": lambda: a.add(b),
        "a.mul(2)": lambda: a.mul(2),
        "a.exp()": lambda: a.exp(),
        "a.sum()": lambda: a.sum(),
        "a.reshape([1, 1])": lambda: a.reshape(1, 1),
        "a.matmul(b)": lambda: square.matmul(square),
        "a.softmax(-1)": lambda: a.softmax(-1),
        "p.mul(b), recorded": lambda: p.mul(b),
        "(p·b).sum().backward()": backward,
        "a.add(b), read at once": lambda: a.add(b).item(),
    }[name]


def nanoseconds(call, count=2000, rounds=9):
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        times.append((time.perf_counter_ns() - start) / count)
    return statistics.median(times)


def milliseconds(call, count, device):
    """Of one of `count` calls, on the device where there is one."""
    import torch

    if device == "cpu":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) * 1000 / count
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def main():
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = "cuda" if sys.argv[1] == "cuda" and torch.cuda.is_available() else "cpu"
    made, count = None, 1
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "hello" in question:
                where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
                answer = {"name": f"PyTorch {torch.__version__} on {where}"}
            elif "host" in question:
                answer = {"ns": nanoseconds(host_call(question["host"]))}
            elif "forget" in question:
                made, answer = None, {}
                if device == "cuda":
                    torch.cuda.empty_cache()
            else:
                if made is None:
                    made = make(question["sizes"], getattr(torch, question["dtype"]), device)[question["kind"]]()
                    milliseconds(made, 2, device)
                    count = min(1000, max(1, math.ceil(question["runMs"] / max(milliseconds(made, 1, device), 1e-3))))
                answer = {"ms": milliseconds(made, count, device)}
        except Exception as error:  # the bench prints it and goes on
            answer = {"error": str(error).split("\n")[0]}
        print(json.dumps(answer), flush=True)


try:
    main()
except ImportError as missing:
    print(json.dumps({"error": str(missing)}), flush=True)
