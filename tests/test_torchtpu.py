# SPDX-License-Identifier: Apache-2.0
"""The TorchTPU path without a TPU.

Always: what a run chooses, says and sets, with a private device renamed "tpu" in the place of TorchTPU. Slow
(environment `torchtpu` of tests/oracles): real runs of TorchTPU on a CPU plugin (bench/torchtpu_on_cpu.py)
beside the same runs on the CPU. Several processes are not possible there, and nothing here runs on a TPU.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("STENTOR_ORACLES", "none")) / "torchtpu" / "bin" / "python"
slow = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.is_file(), reason="STENTOR_ORACLES names no folder with the environment torchtpu"
    ),
]

# Every case opens a device under the environment variables of that case and prints what came of it.
STAND_IN = """
import json, os, sys, types
import torch
torch.utils.rename_privateuse1_backend("tpu")
torch.accelerator.is_available = lambda: CHIP
torch.accelerator.current_accelerator = lambda *_, **__: torch.device("tpu") if CHIP else None
groups = []
torch.distributed.init_process_group = groups.append
torch.distributed.get_rank = lambda: int(os.environ["RANK"])
import precision
from common import UserError
from devices import torchtpu
from devices.open import open_device
class Folder(type(torchtpu.Path())):
    def glob(self, pattern):
        return range(CHIPS)
torchtpu.Path = Folder
TORCHRUN = ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"]
VARIABLES = ["TORCH_TPU_TOPOLOGY", "TORCH_TPU_SLICEBUILDER_ADDRESSES", "TPU_SKIP_MDS_QUERY"]
for name, (CHIP, CHIPS, device, environment, loaded, found) in json.load(sys.stdin).items():
    for variable in [*TORCHRUN, *VARIABLES]:
        os.environ.pop(variable, None)
    os.environ.update(environment)
    sys.modules.pop("torch_tpu", None)
    if loaded:
        sys.modules["torch_tpu"] = types.ModuleType("torch_tpu")
    torchtpu.find_spec = lambda module: module in found or None
    groups.clear()
    try:
        opened = open_device(device)
        result = {"kind": opened.kind, "device": str(opened.torch_device), "reason": opened.reason,
                  "rank": opened.rank, "world": opened.world, "attend": opened.attend.__module__,
                  "notes": opened.notes, "precision": precision.choose_precision(opened.kind, True)}
    except UserError as error:
        result = {"error": str(error)}
    now_set = {variable: os.environ[variable] for variable in VARIABLES if variable in os.environ}
    print(json.dumps({"name": name, "groups": groups, "set": now_set} | result))
