# SPDX-License-Identifier: Apache-2.0
"""sample.py: the choice of a token, the decoding loop, seeds, and the command line."""
from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sample
import tokenizer
from common import ROOT, UserError
from model import SIZES, KVCache, Llama
from sample import Draw, SampleSettings, decode, filtered, generate
from sampling import answers, chat, history, template, terminal
from sampling.fast_decoder import FastDecoder

PLAIN = SampleSettings(temperature=1.0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=16)


def model_of(size: str, layers: int = 2, seed: int = 0, **changes) -> Llama:
    """A model of a size with fewer layers, and weights large enough that its choices are not near-ties."""
    torch.manual_seed(seed)
    model = Llama(dataclasses.replace(SIZES[size], num_hidden_layers=layers, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return model


def ids_of(model: Llama, length: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(model.config.vocab_size), k=length)


# -------------------------------------------------------------------------------------- the choice of a token

def oracle(logits: torch.Tensor, seen_ids: list[int], settings: SampleSettings) -> torch.Tensor:
    """What transformers' own processors make of the same logits."""
    process = pytest.importorskip(
        "transformers.generation.logits_process", reason="transformers is the oracle of this test"
    )
    chain = process.LogitsProcessorList()
    if settings.repetition_penalty != 1:
        chain.append(process.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    chain.append(process.TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        chain.append(process.TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        chain.append(process.TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        chain.append(process.MinPLogitsWarper(settings.min_p))
    return chain(torch.tensor([seen_ids]), logits[None].clone())[0]


@pytest.mark.parametrize("vocab", [50, 4096, 32768])
def test_distribution_is_that_of_transformers(vocab):
    draw = torch.Generator().manual_seed(vocab)
    grid = itertools.product([0.3, 1.0, 1.7], [0, 1, 40], [1.0, 0.9, 0.3], [0.0, 0.05], [1.0, 1.3])
    for i, (temperature, top_k, top_p, min_p, penalty) in enumerate(grid):
        settings = SampleSettings(temperature, top_p, top_k, min_p, penalty)
        logits = torch.randn(vocab, generator=draw) * (1 + i % 4)
        seen_ids = torch.randint(vocab, (30,), generator=draw).tolist()
        seen = torch.zeros(vocab, dtype=torch.bool)
        seen[seen_ids] = True
        expected = oracle(logits, seen_ids, settings)
        got = filtered(logits, seen, settings)
        assert torch.equal(torch.isinf(got), torch.isinf(expected)), settings
        torch.testing.assert_close(torch.softmax(got, 0), torch.softmax(expected, 0), rtol=1e-5, atol=1e-7)


def test_top_p_of_a_flat_distribution_reads_past_the_first_candidates():
    logits = torch.zeros(5000) + torch.arange(5000) * 1e-6
    kept = filtered(logits, torch.zeros(5000, dtype=torch.bool), dataclasses.replace(PLAIN, top_p=0.9))
    assert 4490 <= int(torch.isfinite(kept).sum()) <= 4510


def test_top_p_of_1_keeps_what_is_lost_in_a_sum_of_fp32():
    logits = torch.tensor([0.0, -30.0, -40.0])                   # the first has all of the sum but 1e-13
    assert torch.equal(filtered(logits, torch.zeros(3, dtype=torch.bool), PLAIN), logits)


def test_choose_draws_from_the_distribution():
    model = model_of("tiny", vocab_size=6, layers=1)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, -30.0])
    row = Draw(model, [0], dataclasses.replace(PLAIN, max_new_tokens=10**6), seed=7)
    draws = 20_000
    counts = torch.bincount(torch.tensor([row.choose(logits) for _ in range(draws)]), minlength=6)
    expected = torch.softmax(logits, 0) * draws
    chi_square = float(((counts - expected) ** 2 / expected)[:5].sum())
    assert chi_square < 18.5                       # 4 degrees of freedom, one chance in a thousand
    assert counts[5] == 0


def test_settings_name_every_impossible_value():
    with pytest.raises(UserError) as error:
        SampleSettings(-1, top_p=0, top_k=-2, min_p=2, repetition_penalty=0, max_new_tokens=-1).check()
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens"):
        assert name in str(error.value)
    with pytest.raises(UserError, match="temperature"):
        SampleSettings(temperature=math.nan).check()


# --------------------------------------------------------------------------------------------------- decoding

@pytest.mark.parametrize("size", list(SIZES))
def test_cached_logits_equal_uncached_and_fast_equals_plain(size):
    """Prefill of 1 to 65 tokens in one pass, then steps, for one row and for three, against one uncached
    forward.
    """
    model = model_of(size, max_position_embeddings=80, vocab_size=512)
    fast = FastDecoder(model)
    for batch, length in [(1, 1), (3, 5), (1, 63), (3, 64), (1, 65), (1, 76)]:
        ids = torch.randint(
            model.config.vocab_size, (batch, length + 4), generator=torch.Generator().manual_seed(length)
        )
        with torch.inference_mode():
            whole = model(ids)
            plain_cache, fast_cache = (KVCache(model.config, batch, length + 4) for _ in range(2))
            torch.testing.assert_close(
                model(ids[:, :length], plain_cache), whole[:, :length], rtol=0, atol=1e-4
            )
            model(ids[:, :length], fast_cache)
            for position in range(length, length + 4):
                newest = ids[:, position:position + 1]
                torch.testing.assert_close(
                    model(newest, plain_cache)[:, -1], whole[:, position], rtol=0, atol=1e-4
                )
                torch.testing.assert_close(fast(newest, fast_cache), whole[:, position], rtol=0, atol=1e-4)
            torch.testing.assert_close(fast_cache.keys, plain_cache.keys, rtol=0, atol=1e-4)
            torch.testing.assert_close(fast_cache.values, plain_cache.values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", ["30m", "20m"])
def test_cached_logits_up_to_the_context_limit(size):
    model = model_of(size, layers=1)
    limit = model.config.max_position_embeddings
    ids = torch.randint(model.config.vocab_size, (1, limit), generator=torch.Generator().manual_seed(3))
    fast, cache = FastDecoder(model), KVCache(model.config, 1, limit)
    with torch.inference_mode():
        whole = model.project(model.model(ids)[:, -3:])
        model.model(ids[:, :limit - 3], cache)
        for i in range(3):
            torch.testing.assert_close(
                fast(ids[:, limit - 3 + i : limit - 2 + i], cache), whole[:, i], rtol=0, atol=1e-3
            )
        with pytest.raises(UserError, match="positions"):
            model(ids[:, :1], cache)


@pytest.mark.parametrize("size, penalty", [("20m", 1.0), ("30m", 1.3)])
def test_greedy_tokens_equal_transformers(size, penalty, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")
    model = model_of(size)
    model.save_pretrained(tmp_path, eos_token_id=2)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = ids_of(model, 20)
    with torch.inference_mode():
        expected = theirs.generate(
            torch.tensor([ids]),
            max_new_tokens=100,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 20:].tolist()
    assert len(expected) == 100
    greedy = {"temperature": 0, "repetition_penalty": penalty}
    assert generate(model, ids, 100, **greedy) == expected
    assert generate(model, ids, 100, **greedy, next_logits=FastDecoder(model)) == expected


def test_same_seed_same_tokens_and_row_i_is_the_same_alone():
    model = model_of("tiny")
    ids = ids_of(model, 7)
    settings = SampleSettings(max_new_tokens=40)
    together = [Draw(model, ids, settings, seed=100 + i) for i in range(5)]
    steps = [tokens for tokens, _ in decode(model, ids, together, FastDecoder(model))]
    rows = [[tokens[i] for tokens in steps] for i in range(5)]
    arguments = dict(dataclasses.asdict(settings), next_logits=FastDecoder(model))
    assert rows == [generate(model, ids, seed=100 + i, **arguments) for i in range(5)]
    assert rows == [generate(model, ids, seed=100 + i, **dataclasses.asdict(settings)) for i in range(5)]
    assert len({tuple(row) for row in rows}) == 5
    assert generate(model, ids, 40) != generate(model, ids, 40)          # no seed: a new one each time


def test_rows_of_different_length_and_settings():
    model = model_of("tiny")
    ids = ids_of(model, 3)
    rows = [
        Draw(model, ids, dataclasses.replace(PLAIN, max_new_tokens=n, temperature=t), 5)
        for n, t in ((2, 0.0), (0, 1.0), (6, 1.0))
    ]
    steps = [tokens for tokens, _ in decode(model, ids, rows)]
    assert [[t is not None for t in tokens] for tokens in steps] == [[True, False, True]] * 2 + [
        [False, False, True]
    ] * 4
    assert [tokens[0] for tokens in steps[:2]] == generate(model, ids, 2, temperature=0)
    assert [tokens[2] for tokens in steps] == generate(model, ids, 6, seed=5)


def test_stop_limit_and_mistakes():
    model = model_of("tiny", max_position_embeddings=32)
    ids = ids_of(model, 10)
    free = generate(model, ids, 100, temperature=0)
    assert len(free) == 22                                               # 32 positions
    stop = free[5]
    assert generate(model, ids, 100, temperature=0, stop_id=stop) == free[:free.index(stop)]
    several = {stop, free[3]}
    end = min(free.index(token) for token in several)
    assert generate(model, ids, 100, temperature=0, stop_id=several) == free[:end]
    assert generate(model, ids, 0) == []
    assert generate(model, ids * 3 + ids[:2], 5) == []                   # a prompt that fills the context
    with pytest.raises(UserError, match="33 tokens.*at most 32"):
        generate(model, ids_of(model, 33), 5)
    with pytest.raises(UserError, match="0 tokens"):
        generate(model, [], 5)
    with pytest.raises(UserError, match="the vocabulary belongs to another model"):
        generate(model, [model.config.vocab_size], 5)
    with pytest.raises(UserError, match="top_p"):
        generate(model, ids, 5, top_p=2)


def test_cache_is_allocated_once():
    """No tensor as large as the cache is made while tokens are: the storage stays where it was."""
    model = model_of("tiny")
    places = set()

    def step(newest, cache):
        places.add((cache.keys.data_ptr(), cache.values.data_ptr(), cache.capacity))
        return model(newest, cache)[:, -1]

    generate(model, ids_of(model, 5), 20, next_logits=step)
    assert len(places) == 1 and places.pop()[2] == 25


# -------------------------------------------------------------------------------------------- recommendations

CARD_OF = {"20m": "Stentor3-20M", "30m": "Stentor2-30M", "150m": "Portimbria-150M"}


@pytest.mark.parametrize("size", list(CARD_OF))
def test_recommended_settings_are_the_card_examples_within_its_ranges(size, shared):
    cards = json.loads((shared / "cards" / "cards.json").read_text(encoding="utf-8"))
    rows = cards["models"][CARD_OF[size]]["generation"]

    def value(key):
        row = rows[key]
        row = row[0] if isinstance(row, list) else row
        return row["value"] if isinstance(row, dict) else row

    got, example = sample.recommended(SIZES[size]), value("example")
    for name in ("temperature", "top_p", "repetition_penalty", "max_new_tokens"):
        low, high = value(name)
        assert getattr(got, name) == min(max(example[name], low), high), name


def test_every_size_has_settings_and_presets_differ():
    for size, config in SIZES.items():
        assert sample.recommended(config) == sample.RECOMMENDED.get(size, sample.STENTOR3)
    focused, balanced, creative = (
        dataclasses.replace(sample.STENTOR3, **sample.PRESETS[name])
        for name in ("focused", "balanced", "creative")
    )
    assert balanced == sample.STENTOR3
    for name in ("temperature", "top_p", "max_new_tokens"):
        assert getattr(focused, name) < getattr(balanced, name) < getattr(creative, name)


# ----------------------------------------------------------------------------------------------- command line

@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run as train.py leaves it, with random weights."""
    folder = tmp_path_factory.mktemp("work") / "runs" / "tiny"
    vocabulary = tokenizer.load("builtin-4096")
    model = model_of("tiny")
    model.save_pretrained(folder / "best", eos_token_id=vocabulary.eos_id, pad_token_id=vocabulary.pad_id)
    (folder / "best" / "tokenmonster.vocab").write_bytes(vocabulary.vocab.to_bytes())
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture()
def command(run_folder, monkeypatch, capsys):
    """Run `python sample.py ...` in this process, in the folder that holds runs/; returns (exit code, stdout,
    stderr).
    """
    monkeypatch.chdir(run_folder.parent.parent)

    def call(*arguments: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sample.py", *arguments])
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin if isinstance(stdin, bytes) else stdin.encode()))
        )
        monkeypatch.setattr(terminal, "stdin_is_piped", lambda: bool(stdin))
        code = sample.run(sample.main)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_command_continues_a_prompt(command):
    code, first, log = command("Hello there", "--temperature", "0", "--max-new-tokens", "12")
    assert code == 0 and first.startswith("Hello there") and "12 tokens" in log and "tokens/s" in log
    assert command("Hello there", "--temperature", "0", "--max-new-tokens", "12")[1] == first
    assert command("runs/tiny", "Hello there", "--temperature=0", "--max_new_tokens=12")[1] == first
    assert (
        command("runs/tiny/best", "-", "--temperature=0", "--max-new-tokens=12", stdin="Hello there\n")[1]
        == first
    )
    assert command("--temperature=0", "--max-new-tokens=12", stdin="Hello there")[1] == first
    assert command("--max-new-tokens", "2")[1].startswith(sample.PROMPT)


@pytest.mark.parametrize("prompt", ["one two three four five", "x" * 30 + " y", "    a\n\n  two words"])
def test_text_on_a_terminal_is_broken_between_words(command, monkeypatch, prompt):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    flags = ("--seed", "3", "--max-new-tokens", "30")
    plain = command(prompt, *flags)[1]
    for more in ((), ("--n", "1", "--json"), ("--n", "2")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        shown = command(prompt, *flags, *more)[1]
        if "--json" in more:
            assert json.loads(shown)["answers"][0]["text"] == plain[len(prompt):]
            continue
        start = shown.index("\n") + 1 if more else 0
        answer = shown[start:].split("\n--- seed")[0]
        assert "".join(answer.split()) == "".join(plain.split())
        assert all(len(line.rstrip()) <= 20 or " " not in line.strip() for line in answer.splitlines())


def test_prompt_file_and_json(command, tmp_path):
    (tmp_path / "prompt.txt").write_text("Hello there\n")
    code, out, _ = command(
        "--prompt-file",
        str(tmp_path / "prompt.txt"),
        "--json",
        "--n",
        "3",
        "--seed",
        "5",
        "--max-new-tokens",
        "6",
    )
    record = json.loads(out)
    assert code == 0 and record["prompt"] == "Hello there" and record["model"] == "tiny"
    assert [answer["seed"] for answer in record["answers"]] == [5, 6, 7]
    alone = json.loads(command("Hello there", "--json", "--seed", "7", "--max-new-tokens", "6")[1])
    assert alone["answers"][0] == record["answers"][2]


def test_presets_and_flags(command):
    answer = json.loads(command("x", "--preset", "focused", "--json", "--top-p", "0.7")[1])["answers"][0]
    assert (answer["temperature"], answer["top_p"], answer["max_new_tokens"]) == (0.5, 0.7, 60)
    assert answer["repetition_penalty"] == 1.15


def test_history_is_kept_beside_the_run_and_bounded(command, run_folder, monkeypatch):
    file = run_folder.parent / "tiny.history.jsonl"
    file.unlink(missing_ok=True)
    assert command("--history")[0] == 2
    command("One", "--max-new-tokens", "2", "--seed", "1")
    command("Two", "--max-new-tokens", "2", "--n", "2")
    code, out, _ = command("--history")
    assert code == 0 and "One" in out and out.count("Two") == 2 and "seed 1," in out
    assert [json.loads(line)["prompt"] for line in command("--history", "--json")[1].splitlines()] == [
        "One",
        "Two",
    ]
    monkeypatch.setattr(history, "LIMIT", 10)
    command("Three", "--max-new-tokens", "2")
    assert [record["prompt"] for record in history.records(run_folder / "best")] == ["Three"]
    assert file.with_suffix(".old").is_file()


def test_history_that_cannot_be_written_is_no_failure(command, run_folder, monkeypatch):
    monkeypatch.setattr(history, "history_file", lambda folder: run_folder / "no" / "such" / "place")
    code, out, log = command("One", "--max-new-tokens", "2")
    assert code == 0 and out.startswith("One") and "was not written" in log


def test_sweep_shows_columns_and_where_they_part(command):
    code, out, _ = command("Hello there", "--sweep", "0,0.5,1.5", "--max-new-tokens", "8", "--seed", "3")
    assert code == 0 and all(f"temperature {value}" in out for value in ("0", "0.5", "1.5"))
    assert "first differ after" in out and out.startswith("Hello there\n\n"), "the prompt, once"
    code, _, error = command("x", "--sweep", "0.1,hot")
    assert code == 2 and "'0.1,hot' is not temperatures such as 0.3,0.7,1.1" in error
    assert terminal.first_difference(["same", "same"]) == "they are all the same"
    code, out, _ = command("x", "--sweep", "0,0", "--max-new-tokens", "4")
    assert code == 0 and "they are all the same" in out


def test_chat_keeps_turns_and_forgets_the_oldest(command, monkeypatch):
    code, out, _ = command("--chat", "--max-new-tokens", "5", stdin="Hi\nAnd then?\n\n")
    assert code == 0 and "not an assistant" in out and out.count("you> ") == 3
    prompts = []
    real = chat.say

    def spy(loaded, prompt, *others, **named):
        prompts.append(prompt)
        return real(loaded, prompt, *others, **named)

    monkeypatch.setattr(chat, "say", spy)
    command(
        "--chat",
        "--max-new-tokens",
        "900",
        "--temperature",
        "0",
        stdin="first question\n" + "second " * 60 + "\n\n",
    )
    assert prompts[0] == "<|user|>first question<|assistant|>"
    assert prompts[1].startswith("<|user|>second")


def test_chat_prompt_is_the_template_that_the_folder_carries():
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    from vocab_files.tokenizer_files import CHAT_TEMPLATE
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Why?")]
    rendered = jinja2.Template(CHAT_TEMPLATE).render(
        messages=[{"role": r, "content": c} for r, c in turns], add_generation_prompt=True
    )
    assert chat.cards_prompt(turns) == rendered


def test_chat_goes_on_after_a_message_that_is_too_long(command):
    code, out, log = command("--chat", "--max-new-tokens", "4", stdin="word " * 3000 + "\nHi\n\n")
    assert code == 0 and out.count("you> ") == 3 and "not answered: the prompt has" in log
    assert "Traceback" not in log


def test_help_in_chat_explains_and_new_forgets(command, monkeypatch):
    prompts, real = [], chat.say

    def spy(loaded, prompt, *others, **named):
        prompts.append(prompt)
        return real(loaded, prompt, *others, **named)

    monkeypatch.setattr(chat, "say", spy)
    code, out, _ = command("--chat", "--max-new-tokens", "2", stdin="/help\nHi\n/new\nHo\n/quit\nnever\n")
    assert code == 0 and "drops the oldest" in " ".join(out.split()) and "forgotten" in out
    assert prompts == ["<|user|>Hi<|assistant|>", "<|user|>Ho<|assistant|>"]


TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
              "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "with bos": "{{ bos_token }}{% for m in messages %}[{{ m['role'] | upper }}] {{ m['content'] | trim }}\n"
                "{% endfor %}",
}


def foreign_chat(run_folder, folder, template, **config):
    """A copy of the run's model with another chat template."""
    import shutil
    shutil.copytree(run_folder / "best", folder)
    file = folder / "tokenizer_config.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**known, "chat_template": template, **config}))
    return answers.load_model_of(folder)


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_folders_own_template_is_rendered(run_folder, tmp_path, name):
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    loaded = foreign_chat(run_folder, tmp_path / "m", TEMPLATES[name], bos_token="<s>")
    form = chat.format_of(loaded)
    assert form.note is None and form.stop is None
    turns = [("user", " Hi"), ("assistant", "Hello."), ("user", "Why?")]
    told = [{"role": role, "content": content} for role, content in turns]
    plain = jinja2.Template(TEMPLATES[name], trim_blocks=True, lstrip_blocks=True)
    assert form.prompt(turns) == plain.render(messages=told, add_generation_prompt=True, bos_token="<s>")
    assert form.ids(loaded, form.prompt(turns))[0] == loaded.tokenizer.encode(form.prompt(turns))[0]


@pytest.mark.parametrize("template, words", [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails"),
    ("{{ messages.append(1) }}", "fails"),
    ("{% for x in messages %}", "not a Jinja template"),
    ("{{ raise_exception('no users here') }}", "no users here"),
    ("{% for i in range(999999999) %}x{% endfor %}", "fails"),
    ("{{ 'x' * 10**11 }}", "fails"),
    ("{{ 'x' | center(10**7) }}", "fails: its text has 10,000,000 characters"),
    ({"a": 1}, "neither a text nor a list with a template named default"),
    ([{"name": "tool_use", "template": "x"}], "neither a text nor a list with a template named default"),
    ("", "leaves the message out"),
])
def test_a_template_that_cannot_be_used_is_named(run_folder, tmp_path, command, template, words):
    pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    loaded = foreign_chat(run_folder, tmp_path / "m", template)
    form = chat.format_of(loaded)
    assert "is not used" in form.note and words in form.note
    assert form.prompt([("user", "Hi")]) == "<|user|>Hi<|assistant|>"
    code, _, log = command(str(tmp_path / "m"), "--chat", "--max-new-tokens", "2", stdin="Hi\n\n")
    assert code == 0 and f"note: the chat template of {tmp_path / 'm'} is not used" in log


def test_a_template_that_never_ends_is_stopped(run_folder, tmp_path, monkeypatch):
    pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    monkeypatch.setattr(template, "SECONDS", 0.5)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    form = chat.format_of(foreign_chat(run_folder, tmp_path / "m", endless))
    assert "it was not finished after 0.5 seconds" in form.note
    assert form.prompt([("user", "Hi")]) == "<|user|>Hi<|assistant|>"


def test_a_line_without_an_end_ends_the_chat(command, monkeypatch):
    monkeypatch.setattr(chat, "LONGEST_PROMPT", 100)
    code, _, log = command("--chat", "--max-new-tokens", "2", stdin="Hi\n" + "x" * 200)
    assert code == 2 and "standard input: a line of more than 0 MiB, the limit for a prompt" in log


@pytest.mark.parametrize("template", [
    "{% for m in messages %}{%- generation -%}{{ m.content }}{%- endgeneration -%}{% endfor %}",
    [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages[0].content }}"}],
])
def test_a_template_that_transformers_knows_is_rendered(run_folder, tmp_path, template):
    pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    form = chat.format_of(foreign_chat(run_folder, tmp_path / "m", template))
    assert form.note is None and form.prompt([("user", "Hi")]) == "Hi"


def test_special_tokens_of_a_foreign_template_are_tokens(run_folder, tmp_path):
    """As transformers tokenizes a rendered template: the names of special tokens are those tokens."""
    tokenizers = pytest.importorskip("tokenizers", reason="the foreign folder has a tokenizer.json")
    pytest.importorskip("jinja2", reason="jinja2 renders chat templates")
    import shutil
    folder = tmp_path / "m"
    shutil.copytree(run_folder / "best", folder)
    for name in ("tokenmonster.vocab", "generation_config.json"):             # both of our tokenizer
        (folder / name).unlink()
    names = ["<end>", "<|u|>", "<s>", *" abcdefghijklmnopqrstuvwxyzH<|>"]
    letters = {name: i for i, name in enumerate(names)}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    library.add_special_tokens(["<end>", "<|u|>", "<s>"])
    library.decoder = tokenizers.decoders.Fuse()
    library.save(str(folder / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %}<|u|>{{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "<end>"}}
    ))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [0, 1], "pad_token_id": 0}))
    loaded = answers.load_model_of(folder)
    form = chat.format_of(loaded)
    assert form.note is None
    assert form.ids(loaded, form.prompt([("user", "Hi")])) == [2, 1, letters["H"], letters["i"]]
    assert loaded.tokenizer.stop_ids == {0, 1}
    spied = dataclasses.replace(loaded, next_logits=lambda newest, cache: torch.eye(4096)[1:2] * 100)
    loaded.model.project = lambda hidden: torch.eye(4096)[letters["a"]:letters["a"] + 1] * 100
    draw = [(dataclasses.replace(PLAIN, temperature=0), 0)]
    *_, (answer,) = answers.respond(spied, "H", draw)
    assert answer.text == "a" and answer.ended                  # the second of the two end-of-text ids


def test_prompts_begin_with_what_the_foreign_tokenizer_puts_there(run_folder):
    loaded = answers.load_model_of(run_folder)
    assert answers.prompt_ids(loaded.tokenizer, "Hi") == loaded.tokenizer.encode("Hi")
    assert answers.prompt_ids(loaded.tokenizer, "") == [loaded.tokenizer.eos_id]
    loaded.tokenizer.prefix_ids = [7]
    assert answers.prompt_ids(loaded.tokenizer, "Hi") == [7, *loaded.tokenizer.encode("Hi")]
    assert answers.prompt_ids(loaded.tokenizer, "") == [7]


def test_streamed_text_has_no_broken_characters(run_folder):
    loaded = answers.load_model_of(run_folder)
    vocabulary = loaded.tokenizer
    text = "na\u00efve caf\u00e9 \u2014 \u201cquoted\u201d end"
    assert "\ufffd" not in vocabulary.decode(vocabulary.encode(text))
    ids = iter(vocabulary.encode(text) + [vocabulary.eos_id])
    scripted = dataclasses.replace(loaded, next_logits=lambda newest, cache: one_hot(next(ids)))
    first = next(ids)

    def one_hot(token):
        return (
            torch.nn.functional.one_hot(torch.tensor([token]), loaded.model.config.vocab_size).float() * 100
        )

    scripted.model.project = lambda hidden: one_hot(first)
    seen = [
        answers[0].text
        for answers in answers.respond(
            scripted, "Say:", [(dataclasses.replace(PLAIN, temperature=0, max_new_tokens=99), 0)]
        )
    ]
    assert all("\ufffd" not in piece for piece in seen)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    assert seen[-1] == vocabulary.decode(vocabulary.encode(text))


@pytest.mark.parametrize("arguments, words", [
    (["--temprature", "1"], "did you mean --temperature"),
    (["runs/none", "x"], "no such run or model folder"),
    (["runs/none"], "no such run or model folder"),
    (["x", "--top-p", "7"], "top_p must be between"),
    (["--prompt-file", "none.txt"], "none.txt"),
    (["word " * 3000], "at most 1024"),
    (["x", "--n", "1e9"], "--n must be from 1 to 10,000"),
    (["", "x"], "is empty"),
    (["runs/tiny/run.json", "x"], "a file, not a run or model folder"),
    (["x", "--preset", "wild"], "--preset"),
])
def test_mistakes_are_one_line(command, arguments, words):
    code, out, log = command(*arguments)
    assert (
        (code, out) == (2, "")
        and words in log
        and log.startswith("sample.py: error: ")
        and log.count("\n") == 1
    )


def test_without_a_run_the_line_says_how_to_make_one(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, log = command()
    assert code == 2 and "python train.py --size tiny" in log


def test_a_run_json_that_cannot_be_read_does_not_hide_the_model(run_folder, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(sample, "read_json", closed)
    assert sample.learned_to_copy(run_folder / "best") is False


def test_damaged_folders(command, run_folder, tmp_path):
    import shutil

    for name, damage in [
        ("tokenmonster.vocab", b"\0" * 10),
        ("model.safetensors", b"\xff" * 100),
        ("config.json", b"{"),
    ]:
        copy = tmp_path / name
        shutil.copytree(run_folder / "best", copy)
        (copy / name).write_bytes(damage)
        code, _, log = command(str(copy), "x")
        assert code == 2 and name in log and log.count("\n") == 1


def test_script_runs_as_a_program(run_folder):
    done = subprocess.run(
        [sys.executable, str(ROOT / "sample.py"), "runs/tiny", "Hello", "--max-new-tokens", "3"],
        cwd=run_folder.parent.parent,
        capture_output=True,
        text=True,
        input="",
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0 and done.stdout.startswith("Hello") and "3 tokens" in done.stderr, done.stderr
