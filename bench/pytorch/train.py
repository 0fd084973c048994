"""PyTorch's side of bench/training.ts: the same GPT training step in eager PyTorch. Reads one JSON line with the setup and one per run from
standard input and answers each: milliseconds of each step, losses, peak resident memory. Weights and tokens come from files, so both
sides train the same model on the same batches; as a rank of several it trains on its rows of every batch, or on its part of the model."""
import json
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(dim, 3 * dim), "c_proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)})

    def forward(self, x):
        qkv = self.attn["c_attn"](self.ln_1(x))
        b, t, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3  # a rank's heads, all positions
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in qkv.split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width)
        x = x + self.attn["c_proj"](y)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(o["vocabSize"], o["dim"]), "wpe": nn.Embedding(o["context"], o["dim"]),
            "h": nn.ModuleList([Block(o["dim"], o["heads"]) for _ in range(o["layers"])]), "ln_f": nn.LayerNorm(o["dim"])})
        self.lm_head = nn.Linear(o["dim"], o["vocabSize"], bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, x, y):
        t = self.transformer
        h = t["wte"](x) + t["wpe"](torch.arange(x.shape[1]))
        for block in t["h"]:
            h = block(h)
        logits = self.lm_head(t["ln_f"](h))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), y.reshape(-1))


class Head(nn.Module):
    """The last stage's end of a pipeline; its beginning is in First."""

    def __init__(self, gpt):
        super().__init__()
        self.ln_f, self.lm_head = gpt.transformer["ln_f"], gpt.lm_head

    def forward(self, x):
        return self.lm_head(self.ln_f(x))


class First(nn.Module):
    def __init__(self, gpt):
        super().__init__()
        self.wte, self.wpe = gpt.transformer["wte"], gpt.transformer["wpe"]

    def forward(self, x):
        return self.wte(x) + self.wpe(torch.arange(x.shape[1]))


def target_loss(logits, y):
    return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), y.reshape(-1))


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


