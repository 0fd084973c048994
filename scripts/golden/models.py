"""Goldens of whole models: a GPT-2 checkpoint as transformers saves it with what it computes, and three training curves
of 50 steps in float32 on given tokens from given weights."""
import shutil

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

from golden.family import FOLDER, Family

STEPS = 50


def gpt2_model(seed, **sizes):
    """GPT-2 with all dropout at zero. Biases and norms start away from 0 and 1, so that none can be forgotten."""
    torch.manual_seed(seed)
    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=None, **sizes)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)  # livelier logits than a deviation of 0.02 gives
    return model


def gpt2():
    f = Family("gpt2")
    model = gpt2_model(3, vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    shutil.rmtree(FOLDER / "gpt2", ignore_errors=True)
    model.save_pretrained(FOLDER / "gpt2")
    (FOLDER / "gpt2" / "model.safetensors").chmod(0o644)
    tokens = f.ints(2, 17, high=61)
    prompt = tokens[:1, :5]
    greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=15, do_sample=False, pad_token_id=0)
    model = model.double()
    logits = model(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    f.case("forward", vocabSize=61, context=24, dim=32, layers=2, heads=4, newTokens=15)
    for key, value in [("tokens", tokens), ("prompt", prompt), ("greedy", greedy), ("logits", logits), ("loss", loss)]:
        f.put(key, value)
    for key, parameter in model.named_parameters():
        f.put(f"grad/{key}", parameter.grad)
    return f


def text(f, vocabulary, count):
    """Tokens with something to learn: each follows one of three successors of the one before."""
    successors = f.ints(vocabulary, 3, high=vocabulary)
    choices = f.ints(count, high=3)
    tokens = [0]
    for i in range(count - 1):
        tokens.append(successors[tokens[-1], choices[i]].item())
    return torch.tensor(tokens)


def curve(f, kind, model, tokens, make_optimizer, make_schedule=None, clip=None, accumulation=1, **options):
    """Runs in float32, what the bar is about, and in float64, to show that the curve itself is well conditioned."""
    name = f.case(kind, clip=clip, accumulation=accumulation, steps=STEPS, **options)
    f.put(f"{name}/tokens", tokens.to(torch.int32))  # [steps, accumulation, batch, context + 1]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for key, value in state.items():
        if key != "lm_head.weight":  # tied to transformer.wte.weight
            f.put(f"{name}/state/{key}", value)
    curves = []
    for dtype in [torch.float32, torch.float64]:
        model = model.to(dtype)
        model.load_state_dict({k: v.to(dtype) for k, v in state.items()})
        optimizer = make_optimizer(model)
        schedule = make_schedule(optimizer) if make_schedule else LambdaLR(optimizer, lambda _: 1.0)
        losses = []
        for step in range(STEPS):
            total = 0.0
            for part in tokens[step]:
                logits = model(part[:, :-1]).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / accumulation
                loss.backward()
                total += loss.item()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(total)
        curves.append(losses)
    worst = max(abs(a - b) / abs(b) for a, b in zip(*curves))
    assert worst < 1e-5, f"{name} is too sensitive to be a golden: {worst}"
    f.cases[-1]["losses"] = [float(f"{x:.8g}") for x in curves[0]]


def decayed(model, weight_decay):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def curves():
    f = Family("curves")
    sizes = dict(vocab_size=48, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    shape = dict(vocabSize=48, context=16, dim=32, layers=2, heads=4)
    batches = lambda accumulation, batch: text(f, 48, STEPS * accumulation * batch * 17).reshape(STEPS, accumulation, batch, 17)
    curve(f, "constantRate", gpt2_model(11, **sizes), batches(1, 8),
          lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
          sizes=shape, optimizer={"lr": 3e-3, "betas": [0.9, 0.95], "weightDecay": 0.1})
    curve(f, "cosineAndClipping", gpt2_model(12, **sizes), batches(1, 8),
          lambda m: torch.optim.AdamW(decayed(m, 0.1), lr=1e-2, betas=(0.9, 0.95)),
          lambda o: get_cosine_schedule_with_warmup(o, 10, STEPS), clip=0.5,
          sizes=shape, optimizer={"lr": 1e-2, "betas": [0.9, 0.95]}, decayMatrices=0.1, schedule={"warmup": 10, "total": STEPS})
    curve(f, "accumulation", gpt2_model(13, **sizes), batches(4, 2),
          lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9), accumulation=4,
          sizes=shape, optimizer={"lr": 0.1, "momentum": 0.9})
    return f


FAMILIES = [gpt2, curves]
