# SPDX-License-Identifier: Apache-2.0
"""Grades swiglu against model.py:MLP."""
import torch
from lessons.exercises.grading import call, judge
from torch.nn.functional import gelu, leaky_relu, relu, silu, softplus

from model import MLP, SIZES


def test_swiglu(answer):
    torch.manual_seed(0)
    config = SIZES["tiny"]
    mlp = MLP(config)
    x = torch.randn(2, 3, config.hidden_size)
    gate, up, down = (
        weight.detach() for weight in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
    )
    g, u = x @ gate.t(), x @ up.t()
    mistakes = {
        "silu is on the up branch; it belongs on the gate": (g * silu(u)) @ down.t(),
        "this is sigmoid(z); silu(z) is z times sigmoid(z)": (torch.sigmoid(g) * u) @ down.t(),
        "this is ReLU; use silu": (relu(g) * u) @ down.t(),
        "silu comes after the product; it belongs on the gate alone": silu(g * u) @ down.t(),
        "the gate is missing": silu(u) @ down.t(),
        "this is GELU; use silu": (gelu(g) * u) @ down.t(),
        "the gate has no silu": (g * u) @ down.t(),
        "silu is on both branches; it belongs on the gate alone": (silu(g) * silu(u)) @ down.t(),
        "the gate is multiplied by sigmoid of the up branch; silu(z) has the same z twice": (
            (g * torch.sigmoid(u)) @ down.t()),
        "this is tanh; use silu": (torch.tanh(g) * u) @ down.t(),
        "this is softplus, log(1 + exp(z)); use silu": (softplus(g) * u) @ down.t(),
        "this is leaky ReLU; use silu": (leaky_relu(g) * u) @ down.t(),
        "this is a softmax over the gate; use silu, which treats each number by itself": (
            (torch.softmax(g, dim=-1) * u) @ down.t()),
        "a sign is wrong in the sigmoid: silu(z) = z / (1 + exp(-z))": (g * torch.sigmoid(-g) * u) @ down.t(),
        "this is 1 - sigmoid(z); silu(z) is z times sigmoid(z)": (torch.sigmoid(-g) * u) @ down.t(),
        "the gate is used twice; the second factor is the up branch": (silu(g) * g) @ down.t(),
        "the product with down is missing": silu(g) * u,
        "silu comes at the end; it belongs on the gate": silu((g * u) @ down.t()),
        "a second silu comes at the end; the result of down stays as it is": silu((silu(g) * u) @ down.t()),
        "x is added; that is the work of the block": x + (silu(g) * u) @ down.t(),
        "the branches are added; multiply them": (silu(g) + u) @ down.t(),
        "the up branch is missing": silu(g) @ down.t(),
    }
    judge("swiglu", call(answer("swiglu"), x, gate, up, down), mlp(x).detach(), mistakes)
