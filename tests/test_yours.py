# SPDX-License-Identifier: Apache-2.0
"""The track lessons/yours: the reference passes, mistakes are named, one_file.py is the real model."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import model as real
import tokenizer
from in_process import run_pytest
from vocab_files.bpe import FromBytes

ROOT = Path(__file__).resolve().parent.parent
YOURS = ROOT / "lessons" / "yours"


def file_module(file: Path, name: str):
    """A Python file as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = file_module(YOURS / "steps.py", "steps")
grader = file_module(YOURS / "test_steps.py", "yours_test_steps")
STEPS = support.STEPS


# -------------------------------------------------------------------------------------------------- the files


def names_of(file: Path) -> dict[str, str]:
    """Public functions, classes and methods of a stub with their signatures."""
    found = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ast.unparse(node.args)
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = ast.unparse(method.args)
    return found


def test_each_step_has_stub_reference_and_page():
    assert len(STEPS) == 12
    for name in STEPS:
        assert (YOURS / f"{name}.py").is_file() and (YOURS / "pages" / f"{name}.md").is_file(), name
        assert len(names_of(YOURS / f"{name}.py")) > 0


@pytest.mark.parametrize("name", STEPS)
def test_stub_and_reference_have_the_same_parameters(name):
    steps = support.Steps(support.REFERENCE)
    module = steps.module(int(name[4:6]))
    for path, arguments in names_of(YOURS / f"{name}.py").items():
        function = module
        for part in path.split("."):
            function = getattr(function, part)
        wanted = [re.sub(r"[:=].*", "", argument).strip() for argument in arguments.split(",")]
        assert list(inspect.signature(function).parameters) == wanted, path


def test_one_file_is_short_and_imports_nothing_of_the_project():
    text = (YOURS / "one_file.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250 and max(map(len, text.splitlines())) <= 110
    nodes = list(ast.walk(ast.parse(text)))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    packages = {name.split(".")[0] for name in imported}
    assert packages - set(sys.stdlib_module_names) == {"torch", "safetensors"}


# ----------------------------------------------------------------------------------------------- the one file


def one_file():
    support.Steps(support.REFERENCE)  # puts its folder on the path, forgets other versions
    import one_file

    return one_file


@pytest.mark.parametrize("tied", [True, False])
def test_one_file_has_the_weights_logits_and_losses_of_the_real_model(tied):
    whole = one_file()
    config = real.ModelConfig(300, 64, 96, 3, 4, 2, 16, 64, 50_000.0, tie_word_embeddings=tied)
    mine, right = whole.Llama(config), real.Llama(config)
    torch.manual_seed(42)
    whole.init_weights(mine)
    torch.manual_seed(42)
    real.init_weights(right)
    assert list(mine.state_dict()) == list(right.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), right.state_dict().values()))
    ids = torch.randint(300, (3, 50))
    torch.testing.assert_close(mine(ids), right(ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.next_token_loss(mine(ids), ids), real.next_token_loss(right(ids), ids))


@pytest.mark.ci
def test_one_file_trains_samples_and_saves_a_llama_folder(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The fox met the hen. The hen met the fox.\n" * 100)
    done = subprocess.run(
        [sys.executable, str(YOURS / "one_file.py"), str(text), "--steps", "20", "--out", "my_model"],
        capture_output=True, text=True, cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    losses = re.search(r"nats per byte: ([\d.]+) at the first step, ([\d.]+)", done.stdout)
    assert abs(float(losses[1]) - 5.545) < 0.2 and float(losses[2]) < 4.5  # ln 256 at first
    sampled = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), str(tmp_path / "my_model"), "The fox"],
        capture_output=True, text=True, cwd=tmp_path,
    )
    assert sampled.returncode == 0 and sampled.stdout.startswith("The fox"), sampled.stderr


def test_the_folder_of_one_file_opens_everywhere(tmp_path):
    whole = one_file()
    mine = whole.Llama(whole.Config())
    whole.save(mine, tmp_path)
    text = "Où? 🦊\tA line\r\n"
    ids = list(text.encode())
    right = mine(torch.tensor([ids]))
    torch.testing.assert_close(real.Llama.from_pretrained(tmp_path)(torch.tensor([ids])), right)
    words = tokenizer.load(tmp_path)
    assert words.encode(text) == ids and words.decode(ids) == text and words.eos_id == 10
    assert words.encode(text, document=True) == list(text.replace("\r\n", "\n").encode())
    changed = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    changed["model"]["merges"] = ["<0x61> <0x62>"]
    (tmp_path / "merged.json").write_text(json.dumps(changed))
    assert FromBytes.reads(tmp_path / "tokenizer.json") and not FromBytes.reads(tmp_path / "merged.json")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text).input_ids == ids and theirs.decode(ids) == text
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(torch.tensor([ids])).logits, right, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- the grader


