# SPDX-License-Identifier: Apache-2.0
"""Grades swiglu against model.py:MLP."""
import torch
from lessons.exercises.grading import call, judge
from torch.nn.functional import gelu, relu, silu

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
        "sigmoid stands where silu should: silu(z) is z times sigmoid(z)": (torch.sigmoid(g) * u) @ down.t(),
        "this is ReLU; use silu": (relu(g) * u) @ down.t(),
        "silu comes after the product; it belongs on the gate alone": silu(g * u) @ down.t(),
        "the gate is missing": silu(u) @ down.t(),
        "this is GELU; use silu": (gelu(g) * u) @ down.t(),
        "the gate has no silu": (g * u) @ down.t(),
        "the branches are added; multiply them": (silu(g) + u) @ down.t(),
        "the up branch is missing": silu(g) @ down.t(),
    }
    judge("swiglu", call(answer("swiglu"), x, gate, up, down), mlp(x).detach(), mistakes)