class Whole:
    """One process, or one of several that share every batch: by DistributedDataParallel, ZeRO or tensor parallelism."""

    def __init__(self, model, how, rank, world, bf16):
        self.bf16, self.shares, self.mixed = bf16, (rank, world), False
        self.trained, self.optimizer = model, None
        if world > 1 and how in ("ddp", "zero1"):
            self.trained = DistributedDataParallel(model, gradient_as_bucket_view=True)
        if world > 1 and how == "zero1":
            from torch.distributed.optim import ZeroRedundancyOptimizer

            self.optimizer = ZeroRedundancyOptimizer(
                model.parameters(), torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        elif world > 1 and how == "zero3":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (world,))
            for block in model.transformer["h"]:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        elif world > 1 and how.startswith("tp"):
            self.shares, self.mixed = (0, 1), True
            tensor_parallel(model, world, how == "tp+sp")
        self.parameters = list(self.trained.parameters())
        # the fused kernel takes no DTensors beside plain tensors either
        apart = [[p for p in self.parameters if hasattr(p, "to_local") == sharded] for sharded in (False, True)]
        self.optimizer = self.optimizer or make_optimizer([{"params": group} for group in apart if group])

    def step(self, x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = self.trained(x, y)
        loss.backward()
        if self.mixed:
            clip_mixed(self.parameters, 1.0)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def clip_mixed(parameters, limit):
    """clip_grad_norm_ takes no DTensors beside plain tensors: their squares are summed over the ranks in one reduction."""
    sharded, plain = torch.zeros(()), torch.zeros(())
    for p in parameters:
        grad = p.grad
        if hasattr(grad, "to_local") and any(x.is_shard() for x in grad.placements):
            sharded += grad.to_local().square().sum()
        else:
            plain += (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).square().sum()
    torch.distributed.all_reduce(sharded)
    scale = torch.clamp(limit / ((sharded + plain).sqrt() + 1e-6), max=1.0).item()
    for p in parameters:
        p.grad.mul_(scale)


def tensor_parallel(model, world, sequence):
    """Blocks by heads and by columns and rows, the packed projection of q, k and v apart."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel, PrepareModuleInput, RowwiseParallel, SequenceParallel, parallelize_module)

    mesh = init_device_mesh("cpu", (world,))
    for block in model.transformer["h"]:
        packed = block.attn["c_attn"]
        dim = packed.weight.shape[1]
        # rows of a rank's heads next to one another, so that a plain split of columns is a split by heads
        rows = torch.arange(3 * dim).view(3, world, dim // world).transpose(0, 1).reshape(-1)
        with torch.no_grad():
            packed.weight.copy_(packed.weight[rows].clone())
            packed.bias.copy_(packed.bias[rows].clone())
        block.heads //= world
        out = RowwiseParallel(output_layouts=Shard(1)) if sequence else RowwiseParallel()
        plan = {"attn.c_attn": ColwiseParallel(), "attn.c_proj": out, "mlp.c_fc": ColwiseParallel(), "mlp.c_proj": out}
        if sequence:
            gathered = lambda: ColwiseParallel(input_layouts=Shard(1))
            plan |= {"ln_1": SequenceParallel(), "ln_2": SequenceParallel(), "attn.c_attn": gathered(), "mlp.c_fc": gathered()}
        parallelize_module(block, mesh, plan)
    if sequence:
        parallelize_module(model, mesh, {
            "transformer.h.0": PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=True),
            "transformer.ln_f": SequenceParallel(),
            "lm_head": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),), use_local_output=True),
        })


class Staged:
    """A stage on each rank. The head has a weight of its own there: PyTorch's pipelines leave tied weights to the user, and the gradients of
    both are added here."""

    def __init__(self, model, schedule, micro_batches, rank, world):
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        self.rank, self.world, self.shares = rank, world, (0, 1)
        blocks = list(model.transformer["h"])
        share = len(blocks) // world
        mine = blocks[rank * share:(rank + 1) * share]
        parts = ([First(model)] if rank == 0 else []) + mine + ([Head(model)] if rank == world - 1 else [])
        self.module = nn.Sequential(*parts)
        stage = PipelineStage(self.module, rank, world, torch.device("cpu"))
        kind = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}[schedule]
        self.schedule = kind(stage, micro_batches, loss_fn=target_loss)
        self.tied = model.lm_head.weight
        self.parameters = list(self.module.parameters())
        self.optimizer = make_optimizer(self.parameters)

    def step(self, x, y):
        losses = []
        if self.rank == 0:
            self.schedule.step(x)
        elif self.rank == self.world - 1:
            self.schedule.step(target=y, losses=losses)
        else:
            self.schedule.step()
        if self.rank in (0, self.world - 1):
            torch.distributed.all_reduce(self.tied.grad)
        square = sum(p.grad.square().sum() for p in self.parameters)
        if self.rank == 0:
            square = square - self.tied.grad.square().sum()
        torch.distributed.all_reduce(square)
        scale = torch.clamp(1.0 / (square.sqrt() + 1e-6), max=1.0)
        for p in self.parameters:
            p.grad.mul_(scale)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(losses).mean() if losses else torch.zeros(())
        torch.distributed.broadcast(loss, self.world - 1)
        return loss.item()


def make_trainer(setup, rank, world):
    model = GPT(setup["model"])
    model.load_state_dict(load_file(setup["weights"]))
    how = setup.get("spread", "ddp")
    if isinstance(how, dict) and world > 1:
        return Staged(model, how["schedule"], how["microBatches"], rank, world)
    return Whole(model, how, rank, world, setup["autocast"] or setup["dtype"] == "bfloat16")


def main():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    setup = json.loads(sys.stdin.readline())
    trainer = make_trainer(setup, rank, world)
    print("{}", flush=True)
    tokens = torch.frombuffer(bytearray(open(setup["tokens"], "rb").read()), dtype=torch.int32).long()
    batch, context = setup["batch"], setup["model"]["context"]
    share, shares = trainer.shares
    tokens = tokens.view(-1, shares, batch // shares, context + 1)[:, share]
    step = 0
    for line in sys.stdin:
        run = json.loads(line)
        times, losses = [], []
        for _ in range(run["steps"]):
            part = tokens[step % len(tokens)]
            start = time.perf_counter()
            losses.append(trainer.step(part[:, :-1], part[:, 1:]))
            times.append((time.perf_counter() - start) * 1000)
            step += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"ms": times, "losses": losses, "peakMiB": peak}), flush=True)
    if world > 1:
        torch.distributed.destroy_process_group()


main()