def grade(*options: str) -> tuple[int, str]:
    return run_pytest("lessons/yours", *options)


def test_the_reference_passes():
    code, printed = grade("--answers", str(support.REFERENCE))
    assert code == 0 and "skipped" not in printed, printed


def test_answers_in_another_copy_of_the_project_need_an_equals_sign(tmp_path):
    other = tmp_path / "lessons" / "yours"
    other.mkdir(parents=True)
    (tmp_path / "lessons" / "conftest.py").write_text((ROOT / "lessons" / "conftest.py").read_text())
    code, printed = grade("--answers", str(other), "-k", "step_02")
    assert code == 4 and "write --answers=FOLDER" in printed and "Traceback" not in printed, printed
    code, printed = grade(f"--answers={other}", "-k", "step_02")
    assert code == 1 and "step02_network.py is missing" in printed, printed


def test_stubs_give_one_line():
    code, printed = grade("--tb=short")
    lines = [
        line for line in printed.splitlines() if "not written yet" in line and not line.startswith("FAILED")
    ]
    assert code == 1 and lines == ["not written yet: count_pairs in lessons/yours/step01_counts.py"], printed
    assert "1 failed" in printed and "Traceback" not in printed


def test_one_can_start_in_the_middle():
    code, printed = grade("--start", "7", "-k", "not step_13")
    assert code == 1 and "not written yet: RMSNorm.__init__ in lessons/yours/step07_norm.py" in printed, (
        printed
    )
    assert "1 failed" in printed


def test_an_error_shows_the_students_own_line(tmp_path):
    text = (support.REFERENCE / "step03_head.py").read_text(encoding="utf-8")
    (tmp_path / "step03_head.py").write_text(text.replace("return weight @ v", "return weight @ values"))
    (tmp_path / "step04_heads.py").write_text("def split(x:\n")
    code, printed = grade("--answers", str(tmp_path), "-k", "step_03 or step_04_split", "--tb=short")
    assert code == 1, printed
    assert "step03_head.py, line 24:\n    return weight @ values" in printed, printed
    assert "NameError: name 'values' is not defined" in printed and "step04_heads.py, line 1:" in printed
    assert "grading.py" not in printed and "steps.py" not in printed.replace("test_steps.py", ""), printed


