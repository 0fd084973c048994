"""Goldens of optimizers (parameters after each of ten steps from given gradients), learning-rate schedules (200 steps)
and gradient clipping. PyTorch has no LAMB and no Lion: both are written out below from their papers."""
import math

import torch
from torch import optim
from torch.optim import lr_scheduler as schedules
import transformers

from golden.family import Family, snake

SHAPES = [[4, 3], [5], [2, 1, 3]]
STEPS = 10


class Lamb:
    """You et al., "Large Batch Optimization for Deep Learning", 2019, algorithm 2 with the identity as phi."""

    def __init__(self, parameters, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
        self.parameters, self.lr, self.betas, self.eps, self.weight_decay = list(parameters), lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    @torch.no_grad()
    def step(self):
        self.t += 1
        b1, b2 = self.betas
        for p, m, v in zip(self.parameters, self.m, self.v):
            m.copy_(b1 * m + (1 - b1) * p.grad)
            v.copy_(b2 * v + (1 - b2) * p.grad**2)
            r = (m / (1 - b1**self.t)) / ((v / (1 - b2**self.t)).sqrt() + self.eps) + self.weight_decay * p
            trust = p.norm() / r.norm() if p.norm() > 0 and r.norm() > 0 else 1.0
            p -= self.lr * trust * r


class Lion:
    """Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2."""

    def __init__(self, parameters, lr, betas=(0.9, 0.99), weight_decay=0.0):
        self.parameters, self.lr, self.betas, self.weight_decay = list(parameters), lr, betas, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p, m in zip(self.parameters, self.m):
            p -= self.lr * ((b1 * m + (1 - b1) * p.grad).sign() + self.weight_decay * p)
            m.copy_(b2 * m + (1 - b2) * p.grad)


OPTIMIZERS = [
    ("SGD", optim.SGD, [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True, "weightDecay": 0.1},
                        {"weightDecay": 0.1, "maximize": True}]),
    ("Adam", optim.Adam, [{}, {"betas": [0.8, 0.95], "eps": 1e-4}, {"weightDecay": 0.1}, {"amsgrad": True}, {"maximize": True}]),
    ("AdamW", optim.AdamW, [{}, {"betas": [0.9, 0.95], "weightDecay": 0.1}, {"amsgrad": True, "weightDecay": 0.05}]),
    ("Adagrad", optim.Adagrad, [{}, {"lrDecay": 0.1, "weightDecay": 0.1}, {"initialAccumulatorValue": 0.5, "eps": 1e-3}]),
    ("RMSprop", optim.RMSprop, [{}, {"alpha": 0.9, "weightDecay": 0.1}, {"momentum": 0.8}, {"centered": True, "eps": 1e-3},
                                {"centered": True, "momentum": 0.8}]),
    ("LAMB", Lamb, [{}, {"betas": [0.8, 0.95], "eps": 1e-4, "weightDecay": 0.1}]),
    ("Lion", Lion, [{}, {"betas": [0.8, 0.95], "weightDecay": 0.1}]),
]


def optimizers():
    f = Family("optimizers")
    for i, shape in enumerate(SHAPES):
        f.put(f"initial{i}", f.randn(*shape))
        f.put(f"gradients{i}", f.randn(STEPS, *shape, scale=0.5))
    for kind, make, variants in OPTIMIZERS:
        for dtype in ["float32", "bfloat16", "float16"]:
            for options in variants if dtype == "float32" else variants[1:2]:
                trajectory(f, kind, make, dtype, {"lr": 0.05, **options})
    # one group for the matrices, one for the rest
    trajectory(f, "AdamW", optim.AdamW, "float32", {"lr": 0.05}, [{"lr": 0.1, "weightDecay": 0.2}, {"weightDecay": 0.0}])
    return f


