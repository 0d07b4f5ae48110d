# SPDX-License-Identifier: Apache-2.0
"""Damaged model folders, at random: each must load, or end in one UserError of one line, in bounded memory
and time.

    python tests/test_fuzz_model.py 10000                 # prints counts by outcome; exit code 1 and the case
                                                          if one is neither
    python tests/test_fuzz_model.py 1 --first 4711        # that case again (add --keep FOLDER to look at it)

Case number n is a function of n and --seed. The first cases are no accident but every size of config.json
made huge in turn. The process may grow by 512 MiB beyond what it uses after importing torch, so a size that
is believed before it is checked shows.
"""
import argparse
import collections
import copy
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SIZE_KEYS = [
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
]
HUGE = [(key, 2 * 10**power) for key in SIZE_KEYS for power in (5, 6, 7, 8, 9, 11, 13, 17, 40, 400)]
VALUES = [
    0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**30, 1e308, 1e-320, -0.0, 0.5, float("nan"), float("inf"),
    True, False, None, "", "4", "x" * 5000, [], [4], {}, {"a": 1}, "\n", "\ud800", "F8_E4M3", "F64", "I64",
    "BF16", "F16", "BOOL", "../../etc/passwd", "model.safetensors",
]
FOREIGN_KEYS = [
    "attention_bias", "mlp_bias", "sliding_window", "quantization_config", "model_type", "hidden_act",
    "rope_scaling", "rope_parameters", "head_dim", "num_key_value_heads", "rope_theta", "tie_word_embeddings",
    "rms_norm_eps",
]


# -------------------------------------------------------------------------------------------------- mutations

def bytes_mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four small accidents: bits flipped, bytes overwritten, a piece cut out, doubled, or the end
    lost.
    """
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 64))
        length = rng.choice([1, 1, 2, 8, 100])
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:at + length]
        elif kind == 3:
            data[at:at] = data[at:at + length]
        elif kind == 4:
            data[at:at] = rng.choice(
                [b"\0", b"9", b"9999999999", b"{", b"[" * 2000, b'"', b"\xff\xfe", b"-", b"e999", b"NaN"]
            )
        else:
            del data[at:]
    return bytes(data)


def json_mutated(value: dict, rng: random.Random) -> dict:
    """Keys lost, added, renamed, or given a value of another kind, at any depth."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        where = value
        while (
            deeper := [inner for inner in where.values() if isinstance(inner, dict) and inner]
        ) and rng.random() < 0.6:
            where = rng.choice(deeper)
        key = rng.choice(list(where) + rng.sample(FOREIGN_KEYS, 2) if where else FOREIGN_KEYS)
        kind = rng.randrange(5)
        if kind == 0:
            where.pop(key, None)
        elif kind == 1:
            where[
                rng.choice(
                    [
                        key + "x", "", "model.layers.7.mlp.up_proj.weight", "model.layers.", "\n" + key,
                        "\x1b[31m",
                    ]
                )
            ] = where.pop(key, 1)
        elif kind == 2 and isinstance(where.get(key), list) and where[key]:
            where[key][rng.randrange(len(where[key]))] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 3 and isinstance(where.get(key), (int, float)):
            where[key] = (
                where[key] + rng.choice([-1, 1, 2, 0.5])
                if rng.random() < 0.5
                else where[key] * rng.choice([-1, 2, 10**6, 0.5])
            )
        else:
            where[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def weights_mutated(data: bytes, rng: random.Random) -> bytes:
    """The safetensors file: 8 bytes of header length, a JSON header (name -> dtype, shape, offsets), the
    numbers.
    """
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = data[8:8 + length], data[8 + length:]
    kind = rng.randrange(4)
    if kind == 0:
        return bytes_mutated(data, rng)
    if kind == 1:
        return (
            struct.pack(
                "<Q", rng.choice([0, 1, length - 1, length + 1, length * 2, 2**31, 2**40, 2**63, 2**64 - 1])
            )
            + data[8:]
        )
    if kind == 2:  # header changed, its length right: past the first check
        text = json.dumps(json_mutated(json.loads(header), rng)).encode()
        return struct.pack("<Q", len(text)) + text + numbers
    text = bytes_mutated(header, rng)
    return (
        struct.pack("<Q", len(text)) + text + (bytes_mutated(numbers, rng) if rng.random() < 0.3 else numbers)
    )


class Folders:
    """One sound folder in one file and one in shards, and damaged copies of them."""

    def __init__(self, root: Path):
        from safetensors.torch import load_file, save_file
        import torch
        from model import Llama, ModelConfig
        torch.manual_seed(0)
        self.root = root
        self.sound = {}
        plain = root / "plain"
        Llama(ModelConfig(40, 16, 24, 2, 4, 2, 6, 32)).save_pretrained(plain, eos_token_id=2)
        self.sound["plain"] = {file.name: file.read_bytes() for file in plain.iterdir()}
        weights = load_file(plain / "model.safetensors")
        names = sorted(weights)
        parts = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {name: file for file, held in parts.items() for name in held},
        }
        sharded = {
            "config.json": self.sound["plain"]["config.json"],
            "model.safetensors.index.json": json.dumps(index).encode(),
        }
        for file, held in parts.items():
            save_file({name: weights[name] for name in held}, root / "part")
            sharded[file] = (root / "part").read_bytes()
        self.sound["sharded"] = sharded

    def damaged(self, case: int, seed: int) -> tuple[str, Path]:
        """What was damaged in this case, and the folder with the damage."""
        rng = random.Random(f"{seed} {case}")
        if case < len(HUGE):
            key, value = HUGE[case]
            config = {**json.loads(self.sound["plain"]["config.json"]), key: value}
            return "huge size", self.written(
                {**self.sound["plain"], "config.json": json.dumps(config).encode()}
            )
        kind = rng.choice(["plain", "plain", "plain", "sharded"])
        files = dict(self.sound[kind])
        name = rng.choice(["config.json", "model.safetensors"])
        if kind == "sharded":
            name = rng.choice(["model.safetensors.index.json", "model-00002-of-00002.safetensors"])
        if name.endswith(".safetensors"):
            files[name] = weights_mutated(files[name], rng)
        elif rng.random() < 0.5:
            files[name] = bytes_mutated(files[name], rng)
        else:
            files[name] = json.dumps(json_mutated(json.loads(files[name]), rng)).encode()
        return name.replace("model-00002-of-00002", "a shard's model"), self.written(files)

    def written(self, files: dict[str, bytes]) -> Path:
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder


