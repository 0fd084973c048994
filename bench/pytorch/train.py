"""The peer of bench/train.ts and bench/ddp.ts: the same GPT training step in eager PyTorch. Reads one JSON line per run from standard input and answers
with one: milliseconds of each step, losses, peak resident memory. Weights and tokens come from the files that train.ts wrote, so both
sides train the same model on the same batches; as a rank of several it trains on its rows of every batch."""
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
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in self.attn["c_attn"](self.ln_1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
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


def main():
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    model = GPT(setup["model"])
    model.load_state_dict(load_file(setup["weights"]))
    tokens = torch.frombuffer(bytearray(open(setup["tokens"], "rb").read()), dtype=torch.int32).long()
    batch, context = setup["batch"], setup["model"]["context"]
    tokens = tokens.view(-1, world, batch // world, context + 1)[:, rank]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    trained = DistributedDataParallel(model, gradient_as_bucket_view=True) if world > 1 else model
    bf16 = setup["autocast"] or setup["dtype"] == "bfloat16"
    step = 0
    for line in sys.stdin:
        run = json.loads(line)
        times, losses = [], []
        for _ in range(run["steps"]):
            part = tokens[step % len(tokens)]
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = trained(part[:, :-1], part[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            times.append((time.perf_counter() - start) * 1000)
            step += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"ms": times, "losses": losses, "peakMiB": peak}), flush=True)
    if world > 1:
        torch.distributed.destroy_process_group()


main()
