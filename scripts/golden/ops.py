"""Goldens of the operations, one function per family. `kind` is the name of our function."""
import torch
import torch.nn.functional as F

from golden.family import Family


def pointwise():
    f = Family("pointwise")
    anywhere = ["neg", "abs", "sign", "exp", "expm1", "square", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "asinh",
                "erf", "sigmoid", "floor", "ceil", "round", "trunc", "relu", "exp2"]
    for kind in anywhere:
        f.op(kind, getattr(torch, kind), [f.randn(3, 5, scale=2)])
    for kind in ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"]:
        f.op(kind, getattr(torch, kind), [f.uniform(3, 5, low=0.05, high=4)])
    for kind in ["asin", "acos", "atanh"]:
        f.op(kind, getattr(torch, kind), [f.uniform(3, 5, low=-0.95, high=0.95)])
    f.op("acosh", torch.acosh, [f.uniform(3, 5, low=1.05, high=4)])
    for kind, function in [("silu", F.silu), ("softplus", F.softplus), ("leakyRelu", F.leaky_relu), ("elu", F.elu),
                           ("logSigmoid", F.logsigmoid), ("mish", F.mish), ("hardtanh", F.hardtanh),
                           ("hardsigmoid", F.hardsigmoid), ("hardswish", F.hardswish), ("relu6", F.relu6)]:
        f.op(kind, function, [f.randn(3, 5, scale=3)])
    f.op("leakyRelu", F.leaky_relu, [f.randn(3, 5)], negativeSlope=0.2)
    f.op("elu", F.elu, [f.randn(3, 5)], alpha=0.5)
    for approximate in ["none", "tanh"]:
        f.op("gelu", F.gelu, [f.randn(3, 5, scale=3)], approximate=approximate)
    f.op("clamp", torch.clamp, [f.randn(3, 5, scale=2)], min=-1.0, max=0.5)
    f.op("clamp", torch.clamp, [f.randn(3, 5, scale=2)], min=-1.0)
    for kind in ["add", "sub", "mul", "div", "maximum", "minimum", "atan2"]:
        f.op(kind, getattr(torch, kind), [f.randn(3, 5), f.randn(5)])
        f.op(kind, getattr(torch, kind), [f.randn(3, 1), f.randn(2, 1, 4)])
    f.op("pow", torch.pow, [f.uniform(3, 5, low=0.1, high=2), f.randn(5)])
    for kind in ["fmod", "remainder"]:
        f.op(kind, getattr(torch, kind), [f.randn(3, 5, scale=5), f.uniform(5, low=0.5, high=2)])
        f.op(kind, getattr(torch, kind), [f.ints(3, 5, low=-20, high=20), f.ints(5, low=2, high=5)])
    for kind in ["eq", "ne", "lt", "le", "gt", "ge"]:
        f.op(kind, getattr(torch, kind), [f.ints(3, 5, high=3), f.ints(5, high=3)])
    for kind in ["logicalAnd", "logicalOr", "logicalXor"]:
        f.op(kind, getattr(torch, {"A": "logical_and", "O": "logical_or", "X": "logical_xor"}[kind[7]]), [f.bools(3, 5), f.bools(5)])
    f.op("logicalNot", torch.logical_not, [f.bools(3, 5)])
    f.op("where", torch.where, [f.bools(3, 5), f.randn(3, 5), f.randn(5)])
    f.op("lerp", torch.lerp, [f.randn(3, 5), f.randn(3, 5), f.uniform(5, low=0, high=1)])
    special = torch.tensor([0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan")])
    for kind in ["isnan", "isinf", "isfinite"]:
        f.op(kind, getattr(torch, kind), [special])
    # what the functions do where mathematics stops: zeros of both signs, infinities, NaN
    for kind in ["exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "sigmoid", "erf", "relu", "abs", "sign", "sin"]:
        f.op(kind, getattr(torch, kind), [special.clone()])
    for kind in ["maximum", "minimum", "add", "mul", "div"]:
        with torch.no_grad():  # gradients at infinities are not a contract
            name = f.case(kind, options={}, inputs=2, outputs=1, grads=[])
            a, b = special.reshape(6, 1), special.clone()
            f.put(f"{name}/in0", a), f.put(f"{name}/in1", b), f.put(f"{name}/out0", getattr(torch, kind)(a, b))
    return f


def reductions():
    f = Family("reductions")
    for kind in ["sum", "mean", "amax", "amin", "logsumexp", "var", "std"]:
        function = getattr(torch, kind)
        for options in [{"dim": 1}, {"dim": [0, 2], "keepdim": True}, {"dim": -1}]:
            f.op(kind, function, [f.randn(3, 4, 5)], **options)
    for kind in ["sum", "mean", "prod", "max", "min", "var", "std"]:
        f.op(kind, getattr(torch, kind), [f.randn(3, 4)])
    for correction in [0, 2]:
        f.op("var", torch.var, [f.randn(3, 6)], dim=1, correction=correction)
        f.op("std", torch.std, [f.randn(3, 6)], dim=0, correction=correction)
    for dim in [0, 1]:
        f.op("prod", torch.prod, [f.randn(4, 3)], dim=dim)
        for kind in ["argmax", "argmin"]:
            f.op(kind, getattr(torch, kind), [f.randn(4, 3)], dim=dim)
        for kind in ["any", "all"]:
            f.op(kind, getattr(torch, kind), [f.bools(4, 3)], dim=dim)
        for kind in ["cumsum", "cumprod"]:
            f.op(kind, getattr(torch, kind), [f.randn(4, 5)], dim=dim)
        # ties: amax shares its gradient evenly, as PyTorch's does
        for kind in ["amax", "amin"]:
            f.op(kind, getattr(torch, kind), [f.ints(4, 6, high=3).float()], dim=dim)
    for p in [1.0, 2.0]:
        f.op("norm", torch.linalg.vector_norm, [f.randn(3, 4)], ord=p, dim=1)
    f.op("norm", torch.linalg.vector_norm, [f.randn(3, 4)])
    f.op("sum", torch.sum, [f.ints(3, 4)], dim=1)
    f.op("cumsum", torch.cumsum, [f.ints(3, 4)], dim=1)
    return f


def matmul():
    f = Family("matmul")
    for a, b in [([5], [5]), ([3, 5], [5]), ([5], [5, 4]), ([3, 5], [5, 4]), ([2, 3, 5], [2, 5, 4]), ([2, 3, 5], [5, 4]),
                 ([3, 5], [2, 5, 4]), ([2, 1, 3, 5], [4, 5, 2]), ([2, 3, 5], [5]), ([0, 5], [5, 4]), ([3, 0], [0, 4])]:
        f.op("matmul", torch.matmul, [f.randn(*a), f.randn(*b)])
    f.op("linear", F.linear, [f.randn(2, 3, 5), f.randn(4, 5), f.randn(4)])
    f.op("linear", F.linear, [f.randn(3, 5), f.randn(4, 5)])
    for equation, shapes in [("ij,jk->ik", [[3, 4], [4, 5]]), ("bij,bkj->bik", [[2, 3, 4], [2, 5, 4]]), ("i,j->ij", [[3], [4]]),
                             ("bhqd,bhkd->bhqk", [[2, 2, 3, 4], [2, 2, 5, 4]]), ("ij->ji", [[3, 4]]), ("ij->i", [[3, 4]]),
                             ("ij,ij->", [[3, 4], [3, 4]]), ("abc,cd,de->abe", [[2, 3, 4], [4, 3], [3, 2]]),
                             ("bij,j->bi", [[2, 3, 4], [4]]), ("ij,kj", [[3, 4], [5, 4]]), ("...ij,jk->...ik", [[2, 2, 3, 4], [4, 3]])]:
        inputs = [f.randn(*s) for s in shapes]
        f.op("einsum", lambda *xs, equation: torch.einsum(equation, *xs), inputs, equation=equation)
    return f


def normalizations():
    f = Family("normalizations")
    for dim in [0, 1, -1]:
        f.op("softmax", F.softmax, [f.randn(3, 4, 5, scale=2)], dim=dim)
        f.op("logSoftmax", F.log_softmax, [f.randn(3, 4, 5, scale=2)], dim=dim)
    # no overflow, and rows of -inf except one
    f.op("softmax", F.softmax, [torch.tensor([[1e4, 1e4 - 1, 0.0], [float("-inf"), 2.0, float("-inf")]])], dim=-1)
    f.op("logSoftmax", F.log_softmax, [torch.tensor([[1e4, 1e4 - 1, 0.0], [-1e4, 2.0, 3.0]])], dim=-1)
    f.op("layerNorm", lambda x, w, b, eps: F.layer_norm(x, [6], w, b, eps), [f.randn(2, 3, 6), f.randn(6), f.randn(6)], eps=1e-5)
    f.op("layerNorm", lambda x, eps: F.layer_norm(x, [6], None, None, eps), [f.randn(4, 6)], eps=1e-3)
    f.op("rmsNorm", lambda x, w, eps: F.rms_norm(x, [6], w, eps), [f.randn(2, 3, 6), f.randn(6)], eps=1e-6)
    f.op("rmsNorm", lambda x, eps: F.rms_norm(x, [6], None, eps), [f.randn(4, 6)], eps=1e-5)
    for groups, shape in [(1, [2, 4, 3]), (2, [2, 4, 3, 2]), (4, [3, 4, 5])]:
        f.op("groupNorm", lambda x, w, b, groups: F.group_norm(x, groups, w, b), [f.randn(*shape), f.randn(4), f.randn(4)], groups=groups)
    return f


def convolutions():
    f = Family("convolutions")
    conv2d = lambda x, w, b, stride, padding, dilation, groups: F.conv2d(x, w, b, stride, padding, dilation, groups)
    for x, w, stride, padding, dilation, groups in [
        ([2, 3, 6, 5], [4, 3, 3, 3], [1, 1], [0, 0], [1, 1], 1), ([2, 3, 6, 5], [4, 3, 3, 2], [2, 1], [1, 0], [1, 1], 1),
        ([1, 4, 7, 7], [6, 2, 3, 3], [1, 2], [2, 2], [2, 2], 2), ([2, 3, 5, 5], [3, 1, 3, 3], [1, 1], [1, 1], [1, 1], 3),
        ([2, 3, 4, 4], [5, 3, 1, 1], [1, 1], [0, 0], [1, 1], 1)]:
        f.op("conv2d", conv2d, [f.randn(*x), f.randn(*w), f.randn(w[0])],
             stride=stride, padding=padding, dilation=dilation, groups=groups)
    conv1d = lambda x, w, b, stride, padding, dilation, groups: F.conv1d(x, w, b, stride, padding, dilation, groups)
    for x, w, stride, padding, dilation, groups in [([2, 3, 8], [4, 3, 3], 1, 0, 1, 1), ([2, 4, 9], [4, 2, 3], 2, 2, 2, 2)]:
        f.op("conv1d", conv1d, [f.randn(*x), f.randn(*w), f.randn(w[0])],
             stride=stride, padding=padding, dilation=dilation, groups=groups)
    for options in [{"kernelSize": [2, 2]}, {"kernelSize": [3, 2], "stride": [2, 1], "padding": [1, 0]}]:
        f.op("maxPool2d", F.max_pool2d, [f.randn(2, 3, 6, 5)], **options)
        f.op("avgPool2d", F.avg_pool2d, [f.randn(2, 3, 6, 5)], **options)
    f.op("avgPool2d", F.avg_pool2d, [f.randn(2, 2, 5, 5)], kernelSize=[3, 3], stride=[2, 2], padding=[1, 1], countIncludePad=False)
    for x, w, options in [
        ([2, 3, 4, 3], [3, 2, 3, 2], {}), ([1, 4, 4, 5], [4, 3, 3, 3], {"stride": [2, 1], "padding": [1, 2], "groups": 2}),
        ([2, 2, 3, 4], [2, 3, 2, 3], {"stride": [3, 2], "padding": [0, 1], "outputPadding": [2, 1], "dilation": [1, 2]}),
        ([1, 3, 4, 4], [3, 1, 3, 3], {"stride": [2, 2], "padding": [1, 1], "outputPadding": [1, 1], "groups": 3})]:
        f.op("convTranspose2d", F.conv_transpose2d, [f.randn(*x), f.randn(*w), f.randn(w[1] * options.get("groups", 1))], **options)
    f.op("convTranspose1d", F.conv_transpose1d, [f.randn(2, 4, 5), f.randn(4, 3, 3), f.randn(6)], stride=2, padding=1, outputPadding=1, groups=2)
    return f


def indexing():
    f = Family("indexing")
    for dim in [0, 1]:
        f.op("gather", lambda x, i, dim: torch.gather(x, dim, i), [f.randn(3, 4), f.ints(3, 4, high=3)], dim=dim)
        f.op("scatterAdd", lambda x, i, s, dim: torch.scatter_add(x, dim, i, s),
             [f.randn(3, 4), f.ints(3, 4, high=3), f.randn(3, 4)], dim=dim)
        order = torch.argsort(f.randn(3, 4), dim=dim)[:, :3]  # no duplicates: scatter with duplicates is undefined
        f.op("scatter", lambda x, i, s, dim: torch.scatter(x, dim, i, s), [f.randn(3, 4), order, f.randn(3, 3)], dim=dim)
        f.op("indexSelect", lambda x, i, dim: torch.index_select(x, dim, i), [f.randn(3, 4, 2), f.ints(5, high=3)], dim=dim)
        f.op("indexAdd", lambda x, i, s, dim: torch.index_add(x, dim, i, s),
             [f.randn(3, 3, 2), f.ints(3, high=3), f.randn(3, 3, 2)], dim=dim)
    f.op("maskedFill", lambda x, m, value: x.masked_fill(m, value), [f.randn(3, 4), f.bools(4)], value=-2.5)
    f.op("maskedSelect", torch.masked_select, [f.randn(3, 4), f.bools(3, 4)])
    f.op("nonzero", torch.nonzero, [f.ints(3, 4, high=2)])
    f.op("embedding", lambda i, w: F.embedding(i, w), [f.ints(2, 5, high=6), f.randn(6, 3)])
    f.op("embedding", F.embedding, [f.ints(2, 5, high=3), f.randn(3, 4)], paddingIdx=1)
    f.op("oneHot", F.one_hot, [f.ints(2, 3, high=4)], numClasses=5)
    # what x.index(...) does with integers, slices, new axes, index tensors and masks; `at` is read by the test
    take = lambda x, *rest, at: x[python_index(at, rest)]
    for at, rest in [([1, {"slice": [1, 3]}], []), (["...", 0], []), ([None, {"slice": [None, None, 2]}], []),
                     ([{"tensor": 0}], [f.ints(2, 3, high=4)]), ([{"slice": [None]}, {"tensor": 0}], [f.ints(3, high=5)]),
                     ([{"tensor": 0}, {"tensor": 1}], [f.ints(3, high=4), f.ints(3, high=5)]),
                     ([{"tensor": 0}, {"slice": [None]}, {"tensor": 1}], [f.ints(3, high=4), f.ints(3, high=2)]),
                     ([{"tensor": 0}], [f.bools(4, 5)]), ([{"slice": [None]}, {"tensor": 0}], [f.bools(5)]),
                     ([-1, {"tensor": 0}], [f.ints(3, low=-5, high=5)])]:
        f.op("index", take, [f.randn(4, 5, 2), *rest], at=at)
    for accumulate in [False, True]:
        i, j = (torch.tensor([0, 2, 3]), torch.tensor([1, 1, 4])) if not accumulate else (torch.tensor([0, 2, 0]), torch.tensor([1, 1, 1]))
        f.op("indexPut", lambda x, i, j, v, accumulate: x.index_put((i, j), v, accumulate),
             [f.randn(4, 5), i, j, f.randn(3)], accumulate=accumulate)
    return f


def python_index(at, tensors):
    def one(item):
        if isinstance(item, dict):
            return slice(*item["slice"]) if "slice" in item else tensors[item["tensor"]]
        return Ellipsis if item == "..." else item
    return tuple(one(item) for item in at)


def shaping():
    f = Family("shaping")
    f.op("cat", lambda *xs, dim: torch.cat(xs, dim), [f.randn(2, 3), f.randn(2, 1), f.randn(2, 2)], dim=1)
    f.op("stack", lambda *xs, dim: torch.stack(xs, dim), [f.randn(2, 3), f.randn(2, 3)], dim=1)
    f.op("split", lambda x, size, dim: torch.split(x, size, dim), [f.randn(5, 2)], size=2, dim=0)
    f.op("split", lambda x, size, dim: torch.split(x, size, dim), [f.randn(2, 6)], size=[1, 2, 3], dim=1)
    f.op("chunk", torch.chunk, [f.randn(2, 7)], chunks=3, dim=1)
    f.op("pad", F.pad, [f.randn(2, 3, 4)], pad=[1, 2], value=0.5)
    f.op("pad", F.pad, [f.randn(2, 3, 4)], pad=[1, 0, -1, 2])
    f.op("roll", torch.roll, [f.randn(3, 4)], shifts=2, dims=1)
    f.op("roll", torch.roll, [f.randn(3, 4)], shifts=[1, -1], dims=[0, 1])
    f.op("flip", torch.flip, [f.randn(3, 4)], dims=[0, 1])
    f.op("repeat", lambda x, repeats: x.repeat(repeats), [f.randn(2, 3)], repeats=[2, 1, 2])
    f.op("repeatInterleave", torch.repeat_interleave, [f.randn(2, 3)], repeats=2, dim=1)
    for kind in ["tril", "triu"]:
        for diagonal in [-1, 0, 2]:
            f.op(kind, getattr(torch, kind), [f.randn(2, 3, 4)], diagonal=diagonal)
    f.op("diagonal", torch.diagonal, [f.randn(3, 4)], offset=1)
    f.op("movedim", torch.movedim, [f.randn(2, 3, 4)], source=0, destination=2)
    return f


def sorting():
    f = Family("sorting")
    for descending in [False, True]:
        f.op("sort", lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True), [f.randn(3, 5)],
             dim=-1, descending=descending)
        f.op("sort", lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True), [f.ints(6, 3, high=3).float()],
             dim=0, descending=descending)
        f.op("argsort", lambda x, dim, descending: torch.argsort(x, dim=dim, descending=descending, stable=True),
             [f.ints(3, 6, high=3)], dim=1, descending=descending)
        f.op("sort", lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True),
             [torch.tensor([1.0, float("nan"), -1.0, float("inf"), float("-inf"), 0.5])], dim=0, descending=descending)
    for largest in [True, False]:
        f.op("topk", torch.topk, [f.randn(3, 7)], k=3, dim=1, largest=largest)
        f.op("topk", torch.topk, [f.randn(6, 3)], k=2, dim=0, largest=largest)
    for kind in ["max", "min"]:
        f.op(kind, getattr(torch, kind), [f.randn(3, 5)], dim=1)
    nan = float("nan")
    some = torch.tensor([[1.0, nan, 3.0, nan], [-1.0, 4.0, 4.0, 2.0]])
    for kind in ["max", "min", "median"]:
        for x, dim in [(f.randn(3, 5), 1), (f.randn(4, 3), 0), (some, 1)]:
            f.op(kind + "WithIndices", lambda x, dim, keepdim, kind=kind: getattr(torch, kind)(x, dim, keepdim), [x.clone()],
                 dim=dim, keepdim=dim == 0)
    for x in [f.randn(7), f.randn(2, 4), torch.tensor([2.0, nan, 1.0])]:
        f.op("median", torch.median, [x])
    f.op("kthvalue", torch.kthvalue, [f.randn(3, 6)], k=2, dim=1, keepdim=True)
    f.op("aminmax", lambda x, dim: tuple(torch.aminmax(x, dim=dim)), [f.randn(3, 5)], dim=1)
    f.op("mode", torch.mode, [torch.tensor([[3.0, 1, 2, 1, 3], [5, 4, 4, 5, 5], [2, 1, 3, 4, 5]])], dim=1)
    for kind in ["cummax", "cummin"]:
        for x, dim in [(f.randn(3, 9), 1), (f.ints(6, 3, high=4).float(), 0), (some, 1)]:
            f.op(kind, getattr(torch, kind), [x.clone()], dim=dim)
    return f


