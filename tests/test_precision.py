# SPDX-License-Identifier: Apache-2.0
"""precision.py: which dtype computes what, counts, names and files, loss scaling, the choice by device."""
import json
import math
from collections import defaultdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker

import precision
import train
from training.settings import TrainSettings
from common import UserError
from devices.open import open_device
from model import SIZES, Llama, ModelConfig, next_token_loss
from precision import PRECISIONS, apply_precision, critical_layers, next_scale, lifted_counts

CONFIG = ModelConfig(64, 32, 64, 4, 4, 2, 8, 32)
PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "linear",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
)


class Watch(TorchDispatchMode):
    """Which floating dtypes each operation gets, by (module, pass): below autocast, so after its casts."""

    def __init__(self):
        super().__init__()
        self.tracker = ModuleTracker()
        self.seen = defaultdict(set)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # of attention's backward the sixth is its log-sum-exp, FP32 always
        result = function(*args, **(kwargs or {}))
        dtypes = {
            value.dtype for value in args[:5] if isinstance(value, torch.Tensor) and value.is_floating_point()
        }
        operation = function._overloadpacket.__name__
        for module in self.tracker.parents:
            self.seen[
                module.partition(".")[2], "backward" if self.tracker.is_bw else "forward", operation
            ] |= dtypes
        return result

    def products(self, module: str, direction: str) -> set[torch.dtype]:
        """Dtypes of all matrix products inside a module."""
        return set().union(*(dtypes for (name, way, operation), dtypes in self.seen.items()
                             if name == module and way == direction and operation in PRODUCTS))

    def arithmetic(self, module: str, direction: str) -> set[torch.dtype]:
        """Dtypes of everything but casts and copies inside a module."""
        moves = (
            "_to_copy",
            "detach",
            "copy_",
            "clone",
            "view",
            "expand",
            "unsqueeze",
            "alias",
            "empty_like",
            "new_empty_strided",
            "add_",
            "ones_like",
        )
        return set().union(*(dtypes for (name, way, operation), dtypes in self.seen.items()
                             if name == module and way == direction and operation not in moves))


def watched_step(recipe: str) -> tuple[Llama, Watch]:
    torch.manual_seed(0)
    model = apply_precision(Llama(CONFIG), recipe, "cpu")
    ids = torch.randint(0, 64, (2, 16))
    watch = Watch()
    with watch.tracker, watch:
        next_token_loss(model(ids), ids).backward()
    return model, watch


@pytest.mark.parametrize("recipe, low, lifted",
    [("tpu-bf16", torch.bfloat16, {0, 3}), ("t4-fp16", torch.float16, {0, 1})])
def test_norms_and_critical_layers_compute_in_fp32_and_the_rest_low(recipe, low, lifted):
    model, watch = watched_step(recipe)
    full = {torch.float32}
    for direction in ("forward", "backward"):
        for i in range(4):
            expected = full if i in lifted else {low}
            for part in (
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.o_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            ):
                assert watch.products(f"model.layers.{i}.{part}", direction) == expected, (i, part, direction)
            # attention's own products too
            assert watch.products(f"model.layers.{i}.self_attn", direction) == expected, (i, direction)
        assert watch.products("lm_head", direction) == {low}
    norms = [
        name
        for name, module in model.named_modules()
        if name.endswith("norm") and not list(module.children())
    ]
    assert len(norms) == 9
    for name in norms:
        assert watch.arithmetic(name, "forward") == full, name
        assert watch.arithmetic(name, "backward") == full, name
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_plain_autocast_lifts_nothing_and_fp32_lowers_nothing():
    _, watch = watched_step("bf16")
    assert watch.products("model.layers.0.mlp.up_proj", "forward") == {torch.bfloat16}
    assert watch.products("model.layers.0.mlp.up_proj", "backward") == {torch.bfloat16}
    _, watch = watched_step("fp32")
    assert set().union(*watch.seen.values()) == {torch.float32}


@pytest.mark.parametrize("size, recipe, counts",
    [("20m", "tpu-bf16", (25, 2, 0)), ("150m", "tpu-bf16", (41, 2, 0)), ("30m", "t4-fp16", (21, 2, 0))])