# step's test -> (file, what the reference writes, what a student may write instead, what the grader says)
MISTAKES = {
    "step_01_count_pairs": [
        ("ids[:-1] * vocab_size + ids[1:]", "ids[1:] * vocab_size + ids[:-1]",
         "rows and columns are swapped"),
        (".float()                        #", ".clamp(max=1).float()  #", "counted only once"),
    ],
    "step_01_probabilities": [
        ("sum(dim=1,", "sum(dim=0,", "the columns sum to 1"),
        ("counts = counts + add", "counts = counts + 0", "nothing was added"),
        ("counts.sum(dim=1, keepdim=True)", "counts.sum()", "each row must sum to 1"),
    ],
    "step_01_mean_loss": [
        (".mean()", ".sum()", "the losses are summed"),
        ("-chosen", "chosen", "the sign is wrong"),
        (".log()", ".log2()", "this is in bits"),
        ("table[ids[:-1], ids[1:]]", "table[ids[1:], ids[:-1]]", "row and column are swapped"),
        ("chosen.log().mean()", "chosen.mean().log()", "logarithm of the mean"),
    ],
    "step_02_bigram": [
        ("self.lm_head(x)  ", "self.lm_head(x).softmax(-1)  ", "return the logits"),
        ("self.lm_head(x)  ", "x @ self.embed_tokens.weight.t()  ", "the embedding is used twice"),
        ("width, vocab_size, bias=False", "width, vocab_size", "use bias=False"),
    ],
    "step_03_head": [
        ("score.masked_fill(later, -math.inf)", "score", "later positions are read too"),
        ("-math.inf", "0.0", "use -inf"),
        ("/ math.sqrt(q.shape[2])", "", "not divided by sqrt(F)"),
        ("math.sqrt(q.shape[2])", "q.shape[2]", "divided by F; divide by sqrt(F)"),
        ("triu(1)", "triu(0)", "does not read itself"),
        ("triu(1)", "tril(-1)", "the mask is the wrong way round"),
        ("dim=-1)   #", "dim=-2)   #", "over the queries"),
        ("q @ k.transpose(1, 2)", "k @ q.transpose(1, 2)", "queries and keys are swapped"),
        ("torch.softmax(score.masked_fill(later, -math.inf), dim=-1)",
         "torch.softmax(score, dim=-1).masked_fill(later, 0.0)",
         "masked after the softmax"),
    ],
    "step_04_split": [
        ("x.view(B, T, -1, head_dim).transpose(1, 2)", "x.view(B, -1, T, head_dim)",
         "view(B, T, H, F) first"),
        (".transpose(1, 2)                         # (B, H", "  # (B, H", "swap T and H"),
        ("view(B, T, -1, head_dim).transpose(1, 2)", "view(B, T, head_dim, -1).permute(0, 3, 1, 2)",
         "F neighbours"),
    ],
    "step_04_merge": [
        ("x.transpose(1, 2).reshape(B", "x.reshape(B", "not swapped back"),
        ("x.transpose(1, 2).reshape(B", "x.permute(0, 2, 3, 1).reshape(B", "interleaved"),
    ],
    "step_04_attend": [
        ("score.masked_fill(later, -math.inf)", "score", "later positions are read too"),
        ("masked_fill(later, -math.inf)", "masked_fill(later, 0.0)", "use -inf"),
        (" / math.sqrt(q.shape[3])", "", "not divided by sqrt(F)"),
    ],
    "step_04_multi_head": [
        ("self.o_proj(merge(attend(q, k, v)))", "merge(attend(q, k, v))", "o_proj is missing"),
        ("self.k_proj = nn.Linear(width, heads * head_dim, bias=False)",
         "self.k_proj = nn.Linear(width, heads * head_dim)",
         "use bias=False"),
        ("self.o_proj =", "self.out =", "has no o_proj.weight"),
    ],
    "step_05_repeat_heads": [
        ("x.repeat_interleave(heads // x.shape[1], dim=1)", "x.repeat(1, heads // x.shape[1], 1, 1)",
         "the heads come as 0 1 0 1 0 1"),
        ("x.repeat_interleave(heads // x.shape[1], dim=1)", "x", "nothing is repeated"),
        ("heads // x.shape[1], dim=1", "x.shape[1], dim=1", "returned shape (4, 4, 5, 8)"),
    ],
    "step_05_grouped_heads": [
        ("repeat_heads(k, self.heads)", "k.repeat(1, self.heads // k.shape[1], 1, 1)",
         "the keys are in the wrong order"),
        ("repeat_heads(k, self.heads), repeat_heads(v, self.heads)",
         "repeat_heads(v, self.heads), repeat_heads(k, self.heads)",
         "keys and values are swapped"),
        ("self.k_proj = nn.Linear(width, kv_heads * head_dim",
         "self.k_proj = nn.Linear(width, heads * head_dim",
         "k_proj.weight has shape"),
    ],
    "step_06_rotary_table": [
        (".float() / head_dim)", ".float() / head_dim / 2)", "the exponent is -j/F"),
        ("torch.arange(length)", "torch.arange(1, length + 1)", "the first position is 1"),
        (".repeat(1, 2)", ".repeat_interleave(2, dim=1)", "comes twice in a row"),
        (".repeat(1, 2)", "", "only F/2 columns"),
    ],
    "step_06_rotate": [
        ("[-second, first]", "[second, -first]", "the rotation goes the wrong way"),
        ("[-second, first]", "[second, first]", "the minus sign is missing"),
    ],
    "step_06_attention": [
        ("rotate(q, cos, sin), rotate(k, cos, sin)", "q, k", "nothing is rotated"),
        ("rotate(q, cos, sin), rotate(k, cos, sin)", "rotate(q, cos, sin), k", "the keys are not rotated"),
        ("rotate(q, cos, sin), rotate(k, cos, sin)", "q, rotate(k, cos, sin)", "the queries are not rotated"),
        ("        y = attend(q, k, v)", "        y = attend(q, k, rotate(v, cos, sin))",
         "the values are rotated too"),
    ],
    "step_07_norm": [
        (".mean(dim=-1, keepdim=True)             #", ".mean()  #", "over all axes"),
        (".mean(dim=-1, keepdim=True)             #", ".sum(dim=-1, keepdim=True)  #",
         "the squares are summed"),
        ("torch.rsqrt(mean_square + self.eps)", "torch.rsqrt(mean_square)", "eps is missing"),
        ("torch.rsqrt(mean_square + self.eps)", "1 / (mean_square.sqrt() + self.eps)", "belongs under it"),
        ("torch.rsqrt(mean_square + self.eps)", "1 / (mean_square + self.eps)", "the root is missing"),
        ("return self.weight * normed", "return normed", "the weight is missing"),
    ],
    "step_08_mlp": [
        ("nn.functional.silu(self.gate_proj(x))", "nn.functional.relu(self.gate_proj(x))", "this is ReLU"),
        ("nn.functional.silu(self.gate_proj(x))", "torch.sigmoid(self.gate_proj(x))", "sigmoid where silu"),
        ("nn.functional.silu(self.gate_proj(x))", "self.gate_proj(x)", "the gate has no silu"),
        ("nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)",
         "nn.functional.silu(self.up_proj(x)) * self.gate_proj(x)",
         "silu is on the up branch"),
        ("nn.functional.silu(self.gate_proj(x)) *", "nn.functional.silu(self.gate_proj(x)) +",
         "multiply them"),
    ],
    "step_08_block": [
        ("x = x + self.self_attn", "x = self.self_attn", "the first addition is missing"),
        ("return x + self.mlp", "return self.mlp", "the second addition is missing"),
        ("self.self_attn(self.input_layernorm(x), cos", "self.self_attn(x, cos", "attention reads x without"),
        ("self.mlp(self.post_attention_layernorm(x))", "self.mlp(x)", "the MLP reads x without"),
    ],
    "step_09_model": [
        ("return self.norm(x)", "return x", "the last norm is missing"),
        ("x = self.embed_tokens(ids)  ", "x = self.embed_tokens(ids) * x_scale(self)  ",
         "multiplied by sqrt(D)"),
        ("for layer in self.layers:", "for layer in self.layers[:1]:", "only the first block"),
    ],
    "step_09_first_weights": [
        ("residual_std if to_residual else std", "std", "N(0, std / sqrt(2L))"),
        ("math.sqrt(2 * model.config.num_hidden_layers)", "model.config.num_hidden_layers",
         "N(0, std / sqrt(2L))"),
        ("in model.named_parameters()", "in reversed(list(model.named_parameters()))", "in another order"),
    ],
    "step_10_loss": [
        ("(logits.logsumexp(dim=2, keepdim=True) - chosen).mean()",
         "(logits.logsumexp(dim=2, keepdim=True) - chosen).sum()",
         "the losses are summed"),
        ("logits.logsumexp(dim=2, keepdim=True) - chosen",
         "chosen - logits.logsumexp(dim=2, keepdim=True)",
         "the sign is wrong"),
        ("logits.logsumexp(dim=2, keepdim=True) - chosen", "-chosen", "logsumexp is missing"),
        ("logits.logsumexp(dim=2, keepdim=True)", "logits.exp().sum(dim=2, keepdim=True).log()", "overflows"),
        ("logits.logsumexp(dim=2, keepdim=True)",
         "((logits - logits.max()).exp().sum(dim=2, keepdim=True).log() + logits.max())",
         "exp(-1000) is 0"),
        ("logits[:, :-1].float()", "logits[:, 1:].float()", "both lost their first position"),
        ("gather(2, ids[:, 1:, None])", "gather(2, ids[:, :-1, None])", "both lost their last position"),
    ],
    "step_11_learning_rate": [
        ("peak * step / warmup_steps", "peak * (step + 1) / warmup_steps", "begins above 0"),
        ("if step < warmup_steps", "if step < 0", "the warmup is missing"),
        ("/ (steps - warmup_steps)))", "/ (steps - warmup_steps - 1)))", "would reach 0 at step number"),
        ("(step - warmup_steps) / (steps - warmup_steps)", "step / steps", "must begin after the warmup"),
        ("(step - warmup_steps) / (steps - warmup_steps)", "(step - warmup_steps) / steps",
         "must take steps - warmup_steps"),
        ("0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))",
         "(1 - (step - warmup_steps) / (steps - warmup_steps))",
         "half a cosine"),
    ],
    "step_11_clip_gradients": [
        ("p.grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))",
         "p.grad.mul_(torch.clamp(max_norm / (p.grad.norm() + 1e-6), max=1.0))",
         "clipped separately"),
        ("torch.clamp(max_norm / (norm + 1e-6), max=1.0)", "max_norm / (norm + 1e-6)", "made longer"),
        ("p.grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))", "p.grad.clamp_(max=max_norm)",
         "each number is clipped"),
        ("p.grad.mul_(", "p.grad.mul(", "nothing was clipped"),
    ],
    "step_11_adamw": [
        ("p.mul_(1 - lr * decay)", "p.mul_(1 - decay)", "not multiplied by the rate"),
        ("p.mul_(1 - lr * decay)", "p.grad.add_(decay * p)", "the weight does not decay"),
        (
            "            m.mul_(b1).add_((1 - b1) * p.grad)\n"
            "            v.mul_(b2).add_((1 - b2) * p.grad**2)\n"
            "            p.mul_(1 - lr * decay)\n",
            "            p.grad.add_(decay * p)\n"
            "            m.mul_(b1).add_((1 - b1) * p.grad)\n"
            "            v.mul_(b2).add_((1 - b2) * p.grad**2)\n",
            "the decay is added to the gradient",
        ),
        ("p.mul_(1 - lr * decay)", "pass", "the weight does not decay"),
        ("(1 - b1**t)", "1", "m is not corrected"),
        ("(1 - b2**t)", "1", "v is not corrected"),
        ("b1, b2, eps = 0.9, 0.95", "b1, b2, eps = 0.95, 0.9", "b1 and b2 are swapped"),
        ("(1 - b2) * p.grad**2", "(1 - b2) * p.grad.abs()", "v is the mean of |g|"),
        (".sqrt() + eps)", " + eps).sqrt()", "eps is inside the root"),
        ("decay if id(p) in linear else 0.0", "decay", "the embedding decays"),
    ],
    "step_11_train": [
        ("        model.zero_grad()\n", "", "are still there"),
        ("        clip_gradients(model, max_norm=1.0)\n", "", "not clipped"),
        ("learning_rate(step, steps, peak, warmup_steps))", "peak)", "the rate is constant"),
        ("learning_rate(step, steps", "learning_rate(step + 1, steps", "the rate of the next step"),
        ("max(1, round(0.05 * steps))", "0", "the warmup is missing"),
        ("optimizer.step(step + 1", "optimizer.step(max(1, step)", "counts from 1"),
        ("AdamW(model, decay=0.01)", "AdamW(model, decay=0.0)", "nothing decays"),
        ("        loss.backward()\n", "", "AttributeError"),
    ],
    "step_12_greedy": [
        ("    return new\n", "    return ids + new\n", "the prompt is returned too"),
        ("        if token == stop_id:\n            break\n        new.append(token)",
         "        new.append(token)\n        if token == stop_id:\n            break",
         "stop_id was returned"),
        ("[0, -1].float()", "[0, 0].float()", "logits of the last position"),
        ("max(temperature, 1e-6)", "max(temperature, 1.0)", "take the most probable token"),
    ],
    "step_12_chances": [
        ("/ max(temperature, 1e-6)", "* temperature", "divide by it"),
        ("/ max(temperature, 1e-6)", "", "no effect"),
        (" * (better < top_p)", "", "top_p has no effect"),
        ("cumsum(dim=0) - best_first", "cumsum(dim=0)", "crosses top_p"),
        ("manual_seed(seed)", "manual_seed(0)", "another seed"),
    ],
}
CASES = [(test, *case) for test, cases in MISTAKES.items() for case in cases]