def losses():
    f = Family("losses")
    targets = torch.tensor([0, 3, -100, 2, 1, -100])
    for reduction in ["mean", "sum", "none"]:
        f.op("crossEntropy", F.cross_entropy, [f.randn(6, 5), f.ints(6, high=5)], reduction=reduction)
        f.op("crossEntropy", F.cross_entropy, [f.randn(6, 5), targets.clone()], reduction=reduction, labelSmoothing=0.1)
        f.op("crossEntropy", lambda x, t, weight, **o: F.cross_entropy(x, t, weight.detach(), **o),
             [f.randn(6, 5), targets.clone(), f.uniform(5, low=0.2, high=2)], reduction=reduction, labelSmoothing=0.2)
        f.op("nllLoss", F.nll_loss, [F.log_softmax(f.randn(6, 5), -1), targets.clone()], reduction=reduction)
        for kind, function in [("mseLoss", F.mse_loss), ("l1Loss", F.l1_loss), ("huberLoss", F.huber_loss),
                               ("smoothL1Loss", F.smooth_l1_loss)]:
            f.op(kind, function, [f.randn(3, 4, scale=2), f.randn(3, 4)], reduction=reduction)
        f.op("binaryCrossEntropyWithLogits", F.binary_cross_entropy_with_logits, [f.randn(3, 4, scale=3), f.uniform(3, 4, low=0)],
             reduction=reduction)
        f.op("klDiv", F.kl_div, [F.log_softmax(f.randn(3, 4), -1), F.softmax(f.randn(3, 4), -1)], reduction=reduction)
    f.op("crossEntropy", F.cross_entropy, [f.randn(2, 5, 3), f.ints(2, 3, high=5)])
    f.op("crossEntropy", F.cross_entropy, [f.randn(4, 5), torch.tensor([1, 0, 4, 1])], ignoreIndex=1)
    f.op("huberLoss", F.huber_loss, [f.randn(3, 4, scale=2), f.randn(3, 4)], delta=0.5)
    f.op("smoothL1Loss", F.smooth_l1_loss, [f.randn(3, 4, scale=2), f.randn(3, 4)], beta=0.5)
    f.op("binaryCrossEntropyWithLogits", lambda x, t, posWeight: F.binary_cross_entropy_with_logits(x, t, pos_weight=posWeight.detach()),
         [f.randn(3, 4, scale=3), f.uniform(3, 4, low=0), f.uniform(4, low=0.5, high=3)])
    f.op("klDiv", F.kl_div, [F.log_softmax(f.randn(3, 4), -1), F.softmax(f.randn(3, 4), -1)], reduction="batchmean")
    f.op("klDiv", F.kl_div, [F.log_softmax(f.randn(3, 4), -1), F.log_softmax(f.randn(3, 4), -1)], reduction="batchmean", logTarget=True)
    return f


