"""Goldens of the modules: from given parameters and buffers (PyTorch's state-dict keys) and inputs to outputs, input
gradients (grad<i>), parameter gradients (param/<key>) and, in training mode, the buffers afterwards (after/<key>)."""
import math

import torch
from torch import nn

from golden.family import Family


def run(f, kind, module, inputs, *, training=True, call=None, **options):
    """`options` are the constructor's options by their TypeScript names; `call` takes (module, *inputs)."""
    for parameter in module.parameters():
        parameter.data = f.randn(*parameter.shape, scale=0.5)
    module = module.double().train(training)
    name = f.case(kind, options=options, training=training, inputs=len(inputs), grads=[])
    for key, value in module.state_dict().items():
        f.put(f"{name}/state/{key}", value)
    arguments = [x.double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    outputs = (call or (lambda m, *xs: m(*xs)))(module, *arguments)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    f.cases[-1]["outputs"] = len(outputs)
    cotangents = [f.randn(*y.shape) for y in outputs]
    torch.autograd.backward(outputs, [c.double() for c in cotangents])
    for i, x in enumerate(arguments):
        f.put(f"{name}/in{i}", x)
        if x.grad is not None:
            f.cases[-1]["grads"].append(i)
            f.put(f"{name}/grad{i}", x.grad)
    for i, (y, c) in enumerate(zip(outputs, cotangents)):
        f.put(f"{name}/out{i}", y)
        f.put(f"{name}/cot{i}", c)
    for key, parameter in module.named_parameters():
        f.put(f"{name}/param/{key}", parameter.grad)
    if training:
        for key, buffer in module.named_buffers():
            f.put(f"{name}/after/{key}", buffer)


def modules():
    f = Family("modules")
    run(f, "Linear", nn.Linear(5, 3), [f.randn(2, 4, 5)], inFeatures=5, outFeatures=3)
    run(f, "Linear", nn.Linear(5, 3, bias=False), [f.randn(4, 5)], inFeatures=5, outFeatures=3, bias=False)
    run(f, "Embedding", nn.Embedding(7, 4), [f.ints(2, 3, high=7)], numEmbeddings=7, embeddingDim=4)
    run(f, "Embedding", nn.Embedding(4, 3, padding_idx=1), [f.ints(2, 5, high=4)], numEmbeddings=4, embeddingDim=3, paddingIdx=1)
    run(f, "LayerNorm", nn.LayerNorm(6), [f.randn(2, 3, 6)], normalizedShape=6)
    run(f, "LayerNorm", nn.LayerNorm([3, 4], eps=1e-3), [f.randn(2, 3, 4)], normalizedShape=[3, 4], eps=1e-3)
    run(f, "LayerNorm", nn.LayerNorm(6, bias=False), [f.randn(2, 6)], normalizedShape=6, bias=False)
    run(f, "RMSNorm", nn.RMSNorm(6, eps=1e-6), [f.randn(2, 3, 6)], normalizedShape=6, eps=1e-6)
    run(f, "GroupNorm", nn.GroupNorm(2, 4), [f.randn(2, 4, 3, 3)], numGroups=2, numChannels=4)
    for training in [True, False]:
        for kind, module, shape, options in [
            ("BatchNorm1d", nn.BatchNorm1d(4), [5, 4], {}), ("BatchNorm1d", nn.BatchNorm1d(4, momentum=0.3), [5, 4, 3], {"momentum": 0.3}),
            ("BatchNorm2d", nn.BatchNorm2d(3), [2, 3, 4, 2], {}),
            ("BatchNorm2d", nn.BatchNorm2d(3, affine=False, eps=1e-3), [2, 3, 4, 2], {"affine": False, "eps": 1e-3})]:
            module.running_mean = f.randn(shape[1])
            module.running_var = f.uniform(shape[1], low=0.5, high=2)
            run(f, kind, module, [f.randn(*shape)], training=training, numFeatures=shape[1], **options)
    run(f, "Dropout", nn.Dropout(0.5), [f.randn(3, 4)], training=False, p=0.5)
    activations(f)
    attention(f)
    convolutions(f)
    recurrent(f)
    containers(f)
    losses(f)
    transposed_convolutions(f)
    images(f)
    more_activations(f)
    transformers(f)
    more_losses(f)
    return f


def activations(f):
    for kind in ["ReLU", "ReLU6", "SiLU", "Tanh", "Sigmoid", "Softplus", "Mish", "Hardswish", "Hardsigmoid", "Hardtanh", "SELU", "LogSigmoid"]:
        run(f, kind, getattr(nn, kind)(), [f.randn(3, 5, scale=3)])
    for approximate in ["none", "tanh"]:
        run(f, "GELU", nn.GELU(approximate), [f.randn(3, 5, scale=3)], approximate=approximate)
    run(f, "LeakyReLU", nn.LeakyReLU(0.2), [f.randn(3, 5)], negativeSlope=0.2)
    run(f, "ELU", nn.ELU(0.5), [f.randn(3, 5)], alpha=0.5)
    run(f, "Softmax", nn.Softmax(1), [f.randn(2, 3, 4)], dim=1)
    run(f, "LogSoftmax", nn.LogSoftmax(1), [f.randn(2, 3, 4)], dim=1)


class GroupedQueryAttention(nn.Module):
    """Causal self-attention with fewer key heads than query heads and rotary positions in halves (i, i + D/2), which
    PyTorch has no module for. Parameters are named and packed as nn.MultiheadAttention's: queries, keys, values."""

    def __init__(self, dim, heads, key_heads, rotary):
        super().__init__()
        self.heads, self.key_heads, self.size, self.rotary = heads, key_heads, dim // heads, rotary
        packed = dim + 2 * key_heads * self.size
        self.in_proj_weight = nn.Parameter(torch.empty(packed, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(packed))
        self.out_proj = nn.Linear(dim, dim)

    def rotate(self, x):
        half = self.size // 2
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def forward(self, x):
        batch, time, dim = x.shape
        packed = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        packed = packed.view(batch, time, -1, self.size).transpose(1, 2)
        q, k, v = packed.split([self.heads, self.key_heads, self.key_heads], 1)
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        k, v = (t.repeat_interleave(self.heads // self.key_heads, 1) for t in (k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(batch, time, dim))


class SwiGLU(nn.Module):
    """Shazeer, "GLU Variants Improve Transformer", 2020, with the names of Llama's feed-forward block."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def attention(f):
    blocked = torch.ones(4, 4, dtype=torch.bool).triu(1)  # PyTorch's modules mark what may NOT be seen
    padding = torch.tensor([[False, False, False, True], [False, True, False, True]])
    run(f, "MultiheadAttention", nn.MultiheadAttention(8, 2, batch_first=True), [f.randn(2, 4, 8)], embedDim=8, numHeads=2,
        call=lambda m, x: m(x, x, x, need_weights=False)[0])
    run(f, "MultiheadAttention", nn.MultiheadAttention(8, 2, batch_first=True, bias=False), [f.randn(2, 4, 8)], embedDim=8, numHeads=2,
        bias=False, isCausal=True, call=lambda m, x: m(x, x, x, attn_mask=blocked, is_causal=True, need_weights=False)[0])
    run(f, "MultiheadAttention", nn.MultiheadAttention(8, 2, batch_first=True), [f.randn(2, 3, 8), f.randn(2, 4, 8), f.randn(2, 4, 8), padding],
        embedDim=8, numHeads=2, call=lambda m, q, k, v, p: m(q, k, v, key_padding_mask=p, need_weights=False)[0])
    run(f, "MultiheadAttention", nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=5), [f.randn(2, 3, 8), f.randn(2, 4, 6), f.randn(2, 4, 5)],
        embedDim=8, numHeads=2, kdim=6, vdim=5, call=lambda m, q, k, v: m(q, k, v, need_weights=False)[0])
    for rotary in [False, True]:
        run(f, "MultiheadAttention", GroupedQueryAttention(16, 4, 2, rotary), [f.randn(2, 5, 16)], embedDim=16, numHeads=4, numKeyValueHeads=2,
            rotary=rotary, isCausal=True)
    run(f, "SwiGLU", SwiGLU(4, 6), [f.randn(2, 3, 4)], dim=4, hidden=6)
    for norm_first, activation in [(False, "relu"), (True, "gelu")]:
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation=activation, norm_first=norm_first, batch_first=True)
        run(f, "TransformerEncoderLayer", layer, [f.randn(2, 4, 8)], dModel=8, nhead=2, dimFeedforward=12, activation=activation,
            normFirst=norm_first)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    run(f, "TransformerEncoderLayer", layer, [f.randn(2, 4, 8), padding], dModel=8, nhead=2, dimFeedforward=12,
        call=lambda m, x, p: m(x, src_mask=blocked, src_key_padding_mask=p, is_causal=True), isCausal=True)


def convolutions(f):
    run(f, "Conv1d", nn.Conv1d(3, 4, 3, padding=1), [f.randn(2, 3, 7)], inChannels=3, outChannels=4, kernelSize=3, padding=1)
    run(f, "Conv1d", nn.Conv1d(4, 4, 2, stride=2, dilation=2, groups=2, bias=False), [f.randn(2, 4, 9)],
        inChannels=4, outChannels=4, kernelSize=2, stride=2, dilation=2, groups=2, bias=False)
    run(f, "Conv2d", nn.Conv2d(3, 4, 3, padding=1), [f.randn(2, 3, 5, 5)], inChannels=3, outChannels=4, kernelSize=3, padding=1)
    run(f, "Conv2d", nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), [f.randn(2, 4, 6, 5)],
        inChannels=4, outChannels=6, kernelSize=[3, 2], stride=[2, 1], padding=[1, 0], groups=2)
    run(f, "MaxPool2d", nn.MaxPool2d(2), [f.randn(2, 3, 6, 4)], kernelSize=2)
    run(f, "MaxPool2d", nn.MaxPool2d(3, stride=2, padding=1), [f.randn(2, 3, 6, 5)], kernelSize=3, stride=2, padding=1)
    run(f, "AvgPool2d", nn.AvgPool2d(2), [f.randn(2, 3, 6, 4)], kernelSize=2)
    run(f, "AvgPool2d", nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), [f.randn(2, 3, 6, 5)],
        kernelSize=3, stride=2, padding=1, countIncludePad=False)


def transposed_convolutions(f):
    run(f, "ConvTranspose1d", nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, bias=False), [f.randn(2, 4, 5)],
        inChannels=4, outChannels=6, kernelSize=3, stride=2, groups=2, bias=False)
    run(f, "ConvTranspose2d", nn.ConvTranspose2d(3, 4, (3, 2), stride=2, padding=(1, 0), output_padding=(1, 0)), [f.randn(2, 3, 4, 3)],
        inChannels=3, outChannels=4, kernelSize=[3, 2], stride=2, padding=[1, 0], outputPadding=[1, 0])


def images(f):
    run(f, "Upsample", nn.Upsample(scale_factor=2, mode="bilinear"), [f.randn(2, 2, 3, 4)], scaleFactor=2, mode="bilinear")
    run(f, "Upsample", nn.Upsample(size=(5, 3)), [f.randn(2, 2, 3, 4)], size=[5, 3])
    run(f, "PixelShuffle", nn.PixelShuffle(2), [f.randn(2, 8, 2, 3)], factor=2)
    run(f, "PixelUnshuffle", nn.PixelUnshuffle(2), [f.randn(2, 2, 4, 6)], factor=2)
    run(f, "Unfold", nn.Unfold(2, stride=2, padding=1), [f.randn(2, 3, 4, 5)], kernelSize=2, stride=2, padding=1)
    run(f, "Fold", nn.Fold((4, 5), 2, dilation=2), [f.randn(2, 12, 6)], outputSize=[4, 5], kernelSize=2, dilation=2)
    for kind in ["ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad"]:
        run(f, kind + "1d", getattr(nn, kind + "1d")((1, 2)), [f.randn(2, 3, 4)], padding=[1, 2])
        run(f, kind + "2d", getattr(nn, kind + "2d")((1, 2, 0, 1)), [f.randn(2, 2, 3, 4)], padding=[1, 2, 0, 1])
    run(f, "ConstantPad1d", nn.ConstantPad1d(2, 1.5), [f.randn(3, 4)], padding=2, value=1.5)
    run(f, "ConstantPad2d", nn.ConstantPad2d((1, 0, -1, 2), 0.5), [f.randn(2, 2, 3, 4)], padding=[1, 0, -1, 2], value=0.5)


def more_activations(f):
    for kind in ["Softsign", "Tanhshrink"]:
        run(f, kind, getattr(nn, kind)(), [f.randn(3, 5, scale=3)])
    run(f, "CELU", nn.CELU(0.7), [f.randn(3, 5, scale=2)], arguments=[0.7])
    run(f, "Hardshrink", nn.Hardshrink(0.8), [f.randn(3, 5)], arguments=[0.8])
    run(f, "Softshrink", nn.Softshrink(0.8), [f.randn(3, 5)], arguments=[0.8])
    run(f, "Threshold", nn.Threshold(0.1, 20), [f.randn(3, 5)], arguments=[0.1, 20])
    run(f, "PReLU", nn.PReLU(), [f.randn(3, 5)], arguments=[])
    run(f, "PReLU", nn.PReLU(4), [f.randn(3, 4, 2)], arguments=[4])
    run(f, "GLU", nn.GLU(1), [f.randn(3, 4, 2)], arguments=[1])
    run(f, "Softmin", nn.Softmin(1), [f.randn(2, 3, 4)], arguments=[1])


def transformers(f):
    blocked = torch.ones(4, 4, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False, False, False, True, True], [False, True, False, False, True]])
    options = {"dimFeedforward": 12, "dropout": 0}
    for norm_first, activation in [(False, "relu"), (True, "gelu")]:
        layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, activation=activation, norm_first=norm_first, batch_first=True)
        run(f, "TransformerDecoderLayer", layer, [f.randn(2, 4, 8), f.randn(2, 5, 8), padding], dModel=8, nhead=2, **options,
            call=lambda m, x, y, p: m(x, y, tgt_mask=blocked, memory_key_padding_mask=p, tgt_is_causal=True), activation=activation, normFirst=norm_first)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    run(f, "TransformerEncoder", nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False), [f.randn(2, 4, 8)], dModel=8, nhead=2,
        **options)
    layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    run(f, "TransformerDecoder", nn.TransformerDecoder(layer, 2), [f.randn(2, 4, 8), f.randn(2, 5, 8), padding], dModel=8, nhead=2, **options,
        call=lambda m, x, y, p: m(x, y, tgt_mask=blocked, memory_key_padding_mask=p, tgt_is_causal=True))
    model = nn.Transformer(8, 2, 1, 2, 12, dropout=0.0, batch_first=True)
    run(f, "Transformer", model, [f.randn(2, 5, 8), f.randn(2, 4, 8), padding], dModel=8, nhead=2, numEncoderLayers=1, numDecoderLayers=2, **options,
        call=lambda m, x, y, p: m(x, y, tgt_mask=blocked, src_key_padding_mask=p, memory_key_padding_mask=p, tgt_is_causal=True))


def more_losses(f):
    signs = lambda *shape: f.ints(*shape, high=2) * 2 - 1
    run(f, "MarginRankingLoss", nn.MarginRankingLoss(0.3), [f.randn(4), f.randn(4), signs(4)], margin=0.3)
    run(f, "HingeEmbeddingLoss", nn.HingeEmbeddingLoss(), [f.randn(4, 5), signs(4, 5)])
    run(f, "CosineEmbeddingLoss", nn.CosineEmbeddingLoss(0.1, reduction="sum"), [f.randn(6, 5), f.randn(6, 5), signs(6)],
        margin=0.1, reduction="sum")
    run(f, "TripletMarginLoss", nn.TripletMarginLoss(0.5, swap=True), [f.randn(4, 5), f.randn(4, 5), f.randn(4, 5)], margin=0.5, swap=True)
    run(f, "TripletMarginLoss", nn.TripletMarginLoss(p=1, reduction="none"), [f.randn(4, 5), f.randn(4, 5), f.randn(4, 5)], p=1, reduction="none")
    run(f, "SoftMarginLoss", nn.SoftMarginLoss(), [f.randn(4, 5), signs(4, 5)], call=lambda m, x, t: m(x, t.double()))
    run(f, "MultiMarginLoss", nn.MultiMarginLoss(), [f.randn(4, 5), f.ints(4, high=5)])
    run(f, "MultiMarginLoss", nn.MultiMarginLoss(p=2, margin=0.6, reduction="sum"), [f.randn(4, 5), f.ints(4, high=5)], p=2, margin=0.6, reduction="sum")
    run(f, "MultiLabelSoftMarginLoss", nn.MultiLabelSoftMarginLoss(), [f.randn(4, 5), f.uniform(4, 5, low=0)])
    run(f, "GaussianNLLLoss", nn.GaussianNLLLoss(full=True), [f.randn(4, 5), f.randn(4, 5), f.uniform(4, 5, low=0.1)], full=True)
    run(f, "GaussianNLLLoss", nn.GaussianNLLLoss(eps=0.5), [f.randn(4, 5), f.randn(4, 5), f.uniform(4, low=0.1)], eps=0.5)
    run(f, "PoissonNLLLoss", nn.PoissonNLLLoss(), [f.randn(4, 5), f.ints(4, 5, high=5)])
    run(f, "PoissonNLLLoss", nn.PoissonNLLLoss(log_input=False, full=True), [f.uniform(4, 5, low=0.2, high=3), f.ints(4, 5, high=5)],
        logInput=False, full=True)
    run(f, "CosineSimilarity", nn.CosineSimilarity(1), [f.randn(4, 5), f.randn(4, 5)], arguments=[1])
    run(f, "PairwiseDistance", nn.PairwiseDistance(3, keepdim=True), [f.randn(4, 5), f.randn(4, 5)], arguments=[3, 1e-6, True])


def recurrent(f):
    flat = lambda out, state: (out, *state) if isinstance(state, tuple) else (out, state)
    for kind in ["LSTM", "GRU"]:
        options = {"inputSize": 3, "hiddenSize": 4}
        run(f, kind, getattr(nn, kind)(3, 4), [f.randn(5, 2, 3)], call=lambda m, x: flat(*m(x)), **options)
        run(f, kind, getattr(nn, kind)(3, 4, num_layers=2, batch_first=True, bidirectional=True), [f.randn(2, 5, 3)],
            call=lambda m, x: flat(*m(x)), numLayers=2, batchFirst=True, bidirectional=True, **options)
        run(f, kind, getattr(nn, kind)(3, 4, bias=False), [f.randn(5, 2, 3)], call=lambda m, x: flat(*m(x)), bias=False, **options)
    run(f, "LSTM", nn.LSTM(3, 4), [f.randn(5, 2, 3), f.randn(1, 2, 4), f.randn(1, 2, 4)], call=lambda m, x, h, c: flat(*m(x, (h, c))),
        inputSize=3, hiddenSize=4)
    run(f, "GRU", nn.GRU(3, 4), [f.randn(5, 2, 3), f.randn(1, 2, 4)], call=lambda m, x, h: flat(*m(x, h)), inputSize=3, hiddenSize=4)


def containers(f):
    run(f, "Sequential", nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), [f.randn(3, 4)])

    class List(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return x

    class Dict(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleDict({"left": nn.Linear(4, 2), "right": nn.Linear(4, 2)})

        def forward(self, x):
            return self.heads["left"](x) * self.heads["right"](x)

    run(f, "ModuleList", List(), [f.randn(3, 4)])
    run(f, "ModuleDict", Dict(), [f.randn(3, 4)])


def losses(f):
    logs = lambda: f.randn(4, 5).log_softmax(-1)
    run(f, "CrossEntropyLoss", nn.CrossEntropyLoss(), [f.randn(4, 5), f.ints(4, high=5)])
    run(f, "CrossEntropyLoss", nn.CrossEntropyLoss(ignore_index=2, label_smoothing=0.1, reduction="sum"), [f.randn(4, 5), f.ints(4, high=5)],
        ignoreIndex=2, labelSmoothing=0.1, reduction="sum")
    run(f, "NLLLoss", nn.NLLLoss(), [logs(), f.ints(4, high=5)])
    run(f, "HuberLoss", nn.HuberLoss(delta=0.7), [f.randn(4, 5), f.randn(4, 5)], delta=0.7)
    run(f, "KLDivLoss", nn.KLDivLoss(reduction="batchmean"), [logs(), logs().exp()], reduction="batchmean")
    for kind in ["MSELoss", "L1Loss"]:
        run(f, kind, getattr(nn, kind)(), [f.randn(4, 5), f.randn(4, 5)])
    run(f, "BCEWithLogitsLoss", nn.BCEWithLogitsLoss(), [f.randn(4, 5), f.uniform(4, 5, low=0)])


def initialization():
    """Standard deviation and largest magnitude of PyTorch's default and named initialisations. They are measured on
    large tensors; where the law is uniform the bound is the law's."""
    f = Family("initialization")
    torch.manual_seed(1)
    modules = [
        ("Linear", nn.Linear(400, 300), {"inFeatures": 400, "outFeatures": 300}),
        ("Embedding", nn.Embedding(500, 200), {"numEmbeddings": 500, "embeddingDim": 200}),
        ("Conv1d", nn.Conv1d(64, 128, 5), {"inChannels": 64, "outChannels": 128, "kernelSize": 5}),
        ("Conv2d", nn.Conv2d(32, 64, 5, groups=2), {"inChannels": 32, "outChannels": 64, "kernelSize": 5, "groups": 2}),
        ("LSTM", nn.LSTM(100, 100), {"inputSize": 100, "hiddenSize": 100}),
        ("GRU", nn.GRU(100, 100), {"inputSize": 100, "hiddenSize": 100}),
        ("MultiheadAttention", nn.MultiheadAttention(256, 4), {"embedDim": 256, "numHeads": 4}),
        ("LayerNorm", nn.LayerNorm(64), {"normalizedShape": 64}),
        ("BatchNorm2d", nn.BatchNorm2d(64), {"numFeatures": 64}),
        ("ConvTranspose2d", nn.ConvTranspose2d(32, 64, 5, groups=2), {"inChannels": 32, "outChannels": 64, "kernelSize": 5, "groups": 2}),
    ]
    statistics = lambda t: {"mean": round(t.mean().item(), 5), "std": round(t.std().item(), 5), "bound": round(t.abs().max().item(), 5),
                            "count": t.numel()}
    for kind, module, options in modules:
        f.case("module", module=kind, options=options, parameters={k: statistics(v.detach()) for k, v in module.named_parameters()})
    for kind, options in [("uniform_", {"a": -0.5, "b": 1.5}), ("normal_", {"mean": 1, "std": 0.5}), ("truncNormal_", {"std": 0.7, "a": -1, "b": 1}),
                          ("xavierUniform_", {"gain": 2}), ("xavierNormal_", {}), ("kaimingUniform_", {"a": math.sqrt(5)}),
                          ("kaimingUniform_", {"mode": "fan_out", "nonlinearity": "relu"}), ("kaimingNormal_", {"nonlinearity": "relu"})]:
        name = "".join("_" + c.lower() if c.isupper() else c for c in kind)
        weight = getattr(nn.init, name)(torch.empty(400, 300), **options)
        f.case("function", function=kind, options=options, shape=[400, 300], weight=statistics(weight))
    weight = nn.init.orthogonal_(torch.empty(40, 30), gain=2.0)
    f.case("orthogonal", shape=[40, 30], gain=2.0, deviation=round((weight.T @ weight - 4 * torch.eye(30)).abs().max().item(), 5))
    return f


FAMILIES = [modules, initialization]