# ---------------------------------------------------------------------------------------------------- the run

def outcome(folder: Path) -> str:
    """Load the folder: "loaded" if it is a model that runs, "refused: ..." by a UserError of one short line;
    anything else is raised.
    """
    import torch
    from common import UserError
    from model import Llama
    try:
        model = Llama.from_pretrained(folder)
    except UserError as error:
        line = str(error)
        assert line.isprintable() and str(folder) in line and len(line) <= 2000, f"not one line: {line!r}"
        return "refused"
    with torch.no_grad():
        logits = model(torch.zeros(1, 1, dtype=torch.int64))
    assert logits.shape == (1, 1, model.config.vocab_size)
    return "loaded"


def limit_memory(more: int) -> None:
    """Let this process grow by `more` bytes at most (where the system knows limits)."""
    try:
        import resource
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=int, nargs="?", default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the last damaged folder here")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch
    torch.set_num_threads(1)
    counts = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as root:
        folders = Folders(args.keep or Path(root))
        outcome(folders.written(folders.sound["plain"]))  # also brings in what is imported on first use
        outcome(folders.written(folders.sound["sharded"]))
        limit_memory(512 << 20)
        for case in range(args.first, args.first + args.cases):
            what, folder = folders.damaged(case, args.seed)
            start = time.process_time()
            try:
                counts[what, outcome(folder)] += 1
            except BaseException as error:  # also a PanicException of Rust, which is no Exception
                print(f"case {case}: {what}: {type(error).__name__}: {str(error)[:2000]}")
                print(
                    f"look at it: python tests/test_fuzz_model.py 1 --first {case} --seed {args.seed} "
                    "--keep FOLDER"
                )
                return 1
            slowest = max(slowest, time.process_time() - start)
    for (what, result), number in sorted(counts.items()):
        print(f"{what:32} {result:8} {number}")
    print(f"{sum(counts.values())} cases, none of them a traceback; slowest {slowest:.2f} s of CPU")
    return 0 if slowest < 5 else 1


def run_cases(cases: int) -> collections.Counter:
    """Run the script in a process of its own; counts by outcome."""
    result = subprocess.run(
        [sys.executable, __file__, str(cases)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{cases} cases, none of them a traceback" in result.stdout
    counts = collections.Counter()
    for line in result.stdout.splitlines()[:-1]:
        counts[line.split()[-2]] += int(line.split()[-1])
    assert sum(counts.values()) == cases
    return counts


def test_damaged_folders():
    """80 huge sizes and 200 mutations."""
    counts = run_cases(len(HUGE) + 200)
    assert counts["refused"] > 150 and counts["loaded"] > 5


@pytest.mark.slow
def test_ten_thousand_damaged_folders():
    counts = run_cases(len(HUGE) + 10_000)
    assert counts["refused"] > 5_000 and counts["loaded"] > 500


if __name__ == "__main__":
    sys.exit(main())