def attention():
    f = Family("attention")

    def reference(q, k, v, mask=None, *, causal=False, scale=None):
        """Grouped-query attention in the open; a causal mask aligns the last query with the last key."""
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        rows, columns = q.shape[2], k.shape[2]
        if causal:
            mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)

    def qkv(heads, kv_heads, rows, columns):
        return [f.randn(2, heads, rows, 8), f.randn(2, kv_heads, columns, 8), f.randn(2, kv_heads, columns, 8)]

    kind = "scaledDotProductAttention"
    f.op(kind, reference, qkv(2, 2, 5, 5))
    f.op(kind, reference, qkv(2, 2, 5, 5), causal=True)
    f.op(kind, reference, qkv(2, 2, 2, 5), causal=True)
    f.op(kind, reference, qkv(4, 2, 5, 5), causal=True)
    f.op(kind, reference, qkv(4, 1, 3, 6))
    f.op(kind, reference, qkv(2, 2, 3, 6), scale=0.5)
    visible = f.bools(2, 1, 3, 6)
    visible[..., 0] = True
    f.op(kind, reference, [*qkv(2, 2, 3, 6), visible])
    f.op(kind, reference, [*qkv(4, 2, 3, 6), f.randn(3, 6)])
    additive = torch.zeros(3, 6).masked_fill(f.bools(3, 6), float("-inf"))
    additive[:, 2] = 0.25
    f.op(kind, reference, [*qkv(2, 2, 3, 6), additive])

    def rotate(x, cos, sin, interleaved):
        """RoFormer (Su et al. 2021): pairs (2i, 2i+1), or as in GPT-NeoX (i, i + D/2). x is [B, T, H, D]."""
        half = x.shape[-1] // 2
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
        c, s = cos[:, None], sin[:, None]
        y = [a * c - b * s, b * c + a * s]
        return torch.stack(y, -1).flatten(-2) if interleaved else torch.cat(y, -1)

    angles = torch.arange(5)[:, None] / 10000 ** (torch.arange(0, 8, 2) / 8)
    for interleaved in [False, True]:
        f.op("rotaryEmbedding", lambda x, c, s, interleaved: rotate(x, c.detach(), s.detach(), interleaved),
             [f.randn(2, 5, 3, 8), angles.cos(), angles.sin()], interleaved=interleaved)
    return f