def trajectory(f, kind, make, dtype, options, groups=None):
    """Stores the parameters after every step. For a 16-bit dtype the parameters and gradients start as 16-bit numbers,
    the optimizer runs on wide masters, and what is stored are the masters: a test rounds them."""
    stored = getattr(torch, dtype)
    parameters = [f.tensors[f"initial{i}"].to(stored).double().requires_grad_() for i in range(len(SHAPES))]
    torch_options = lambda o: {snake(k): v for k, v in o.items()}
    arguments = parameters
    if groups:
        arguments = [{"params": parameters[:1], **torch_options(groups[0])}, {"params": parameters[1:], **torch_options(groups[1])}]
    optimizer = make(arguments, **torch_options(options))
    name = f.case(kind, dtype=dtype, options=options, **({"groups": groups} if groups else {}))
    seen = [[] for _ in parameters]
    for step in range(STEPS):
        for i, p in enumerate(parameters):
            p.grad = f.tensors[f"gradients{i}"][step].to(stored).double()
        optimizer.step()
        for i, p in enumerate(parameters):
            seen[i].append(p.detach().clone())
    for i, values in enumerate(seen):
        f.put(f"{name}/after{i}", torch.stack(values))


def clipping():
    f = Family("clipping")
    for order in [2.0, 1.0, math.inf]:
        for max_norm in [0.5, 100.0]:
            gradients = [f.randn(4, 3), f.randn(5)]
            parameters = [torch.zeros_like(g, dtype=torch.float64) for g in gradients]
            name = f.case("clipGradNorm", maxNorm=max_norm, normType=order if math.isfinite(order) else "inf")
            for i, (p, g) in enumerate(zip(parameters, gradients)):
                f.put(f"{name}/in{i}", g)
                p.grad = g.double()
            f.put(f"{name}/norm", torch.nn.utils.clip_grad_norm_(parameters, max_norm, order))
            for i, p in enumerate(parameters):
                f.put(f"{name}/out{i}", p.grad)
    gradient = f.randn(4, 3)
    parameter = torch.zeros(4, 3, dtype=torch.float64)
    parameter.grad = gradient.double()
    torch.nn.utils.clip_grad_value_([parameter], 0.5)
    name = f.case("clipGradValue", clipValue=0.5)
    f.put(f"{name}/in0", gradient), f.put(f"{name}/out0", parameter.grad)
    return f