"""


def torchrun(world: int, rank: int = 0, local: int | None = None) -> dict[str, str]:
    return {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local or world), "RANK": str(rank)}


CASES = {  # name -> has a chip, chips of the host, --device, environment, TorchTPU loaded, installed packages
    "one chip": (True, 1, "auto", {}, True, ["torch_tpu"]),
    "one of eight": (True, 8, "tpu", {}, True, ["torch_tpu"]),
    "eight processes": (True, 8, "tpu", torchrun(8, 3), True, ["torch_tpu"]),
    "four processes": (True, 4, "auto", torchrun(4), True, ["torch_tpu"]),
    "two processes": (True, 8, "tpu", torchrun(2), True, ["torch_tpu"]),
    "more processes than chips": (True, 4, "tpu", torchrun(8), True, ["torch_tpu"]),
    "set by the user": (True, 4, "tpu", torchrun(64, 9, 4) | {"TORCH_TPU_TOPOLOGY": "8,8,1",
                        "TORCH_TPU_SLICEBUILDER_ADDRESSES": "a:1,b:1"}, True, ["torch_tpu"]),
    "two hosts, nothing set": (True, 4, "tpu", torchrun(8, 0, 4), True, ["torch_tpu"]),
    "no chip": (False, 0, "tpu", {}, True, ["torch_tpu"]),
    "not loaded": (False, 0, "tpu", {}, False, ["torch_tpu"]),
    "not installed": (False, 0, "tpu", {}, False, []),
    "only torch_xla": (False, 0, "tpu", {}, False, ["torch_xla"]),
    "cpu beside TorchTPU": (False, 0, "cpu", {}, True, ["torch_tpu"]),
    "auto beside TorchTPU": (False, 0, "auto", {}, True, ["torch_tpu"]),
    "cpu": (False, 0, "cpu", {}, False, []),
}


@pytest.fixture(scope="module")
def opened() -> dict[str, dict]:
    """What `open_device` did in each case. A subprocess, because a backend can be renamed only once."""
    foreign = ("TPU", "TORCH_TPU", "PJRT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN], input=json.dumps(CASES), capture_output=True, text=True,
        cwd=ROOT, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {result["name"]: result for result in results}


def test_a_chip_is_found_and_named(opened):
    found = opened["one chip"]
    assert (found["kind"], found["device"], found["world"], found["groups"]) == ("tpu", "tpu", 1, [])
    assert found["reason"] == "a TPU, found by TorchTPU" and found["attend"] == "model"
    assert found["notes"] == []
    assert found["precision"] == ["tpu-bf16", "a TPU multiplies in bfloat16"]
    assert found["set"] == {}


def test_one_process_on_a_host_of_eight_chips_is_told_how_to_use_all(opened):
    assert opened["one of eight"]["reason"] == "--device tpu"
    (note,) = opened["one of eight"]["notes"]
    assert "1 of 8 chips" in note and "torchrun --nproc-per-node 8 train.py" in note


@pytest.mark.parametrize(
    "name, world, rank, topology", [("eight processes", 8, 3, "2,4,1"), ("four processes", 4, 0, "2,2,1")]
)
def test_processes_join_the_group_of_all_chips(opened, name, world, rank, topology):
    found = opened[name]
    assert found["groups"] == ["tpu_dist"]
    assert (found["rank"], found["world"], found["device"]) == (rank, world, "tpu")        # never tpu:RANK
    addresses = found["set"]["TORCH_TPU_SLICEBUILDER_ADDRESSES"].split(",")
    assert found["set"]["TORCH_TPU_TOPOLOGY"] == topology and len(set(addresses)) == world


def test_variables_of_the_user_are_kept(opened):
    """Several hosts: only the user knows their addresses."""
    found = opened["set by the user"]
    assert found["set"] == {"TORCH_TPU_TOPOLOGY": "8,8,1", "TORCH_TPU_SLICEBUILDER_ADDRESSES": "a:1,b:1"}
    assert (found["rank"], found["world"], found["groups"]) == (9, 64, ["tpu_dist"])


@pytest.mark.parametrize("name, words", [
    ("two processes", ["2 processes do not fit", "1, 4 or 8", "torchrun --nproc-per-node 8"]),
    ("more processes than chips", ["8 processes do not fit", "torchrun --nproc-per-node 4"]),
    ("two hosts, nothing set", ["several hosts", "TORCH_TPU_SLICEBUILDER_ADDRESSES", "KAGGLE.md"]),
    ("no chip", ["found no chip", "/dev/vfio", "--device cpu"]),
    ("not loaded", ["not loaded", "unset TORCH_DEVICE_BACKEND_AUTOLOAD"]),
    ("not installed", ['pip install ".[torchtpu]"', "torch 2.11"]),
    ("only torch_xla", ['pip install ".[torchtpu]"', "--device xla"]),
])
def test_a_mistake_is_one_line_with_its_remedy(opened, name, words):
    error = opened[name]["error"]
    assert "\n" not in error and all(word in error for word in words), error
    assert opened[name]["groups"] == []


@pytest.mark.parametrize("name", ["cpu beside TorchTPU", "auto beside TorchTPU"])
def test_a_cpu_run_beside_torchtpu_does_not_wait_for_a_metadata_server(opened, name):
    found = opened[name]
    assert found["kind"] == "cpu" and found["set"] == {"TPU_SKIP_MDS_QUERY": "1"}
    (note,) = found["notes"]
    assert "no chip" in note and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in note
    assert opened["cpu"]["notes"] == [] and opened["cpu"]["set"] == {}


# ---------------------------------------------------------------------------------- TorchTPU itself, on a CPU

# A high rate would make a difference of one rounding grow with each step.
SETTINGS = (
    "--size tiny --recipe laptop --learning-rate 3e-4 --steps 12 --batch-size 4 --seq-len 64 --eval-steps 6 "
    "--max-eval-samples 8 --logging-steps 3"
).split()
THRIFTY = "--micro-batch 2 --recompute --loss-chunk 16".split()


def train(folder: Path, *arguments: str, chip: bool = True) -> str:
    """Run train.py in `folder`, on TorchTPU's device or on the plain CPU of the same torch."""
    on_chip = ["-m", "bench.torchtpu_on_cpu", "train.py"]
    start = on_chip if chip else [str(ROOT / "train.py"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run(
        [str(PYTHON), *start, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def largest_difference(folder: Path, one: str, two: str, key: str) -> float:
    both = zip(rows(folder / one), rows(folder / two), strict=True)
    differences = [abs(a[key] - b[key]) for a, b in both if key in a]
    assert differences and all(difference == difference for difference in differences)          # no NaN
    return max(differences)


@pytest.fixture(scope="module")
def runs(generated, tmp_path_factory) -> Path:
    """Twelve steps of `tiny` on TorchTPU's device and on the CPU, and a run that saves memory."""
    folder = tmp_path_factory.mktemp("runs")
    for precision in ("tpu-bf16", "fp32"):
        common = [*SETTINGS, "--data", str(generated), "--precision", precision]
        text = train(folder, *common, "--out", f"{precision}-chip")
        assert "device    tpu (a TPU, found by TorchTPU), in " in text
        train(folder, *common, "--out", f"{precision}-cpu", chip=False)
    thrifty = [*SETTINGS, *THRIFTY, "--data", str(generated), "--precision", "fp32"]
    train(folder, *thrifty, "--out", "thrifty-chip")
    return folder


@pytest.mark.parametrize("precision, allowed", [("tpu-bf16", 1e-3), ("fp32", 1e-4)])
class TestPrecisions:
    pytestmark = slow

    def test_losses_and_evaluations_equal_the_cpu(self, runs, precision, allowed):
        for key in ("loss", "eval_loss"):
            found = largest_difference(runs, f"{precision}-chip", f"{precision}-cpu", key)
            print(f"{precision}: largest difference of {key} {found:.1e}")
            assert found < allowed, key


class TestOthers:
    pytestmark = slow

    def test_recompute_a_chunked_loss_and_micro_batches_change_nothing(self, runs):
        found = largest_difference(runs, "thrifty-chip", "fp32-cpu", "loss")
        print(f"thrifty: largest difference of loss {found:.1e}")
        assert found < 1e-4

    def test_interrupted_and_resumed_is_the_same_run(self, runs, generated, tmp_path):
        common = [*SETTINGS, "--data", str(generated), "--precision", "tpu-bf16"]
        train(tmp_path, *common, "--out", "cut", "--stop-after", "7")
        train(tmp_path, "--resume", "cut")
        for name in ("last/model.safetensors", "last/optimizer.safetensors", "best/model.safetensors"):
            complete = runs / "tpu-bf16-chip" / name
            assert (tmp_path / "cut" / name).read_bytes() == complete.read_bytes(), name

    def test_a_cpu_run_beside_torchtpu_ends_at_once(self, corpus, tmp_path):
        """With TorchTPU loaded and no chip, as a user meets it: the note, and no wait in backward()."""
        arguments = [*SETTINGS, "--data", str(corpus), "--steps", "2", "--out", "run"]
        ours = ("TPU_SKIP_MDS_QUERY", "TORCH_DEVICE_BACKEND_AUTOLOAD")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        done = subprocess.run(
            [str(PYTHON), str(ROOT / "train.py"), *arguments], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "TorchTPU is installed but found no chip" in done.stdout