def promotion():
    """torch.result_type for every pair of dtypes and for the three kinds of scalar."""
    f = Family("promotion")
    names = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "int8", "int16"]
    dtype = lambda name: getattr(torch, name)
    show = lambda t: str(t).removeprefix("torch.")
    for a in names:
        ones = torch.ones(2, dtype=dtype(a))
        f.case("pair", a=a, results={b: show(torch.result_type(ones, torch.ones(2, dtype=dtype(b)))) for b in names},
               # a tensor without dimensions is as weak as in PyTorch: it only decides between kinds
               scalarTensor={b: show(torch.result_type(ones, torch.ones((), dtype=dtype(b)))) for b in names})
    return f


def images():
    f = Family("images")
    for shape, options in [
        ([2, 2, 5], {"size": 8}), ([2, 2, 3, 4], {"size": [5, 3]}), ([1, 2, 3, 4], {"scaleFactor": 2.0}),
        ([1, 2, 3, 4], {"scaleFactor": [1.7, 0.5], "mode": "nearest-exact"}), ([1, 2, 2, 3, 2], {"scaleFactor": 2.0}),
        ([2, 2, 5], {"size": 8, "mode": "linear"}), ([2, 2, 5], {"size": 3, "mode": "linear", "alignCorners": True}),
        ([2, 2, 3, 4], {"size": [5, 7], "mode": "bilinear"}), ([2, 2, 6, 5], {"size": [3, 4], "mode": "bilinear"}),
        ([1, 2, 3, 4], {"size": [1, 6], "mode": "bilinear", "alignCorners": True}), ([1, 2, 3, 4], {"scaleFactor": 1.7, "mode": "bilinear"}),
        ([1, 2, 4, 5], {"size": [7, 3], "mode": "bicubic"}), ([1, 2, 4, 5], {"scaleFactor": [2.0, 1.3], "mode": "bicubic", "alignCorners": True}),
        ([1, 2, 3, 2, 4], {"size": [4, 3, 3], "mode": "trilinear"})]:
        f.op("interpolate", F.interpolate, [f.randn(*shape)], **options)
    for options in [{"kernelSize": [2, 3]}, {"kernelSize": [2, 2], "stride": [2, 1], "padding": [1, 2], "dilation": [1, 2]}]:
        f.op("im2col", F.unfold, [f.randn(2, 3, 4, 5)], **options)
        shape = f.tensors[f"im2col_{len([c for c in f.cases if c['kind'] == 'im2col']) - 1}/out0"].shape
        f.op("col2im", F.fold, [f.randn(*shape)], outputSize=[4, 5], **options)
    f.op("pixelShuffle", F.pixel_shuffle, [f.randn(2, 12, 2, 3)], upscaleFactor=2)
    f.op("pixelUnshuffle", F.pixel_unshuffle, [f.randn(2, 3, 4, 6)], downscaleFactor=2)
    f.op("channelShuffle", torch.channel_shuffle, [f.randn(2, 6, 2, 2)], groups=3)
    return f


FAMILIES = [pointwise, reductions, matmul, normalizations, convolutions, indexing, shaping, sorting, losses, attention, images, promotion]