def schedulers():
    """The learning rate of steps 0 to 200, from a base of 0.1 unless the case says otherwise."""
    f = Family("schedulers")

    def rates(kind, make, lr=0.1, metrics=None, **options):
        optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
        schedule = make(optimizer)
        seen = [optimizer.param_groups[0]["lr"]]
        for step in range(200):
            optimizer.step()
            schedule.step(*([metrics[step]] if metrics else []))
            seen.append(optimizer.param_groups[0]["lr"])
        f.case(kind, lr=lr, options=options, **({"metrics": metrics} if metrics else {}), rates=[float(f"{x:.12g}") for x in seen])

    rates("StepLR", lambda o: schedules.StepLR(o, 30, 0.5), stepSize=30, gamma=0.5)
    rates("MultiStepLR", lambda o: schedules.MultiStepLR(o, [20, 50, 120], 0.3), milestones=[20, 50, 120], gamma=0.3)
    rates("ExponentialLR", lambda o: schedules.ExponentialLR(o, 0.97), gamma=0.97)
    rates("PolynomialLR", lambda o: schedules.PolynomialLR(o, 150, 2.0), totalIters=150, power=2)
    rates("CosineAnnealingLR", lambda o: schedules.CosineAnnealingLR(o, 80, 0.01), tMax=80, etaMin=0.01)
    rates("CosineAnnealingWarmRestarts", lambda o: schedules.CosineAnnealingWarmRestarts(o, 20, 2, 0.005), t0=20, tMult=2, etaMin=0.005)
    rates("LinearLR", lambda o: schedules.LinearLR(o, 0.2, 0.9, 60), startFactor=0.2, endFactor=0.9, totalIters=60)
    for mode in ["triangular", "triangular2", "exp_range"]:
        rates("CyclicLR", lambda o: schedules.CyclicLR(o, 0.01, 0.2, 15, 25, mode=mode, gamma=0.99, cycle_momentum=False),
              baseLr=0.01, maxLr=0.2, stepSizeUp=15, stepSizeDown=25, mode=mode, gamma=0.99)
    for anneal, three in [("cos", False), ("linear", False), ("cos", True)]:
        rates("OneCycleLR", lambda o: schedules.OneCycleLR(o, 0.3, 201, pct_start=0.3, anneal_strategy=anneal, cycle_momentum=False,
              three_phase=three), maxLr=0.3, totalSteps=201, pctStart=0.3, annealStrategy=anneal, threePhase=three)
    rates("LambdaLR", lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + 0.05 * step)))
    rates("SequentialLR", lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, 1.0, 20), schedules.ExponentialLR(o, 0.98), schedules.StepLR(o, 10, 0.5)], [20, 100]))
    noise = torch.rand(200, generator=f.generator)
    metrics = [round(2 * 0.97 ** min(s, 90) + 0.05 * noise[s].item(), 4) for s in range(200)]
    rates("ReduceLROnPlateau", lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=5, threshold=1e-3, cooldown=2, min_lr=1e-3),
          metrics=metrics, factor=0.5, patience=5, threshold=1e-3, cooldown=2, minLr=1e-3)
    rates("ReduceLROnPlateau", lambda o: schedules.ReduceLROnPlateau(o, mode="max", factor=0.3, patience=3, threshold=0.01, threshold_mode="abs"),
          metrics=[round(-m, 4) for m in metrics], mode="max", factor=0.3, patience=3, threshold=0.01, thresholdMode="abs")
    rates("LinearWithWarmup", lambda o: transformers.get_linear_schedule_with_warmup(o, 20, 150), warmup=20, total=150)
    rates("CosineWithWarmup", lambda o: transformers.get_cosine_schedule_with_warmup(o, 20, 200), warmup=20, total=200)
    rates("CosineWithWarmup", lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, 20, 200, min_lr=0.01),
          warmup=20, total=200, minLr=0.01)
    rates("WarmupStableDecay", lambda o: transformers.get_wsd_schedule(o, 20, 50, num_stable_steps=100, decay_type="linear"),
          warmup=20, stable=100, decay=50)
    return f


def grad_scaler():
    """The scale after each of 60 steps, some of which have an inf or a NaN in their gradients, and the parameter."""
    f = Family("grad_scaler")
    for clip, initial, options in [
        (None, 65536.0, {}),
        (None, 2.0**126, {"growth_interval": 1}),  # stops short of infinity
        (None, 1000.0, {"growth_factor": 3.0, "backoff_factor": 0.3, "growth_interval": 4}),
        (0.5, 256.0, {"growth_interval": 2}),
    ]:
        p = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
        optimizer = optim.Adam([p], lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=initial, **options)
        bad, scales, values = [], [], []
        for step in range(60):
            inputs = torch.sin(torch.arange(3) + 1.7 * step)
            bad.append([0, 0, 0, 1, 0, 0, 0, 0, 2][torch.randint(9, [], generator=f.generator).item()])
            if bad[-1]:
                inputs[step % 3] = [math.inf, math.nan][bad[-1] - 1]
            optimizer.zero_grad()
            scaler.scale((p * inputs).sum()).backward()
            if clip is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([p], clip)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            values.append([float(f"{x:.9g}") for x in p.tolist()])
        f.case("GradScaler", clip=clip, options={"initScale": initial, **{snake_to_camel(k): v for k, v in options.items()}}, bad=bad,
               scales=scales, values=values)
    return f


def snake_to_camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


FAMILIES = [optimizers, clipping, schedulers, grad_scaler]
