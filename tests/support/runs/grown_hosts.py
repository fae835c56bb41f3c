"""Hosts of three kinds, and a program that loads what was grown in them: ``grown_hosts.py KIND IO (HOW WHERE)...``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import safetensors.torch
import torch
from torch import Tensor, nn

import esper

INPUTS: dict[str, tuple[int, ...]] = {"mlp": (4,), "cnn": (1, 6, 6), "transformer": (3, 4)}


class Transformer(nn.Module):
    """One block of attention and an MLP over three tokens, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 8), nn.LayerNorm(8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.norm(x)
        attended = nn.functional.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
        x = x + self.out(attended)
        x = x + self.down(self.up(x))
        result: Tensor = self.head(x.mean(1))
        return result


HOSTS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 1)),
    "cnn": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, 1)),
    "transformer": Transformer,
}


def loaded(kind: str, how: str, where: str) -> nn.Module:
    torch.manual_seed(99)
    host = HOSTS[kind]()
    if how == "build":
        return esper.build(where, host)
    if how == "run":
        return esper.load("run", host, home=where)
    if how == "meta":
        host = host.to("meta")
    model = esper.growable(host)
    if how == "load_model":
        safetensors.torch.load_model(model, where)
    elif how == "load_file":
        model.load_state_dict(safetensors.torch.load_file(where))
    else:
        model.load_state_dict(torch.load(where, weights_only=True), assign=how == "meta")
    return model


def main(kind: str, io: str, *sources: str) -> None:
    torch.set_num_threads(1)
    known = torch.load(io, weights_only=True)
    for how, where in zip(sources[::2], sources[1::2], strict=True):
        with torch.no_grad():
            sys.stdout.write(f"{torch.equal(loaded(kind, how, where).eval()(known['x']), known['y'])}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