def test_counts_are_the_cards(size, recipe, counts, shared):
    with torch.device("meta"):
        model = Llama(SIZES[size])
    found = lifted_counts(apply_precision(model, recipe, "meta"))
    assert (found["fp32_norms"], found["fp32_layers"], found["fp32_softmax"]) == counts
    name = {"20m": "Stentor3-20M", "150m": "Portimbria-150M", "30m": "Stentor2-30M"}[size]
    card = json.loads((shared / "cards/cards.json").read_bytes())["models"][name]["precision_recipe"]
    assert counts == tuple(
        card[key][0]["value"] for key in ("fp32_norm_modules", "fp32_critical_layers", "fp32_softmax_modules")
    )


def test_a_recipe_changes_neither_names_nor_the_saved_file(tmp_path):
    torch.manual_seed(0)
    model = Llama(CONFIG)
    names = list(model.state_dict())
    model.save_pretrained(tmp_path / "before")
    for recipe in PRECISIONS:
        apply_precision(model, recipe, "cpu")
        assert list(model.state_dict()) == names
        model.save_pretrained(tmp_path / recipe)
        assert (tmp_path / recipe / "model.safetensors").read_bytes() == (
            tmp_path / "before" / "model.safetensors"
        ).read_bytes()
    # bf16, the last one, has replaced the others
    assert lifted_counts(model) == {"fp32_norms": 0, "fp32_layers": 0, "fp32_softmax": 0}
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        apply_precision(model, "fp8", "cpu")


def test_critical_layers_of_many_and_of_one():
    assert critical_layers(PRECISIONS["tpu-bf16"], 20) == [0, 19]
    assert critical_layers(PRECISIONS["t4-fp16"], 20) == [0, 1]
    assert critical_layers(PRECISIONS["t4-fp16"], 2) == critical_layers(PRECISIONS["tpu-bf16"], 2) == [0, 1]
    assert critical_layers(PRECISIONS["tpu-bf16"], 1) == critical_layers(PRECISIONS["t4-fp16"], 1) == [0]
    assert critical_layers(PRECISIONS["fp32"], 5) == []


def test_loss_scaling_halves_on_overflow_and_doubles_after_the_interval():
    assert next_scale(1024.0, 7, False) == (512.0, 0)
    assert next_scale(1.0, 0, False) == (1.0, 0)
    assert next_scale(1024.0, 7, True) == (1024.0, 8)
    assert next_scale(1024.0, precision.GROWTH_INTERVAL - 1, True) == (2048.0, 0)


def test_the_dtype_follows_the_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert precision.choose_precision("cuda", False)[0] == "t4-fp16"  # a T4, whatever emulation says
    for capability in ((8, 0), (9, 0)):                           # an A100, the first with bfloat16; an H100
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        assert precision.choose_precision("cuda", False)[0] == "tpu-bf16"
        assert precision.choose_precision("cuda", True)[0] == "t4-fp16"
    assert (
        precision.choose_precision("xla", False)[0] == "tpu-bf16"
        and precision.choose_precision("mps", False)[0] == "fp32"
    )
    for fast in (True, False):
        monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda fast=fast: fast)
        assert precision.choose_precision("cpu", False)[0] == ("bf16" if fast else "fp32")


@pytest.mark.parametrize("recipe", ["tpu-bf16", "bf16"])
def test_evaluation_losses_are_no_bf16_numbers(recipe):
    """The cards' losses are multiples of 1/64 (BF16 between 2 and 4); ours are means of FP32 losses."""
    torch.manual_seed(0)
    model = apply_precision(Llama(CONFIG), recipe, "cpu")
    batches = [torch.randint(0, 64, (2, 16)).numpy() for _ in range(5)]

    class Job:
        device, micro_batch, settings = open_device("cpu"), 2, TrainSettings(loss_chunk=None)

        class validation:
            names = ["text"]
            batch = staticmethod(lambda row: batches[row // 2][row % 2:row % 2 + 1])
            locate = staticmethod(lambda number: (0, number))

        @staticmethod
        def validation_rows() -> int:
            return 2 * len(batches)

    loss = train.evaluate(model, Job)[""]
    with torch.no_grad():
        exact = [
            -torch.log_softmax(model(torch.from_numpy(ids)).double(), -1)[:, :-1]
            .gather(2, torch.from_numpy(ids)[:, 1:, None])
            .mean()
            .item()
            for ids in batches
        ]
    assert loss == pytest.approx(math.fsum(exact) / len(exact), abs=1e-6)
    assert loss != torch.tensor(loss).bfloat16().item() and abs(loss * 64 - round(loss * 64)) > 1e-3
