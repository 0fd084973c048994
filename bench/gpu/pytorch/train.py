"""PyTorch's side of bench/gpu/train.ts: the same GPT under autocast to bfloat16 with fused AdamW, eager or by torch.compile. One JSON line
asks, one answers. Between rounds it keeps nothing but weights and moments, so that several sides fit one GPU."""
import json
import sys
import time


def model_of(options):
    import torch
    import torch.nn.functional as F
    from torch import nn

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
            dim = o["dim"]
            self.transformer = nn.ModuleDict({
                "wte": nn.Embedding(o["vocabSize"], dim), "wpe": nn.Embedding(o["context"], dim),
                "h": nn.ModuleList([Block(dim, o["heads"]) for _ in range(o["layers"])]), "ln_f": nn.LayerNorm(dim)})
            self.lm_head = nn.Linear(dim, o["vocabSize"], bias=False)
            self.lm_head.weight = self.transformer["wte"].weight

        def forward(self, x, y):
            t = self.transformer
            h = t["wte"](x) + t["wpe"](torch.arange(x.shape[1], device=x.device))
            for block in t["h"]:
                h = block(h)
            logits = self.lm_head(t["ln_f"](h))
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))

    return GPT(options)


def read_safetensors(path):
    """float32 tensors of a file, without the package of that name: PyTorch is all that this needs."""
    import torch

    data = open(path, "rb").read()
    size = int.from_bytes(data[:8], "little")
    body = torch.frombuffer(bytearray(data[8 + size:]), dtype=torch.float32)
    entries = {k: v for k, v in json.loads(data[8:8 + size]).items() if k != "__metadata__"}
    return {k: body[v["data_offsets"][0] // 4:v["data_offsets"][1] // 4].view(v["shape"]) for k, v in entries.items()}


class Trainer:
    def __init__(self, setup):
        import torch

        self.torch = torch
        self.device = "cuda" if setup["device"].startswith("cuda") and torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision("high")
        self.model = model_of(setup["model"])
        self.model.load_state_dict(read_safetensors(setup["weights"]))
        self.model.to(self.device)
        self.called = torch.compile(self.model, dynamic=False) if setup["mode"] == "compile" else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.ids = torch.frombuffer(bytearray(open(setup["tokens"], "rb").read()), dtype=torch.int32).long()
        self.context = setup["model"]["context"]
        self.count = 0
        where = torch.cuda.get_device_name() if self.device == "cuda" else "the CPU"
        self.name = f"PyTorch {torch.__version__} {setup['mode']} on {where}"

    def step(self, batch):
        torch = self.torch
        size = batch * (self.context + 1)
        at = self.count * size % (len(self.ids) - size + 1)
        self.count += 1
        part = self.ids[at:at + size].view(batch, -1)
        part = part.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else part
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.called(part[:, :-1], part[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def round(self, batch, warmup, steps, hostSteps):
        import resource

        cuda = self.torch.cuda if self.device == "cuda" else None
        if cuda:
            cuda.reset_peak_memory_stats()
        for _ in range(warmup):
            self.step(batch)
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step(batch)
        self.wait()
        ms = (time.perf_counter() - start) * 1000 / steps
        host = []
        for _ in range(hostSteps):
            start = time.perf_counter()
            loss = self.step(batch)
            host.append((time.perf_counter() - start) * 1000)
            self.wait()
        peak = cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"ms": ms, "hostMs": sorted(host)[len(host) // 2], "peakMiB": peak / 2**20, "loss": loss.item()}
        if cuda:
            cuda.empty_cache()
        return answer


def main():
    trainer = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if "model" in message:
                trainer = Trainer(message)
                answer = {"name": trainer.name}
            else:
                answer = trainer.round(**message)
        except Exception as error:  # the bench prints it and goes on; ImportError among them
            answer = {"error": (str(error).split("\n") or [""])[0] or type(error).__name__}
        print(json.dumps(answer), flush=True)


main()