@pytest.mark.ci
@pytest.mark.parametrize(
    "test, right, wrong, message", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_typical_mistake_is_named(test, right, wrong, message, tmp_path):
    """The reference with one part changed, graded by the functions that `pytest lessons/yours` runs."""
    number = int(test.split("_")[1])
    for file in [YOURS / "one_file.py", *support.REFERENCE.glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        if file.name in ("one_file.py", f"{STEPS[number - 1]}.py"):
            text = text.replace(right, wrong)
        (tmp_path / file.name).write_text(
            text + "\n\ndef x_scale(module):\n    return module.norm.weight.numel() ** 0.5\n"
        )
    changed = [
        name
        for name in ("one_file.py", f"{STEPS[number - 1]}.py")
        if right in ((YOURS if name == "one_file.py" else support.REFERENCE) / name).read_text()
    ]
    assert changed, f"the reference no longer holds {right!r}"
    steps = support.Steps(tmp_path)
    sys.path.insert(0, str(tmp_path))  # its one_file.py before the real one
    try:
        answers = {}

        def part(name, step=number):
            module = answers.setdefault(step, steps.module(step))
            return getattr(module, name)

        function = getattr(grader, f"test_{test}")
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        cases = [[]]
        if marks:
            names = [name.strip() for name in marks[0].args[0].split(",")]
            cases = [dict(zip(names, value if len(names) > 1 else [value])) for value in marks[0].args[1]]
        said = []
        for case in cases:
            try:
                function(part, **dict(case))
            except pytest.fail.Exception as failed:
                said.append(str(failed))
    finally:
        sys.path.remove(str(tmp_path))
        steps.forget()
    assert any(message in line for line in said), (said, message)
