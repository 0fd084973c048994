"""Goldens of mixed precision: PyTorch's lists of what autocast casts, and training curves of 100 steps under its autocast."""
import re
from pathlib import Path

import torch

from golden.family import Family
from golden.models import gpt2_model, text

STEPS = 100


def autocast_lists():
    """The lists for CUDA, read from the header that PyTorch ships; the CPU's own lists are shorter."""
    header = (Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h").read_text()
    header = header.replace("\\\n", " ")
    names = lambda macro: sorted({m for m in re.findall(r"_\((?:ADD_NS\()?(\w+)", re.search(rf"#define {macro}\(_\)(.*)", header).group(1))})
    f = Family("autocast_lists")
    f.cases.append({
        "low": names("AT_FORALL_LOWER_PRECISION_FP"),
        "float32": sorted({*names("AT_FORALL_FP32"), *names("AT_FORALL_FP32_SET_OPT_DTYPE"), *names("AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE")}),
        "widest": names("AT_FORALL_PROMOTE"),
        # not in a macro: autocast_mode.cpp registers it with an error
        "refused": ["binary_cross_entropy"],
    })
    return f


def run(model, state, tokens, dtype):
    """AdamW with clipping; float16 with a GradScaler. dtype None: float32 throughout."""
    model.load_state_dict(state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**12, growth_interval=20)
    losses, scales = [], []
    for step in range(STEPS):
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            logits = model(tokens[step][:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[step][:, 1:].flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(f"{loss.item():.8g}"))
        scales.append(scaler.get_scale())
    return losses, scales


def autocast_curves():
    f = Family("autocast_curves")
    tokens = text(f, 48, STEPS * 8 * 17).reshape(STEPS, 8, 17)
    model = gpt2_model(14, vocab_size=48, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    f.put("tokens", tokens.to(torch.int32))
    for key, value in state.items():
        if key != "lm_head.weight":  # tied to transformer.wte.weight
            f.put(f"state/{key}", value)
    exact, _ = run(model, state, tokens, None)
    for dtype, bound in [(torch.bfloat16, 5e-3), (torch.float16, 2e-3)]:
        losses, scales = run(model, state, tokens, dtype)
        worst = max(abs(a - b) / b for a, b in zip(losses, exact))
        assert worst < bound, f"{dtype} is too far from float32 to be a golden: {worst}"
        f.case(str(dtype).split(".")[1], bound=bound, fromFloat32=worst, losses=losses, scales=scales,
               sizes=dict(vocabSize=48, context=16, dim=32, layers=2, heads=4))
        print(dtype, "differs from float32 by", worst, "losses", losses[0], losses[-1], "scale", scales[-1])
    return f


FAMILIES = [autocast_lists, autocast_curves]
