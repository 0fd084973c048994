"""Goldens of products made of others, distances, diagonals, and of counting and looking up."""
import torch

from golden.family import Family


def products():
    f = Family("products")
    f.op("cross", torch.linalg.cross, [f.randn(4, 3), f.randn(4, 3)])
    f.op("cross", lambda a, b, dim: torch.linalg.cross(a, b, dim=dim), [f.randn(3, 2), f.randn(3, 1)], dim=0)
    for a, b in [([2, 3], [3, 2]), ([3], [2, 2]), ([2, 1, 2], [3])]:
        f.op("kron", torch.kron, [f.randn(*a), f.randn(*b)])
    f.op("tensordot", torch.tensordot, [f.randn(2, 3, 4), f.randn(3, 4, 5)])
    for dims, a, b in [(0, [2, 3], [2]), (1, [2, 3], [3, 4]), ([[0, 2], [1, 0]], [2, 3, 4], [4, 2, 5])]:
        f.op("tensordot", lambda a, b, dims: torch.tensordot(a, b, dims), [f.randn(*a), f.randn(*b)], dims=dims)
    for p in [0.0, 1.0, 2.0, 3.0, float("inf")]:
        f.op("cdist", lambda a, b, p: torch.cdist(a, b, float(p)), [f.randn(2, 4, 3), f.randn(2, 5, 3)], p="inf" if p == float("inf") else p)
    f.op("cdist", lambda a, b, p: torch.cdist(a, b, p), [f.randn(30, 4), f.randn(28, 4)], p=2.0)
    same = f.randn(4, 3)
    for p in [1.0, 2.0, 3.0]:
        f.op("cdist", lambda a, b, p: torch.cdist(a, b, p), [same.clone(), same.clone()], p=p)
    for options in [{}, {"offset": 1}, {"offset": -2}, {"offset": 1, "dim1": 2, "dim2": 0}]:
        f.op("diagEmbed", torch.diag_embed, [f.randn(2, 3)], **options)
    for offset in [0, 2, -1]:
        f.op("diag", lambda x, offset: torch.diag(x, offset), [f.randn(3)], offset=offset)
        f.op("diag", lambda x, offset: torch.diag(x, offset), [f.randn(3, 4)], offset=offset)
    return f


def counting():
    f = Family("counting")
    f.op("bincount", lambda x, min_length: torch.bincount(x, minlength=min_length), [f.ints(20, high=7)], minLength=10)
    f.op("bincount", lambda x, weights: torch.bincount(x, weights.detach()), [f.ints(20, high=7), f.randn(20)])
    f.op("bincount", torch.bincount, [torch.zeros(0, dtype=torch.int64)])
    special = torch.tensor([0.0, 1.0, 0.25, 0.5, float("nan"), 2.0, -1.0, float("inf")])
    for x, options in [(f.randn(40), {"bins": 6, "low": -2.0, "high": 2.0}), (f.uniform(30), {"bins": 5, "low": 0.0, "high": 0.0}),
                       (special, {"bins": 4, "low": 0.0, "high": 1.0}), (torch.full([3], 2.0), {"bins": 3, "low": 0.0, "high": 0.0})]:
        f.op("histc", lambda x, bins, low, high: torch.histc(x.detach(), bins, low, high), [x], **options)
    for right in [False, True]:
        f.op("searchsorted", lambda t, x, right: torch.searchsorted(t.detach(), x.detach(), right=right),
             [f.ints(9, high=6).float().sort()[0], f.ints(3, 4, low=-1, high=8).float()], right=right)
        f.op("searchsorted", lambda t, x, right: torch.searchsorted(t, x, right=right),
             [f.ints(2, 5, high=6).sort(-1)[0], f.ints(2, 4, low=-1, high=8)], right=right)
        f.op("searchsorted", lambda t, x, right: torch.searchsorted(t.detach(), x.detach(), right=right), [f.randn(5).sort()[0], special.clone()], right=right)
        f.op("bucketize", lambda x, t, right: torch.bucketize(x.detach(), t.detach(), right=right), [f.randn(3, 4), f.randn(6).sort()[0]], right=right)
    for x in [f.ints(4, 5, high=6), f.ints(7, high=3).float(), torch.zeros(0)]:
        f.op("unique", lambda x: torch.unique(x.detach(), return_inverse=True, return_counts=True), [x])
        f.op("uniqueConsecutive", lambda x: torch.unique_consecutive(x.detach(), return_inverse=True, return_counts=True), [x.clone()])
    return f


def ctc():
    f = Family("ctc")
    loss = lambda x, targets, input_lengths, target_lengths, **o: torch.nn.functional.ctc_loss(
        x.log_softmax(-1), targets, torch.tensor(input_lengths), torch.tensor(target_lengths), **o)
    for reduction in ["mean", "sum", "none"]:
        f.op("ctcLoss", loss, [f.randn(12, 3, 5), f.ints(3, 4, low=1, high=5)], inputLengths=[12, 10, 9], targetLengths=[4, 2, 3], reduction=reduction)
    f.op("ctcLoss", loss, [f.randn(8, 3, 4), f.ints(6, high=3)], inputLengths=[8, 7, 5], targetLengths=[3, 1, 2], blank=3)
    f.op("ctcLoss", loss, [f.randn(8, 2, 4), torch.tensor([[1, 1, 2], [2, 0, 0]])], inputLengths=[8, 8], targetLengths=[3, 0], reduction="none")
    f.op("ctcLoss", loss, [f.randn(3, 2, 4), torch.tensor([[1, 1, 2], [2, 0, 0]])], inputLengths=[3, 3], targetLengths=[3, 1], reduction="sum",
         zeroInfinity=True)
    f.op("ctcLoss", loss, [f.randn(40, 1, 6), f.ints(1, 12, low=1, high=6)], inputLengths=[40], targetLengths=[12])
    return f


FAMILIES = [products, counting, ctc]
