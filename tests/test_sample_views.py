# SPDX-License-Identifier: Apache-2.0
"""The views of sample.py without a browser: --explore, --arena, what goes together; and the page's handlers.
"""
from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sample
import tokenizer
from common import ROOT, UserError
from model import SIZES, Llama
from sample import SampleSettings, generate
from sampling import arena, explore
from sampling.answers import load_model_of
from sampling.terminal import say

FEW = ("--max-new-tokens", "8", "--seed", "3")


def save_model(folder: Path, layers: int, seed: int) -> None:
    """A model folder with random weights and the built-in vocabulary."""
    vocabulary = tokenizer.load("builtin-4096")
    torch.manual_seed(seed)
    model = Llama(dataclasses.replace(SIZES["tiny"], num_hidden_layers=layers))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    model.save_pretrained(folder, eos_token_id=vocabulary.eos_id, pad_token_id=vocabulary.pad_id)
    (folder / "tokenmonster.vocab").write_bytes(vocabulary.vocab.to_bytes())


@pytest.fixture()
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with two runs of similar size and a model folder of another."""
    for name, layers, seed in (("one", 2, 0), ("two", 2, 1)):
        save_model(tmp_path / "runs" / name / "best", layers, seed)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    save_model(tmp_path / "models" / "large", 12, 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def command(place, monkeypatch, capsys):
    """`python sample.py ...` in this process; returns (exit code, stdout, stderr)."""
    def call(*arguments: str, stdin: bytes | None = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sample.py", *arguments])
        monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setattr("sampling.terminal.stdin_is_piped", lambda: bool(stdin))
        code = sample.run(sample.main)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


# --------------------------------------------------------------------------------------------------- explorer

def test_choices_are_the_models_own_numbers(place):
    loaded = load_model_of("runs/one")
    settings = SampleSettings(temperature=0.7, top_p=0.9, repetition_penalty=1.2, max_new_tokens=12)
    choices, answer = explore.explore(loaded, "Hello there", settings, 5)
    record = say(loaded, "Hello there", [(settings, 5)])["answers"][0]
    assert (answer.text, answer.ids) == (record["text"], record["ids"]) and "".join(
        t.text for t in choices
    ) == answer.text
    ids = loaded.tokenizer.encode("Hello there", document=True)
    with torch.inference_mode():
        p = torch.softmax(loaded.model(torch.tensor([ids + answer.ids]))[0].double(), dim=1)      # (T, V)
    for i, choice in enumerate(choices[:len(answer.ids)]):
        row = p[len(ids) + i - 1]
        assert choice.probability == pytest.approx(float(row[answer.ids[i]]), rel=1e-3)
        assert choice.entropy == pytest.approx(float(-(row * row.log2()).sum()), abs=1e-3)
        assert choice.rank == 1 + int((row > row[answer.ids[i]]).sum())
        assert [share for _, share in choice.best] == pytest.approx(row.topk(8).values.tolist(), rel=1e-3)


def test_bands_are_the_cards(shared):
    demo = json.loads((shared / "cards" / "cards.json").read_bytes())["models"]["Stentor3-20M"]["demo_space"]
    bands = explore.PROBABILITY_BANDS
    assert bands[0] == (demo["explorer_green_min_percent"][0]["value"] / 100, "green")
    assert bands[-2][0] == demo["explorer_red_below_percent"][0]["value"] / 100 and bands[-1][1] == "red"
    assert explore.ALTERNATIVES == demo["explorer_alternatives"][0]["value"]
    colours = [explore.colour_by_probability(p) for p in (1.0, 0.8, 0.799, 0.35, 0.349, 0.0)]
    assert colours == ["green", "green", "yellow", "orange", "red", "red"]


def test_colours_of_surprise_are_quarters_of_a_uniform_guess():
    """Of 12 bits (4,096 tokens), 3, 6 and 9 are the limits; worse than a uniform guess is red too."""
    logits = torch.full((4096,), 0.0)
    tokenizer_ = tokenizer.load("builtin-4096")
    uniform = explore.choice_of(logits, 7, "x", tokenizer_)
    assert uniform.share == pytest.approx(1) and uniform.surprise == pytest.approx(12) == uniform.entropy
    colours = []
    for bits in (0.1, 2.99, 3.01, 5.99, 6.01, 8.99, 9.01, 15):
        p = torch.full((4096,), (1 - 2.0**-bits) / 4095, dtype=torch.float64)
        p[7] = 2.0**-bits
        choice = explore.choice_of(p.log(), 7, "x", tokenizer_)
        assert choice.surprise == pytest.approx(bits)
        colours.append(explore.colour_by_surprise(choice.share))
    assert colours == ["green"] * 2 + ["yellow"] * 2 + ["orange"] * 2 + ["red"] * 2


def test_page_is_whole_and_asks_for_nothing(command, place):
    code, out, _ = command("runs/one", "</script><b>Hello & there", "--explore", "page.html", *FEW)
    page = (place / "page.html").read_text(encoding="utf-8")
    assert code == 0 and "page.html" in out and "most probable" in out
    assert page.count('<button type="button"') == 8 and "&lt;/script&gt;&lt;b&gt;Hello &amp; there" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert len(data) == 8 and all(len(row[3]) == 8 for row in data)
    assert re.findall(r"https?:|//\w|@import|url\(|\bsrc=|<link", page) == [] and "default-src 'none'" in page
    assert command("runs/one", "x", "--explore", "none/page.html")[0] == 2
    assert command("runs/one", "x", "--explore", ".")[0] == 2
    code, out, _ = command("runs/one", "x", "--explore", "page.html", "--max-new-tokens", "0")
    assert code == 0 and (place / "page.html").read_text(encoding="utf-8").count("<button") == 0


def test_a_line_feed_is_a_sign_and_a_line_break():
    texts = [" a", "\n  b", "c", "):\n", " d"]
    choices = [explore.Choice(text, text, 1.0, 0.0, 0.0, 1, 0.0, []) for text in texts]
    shown = explore.in_words(choices, [f"<b>{explore.face(choice)}</b>" for choice in choices])
    assert re.sub("</?span.*?>", "", shown) == "<b> a</b>\n<b>⏎  b</b><b>c</b><b>):⏎</b>\n<b> d</b>"
    assert [part.count("<b>") for part in shown.split("</span>")] == [1, 3, 1, 0]


def test_terminal_is_coloured_only_where_it_should_be(monkeypatch):
    choice = explore.Choice(" cat", "·cat", 0.9, 0.15, 0.01, 1, 0.5, [("·cat", 0.9), ("·dog", 0.1)])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert f"\x1b[{explore.COLOURS['green']}m cat\x1b[0m" in explore.in_terminal("The", [choice], 100)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = explore.in_terminal("The", [choice], 100)
    assert "\x1b" not in plain and "·cat 90% ·dog 10%" in plain
    assert max(map(len, explore.in_terminal("The", [choice] * 3, 40).splitlines()[6:])) <= 40


# ------------------------------------------------------------------------------------------------------ arena

def test_arena_shows_two_answers(command):
    code, out, _ = command("runs/one", "Hello", "--arena", "models/large", *FEW)
    assert code == 0 and "A: one, 0.8M parameters" in out and "B: large, 2." in out
    alone = json.loads(command("runs/one", "Hello", "--json", *FEW)[1])["answers"][0]["text"]
    assert alone.split()[0][:8] in out
    assert not arena.SCORES.exists()


def test_blind_arena_hides_names_until_the_vote_and_keeps_the_score(command):
    for vote in ("a", "b", "tie", "nothing"):
        code, out, _ = command(
            "runs/one", "Hello", "--arena", "runs/two", "--blind", *FEW, stdin=f"what?\n{vote}\n".encode()
        )
        before, _, after = out.partition("A was ")
        assert code == 0 and " > " in before and "one" not in before.replace("none", "") and "two" in after
    votes = [json.loads(line) for line in arena.SCORES.read_text(encoding="utf-8").splitlines()]
    assert [vote["vote"] for vote in votes] == ["a", "b", "t", "n"]
    rows = {name: counts for name, *counts in arena.score()}
    won = {vote[vote["vote"]] for vote in votes[:2]}
    assert all(rows[name][2:] == [1, 1] for name in ("one", "two")) and all(rows[name][0] > 0 for name in won)
    with open(arena.SCORES, "a") as lines:
        lines.write('{"a": "one"\n[]\n')
    assert len(arena.score()) == 2
    code, out, _ = command("runs/one", "Hello", "--arena", "runs/two", "--blind", *FEW)
    assert code == 0 and "no vote" in out and len(arena.SCORES.read_text(encoding="utf-8").splitlines()) == 6


def test_a_vote_without_an_end_is_no_vote(command):
    code, out, _ = command("runs/one", "Hello", "--arena", "runs/two", "--blind", stdin=b"x" * 5000)
    assert code == 0 and out.rstrip().endswith("no vote")


def test_a_run_that_is_closed_does_not_hide_the_others(place, monkeypatch):
    real = arena.find_run

    def closed(folder):
        if Path(folder).name == "two":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)
    monkeypatch.setattr(arena, "find_run", closed)
    monkeypatch.chdir(place)
    assert Path("runs/one") in arena.models_here() and Path("runs/two") not in arena.models_here()


def test_random_pair_is_matched_by_size(command, place):
    places = arena.models_here()
    assert [str(found) for found in places] == ["runs/one", "runs/two", "models/large"]
    for seed in range(5):
        assert set(arena.draw_pair(places, random.Random(seed))) == {Path("runs/one"), Path("runs/two")}
    model = Llama.from_pretrained(place / "models" / "large")
    assert arena.parameters_of("models/large") == sum(parameter.numel() for parameter in model.parameters())
    code, out, _ = command("--arena", "random", *FEW)
    assert code == 0 and "one" in out and "two" in out
    code, _, log = command("models/large", "Hello", "--arena", "random", *FEW)
    assert code == 2 and "within a factor of 2" in log and log.count("\n") == 1


def test_arena_against_another_architecture(command, place):
    transformers = pytest.importorskip("transformers", reason="transformers loads what is no Llama")
    tokenizers = pytest.importorskip("tokenizers", reason="the other model needs a tokenizer")
    letters = {letter: i for i, letter in enumerate(["<end>", *" abcdefghijklmnopqrstuvwxyzH"])}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
    library.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<end>").save_pretrained(
        place / "models" / "gpt"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(letters),
        n_positions=64,
        n_embd=32,
        n_layer=1,
        n_head=2,
        eos_token_id=None,
        bos_token_id=None,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(place / "models" / "gpt")
    code, out, _ = command("runs/one", "Hello", "--arena", "models/gpt", *FEW)
    assert code == 0 and "B: gpt, 0.0M" in out
    player = arena.open_contender("models/gpt")
    twenty = SampleSettings(max_new_tokens=20)
    answers = [list(player.answer("Hello", twenty, seed))[-1] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2] and len(answers[0]) > 5
    with pytest.raises(UserError, match="reads at most 64"):
        list(player.answer("a" * 65, SampleSettings(), 0))
    (place / "models" / "gpt" / "model.safetensors").write_bytes(b"\xff" * 100)
    code, _, log = command("runs/one", "Hello", "--arena", "models/gpt")
    assert code == 2 and "models/gpt" in log and log.count("\n") == 1


# ------------------------------------------------------------------------------------------- the command line

@pytest.mark.parametrize("arguments, words", [
    (["x", "--chat", "--sweep", "1"], "--chat and --sweep cannot be combined"),
    (["x", "--explore", "p.html", "--n", "2"], "--explore and --n"),
    (["x", "--arena", "random", "--json"], "--arena and --json"),
    (["x", "--n", "0"], "--n must be from 1"),
    (["x", "--blind"], "--arena"),
    (["runs", "x"], "runs: no complete model found"),
    (["x", "--arena", "runs/none"], "runs/none: no such run"),
    (["x", "--sweep", "0.5,nan"], "temperature must be between"),
    (["x", "--temperature", "inf"], "temperature must be between"),
    (["--prompt-file", "runs"], "runs"),
    (["hello", "--prompt-file", "runs"], "cannot be combined"),
    (["x", "--seed", "-1"], "--seed must be zero or more"),
    (["x", "--max-new-tokens", "9" * 400], "is not a whole number of at most 2^63"),
])
def test_mistakes_are_one_line(command, arguments, words):
    code, _, log = command(*arguments)
    assert code == 2 and words in log and log.count("\n") == 1 and "Traceback" not in log


def test_cuda_that_is_not_there(command):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, log = command("x", "--device", "cuda")
    assert code == 2 and "no CUDA device" in log


def test_input_that_is_closed_or_no_text(command):
    assert command("Hello", *FEW, stdin=None)[0] == 0
    assert command(*FEW, stdin=None)[1].startswith(sample.PROMPT)
    code, _, log = command("-", stdin=None)
    assert code == 2 and "standard input is closed" in log
    assert command("--chat", stdin=None)[0] == 0
    code, _, log = command("-", stdin=b"caf\xe9\n")
    assert code == 2 and "standard input: not UTF-8" in log and log.count("\n") == 1
    code, _, log = command(os.fsdecode(b"caf\xe9"))
    assert code == 2 and "the prompt is not UTF-8" in log and log.count("\n") == 1
    code, out, _ = command("-", *FEW, stdin=b"\xef\xbb\xbfHello\r\n")
    assert code == 0 and out.startswith("Hello")


def test_a_prompt_file_without_end_or_of_another_encoding(command, place):
    code, _, log = command("--prompt-file", "/dev/zero")
    assert code == 2 and "/dev/zero: more than 16 MiB" in log and log.count("\n") == 1
    (place / "latin.txt").write_bytes("café".encode("latin-1"))
    code, _, log = command("--prompt-file", "latin.txt")
    assert code == 2 and "latin.txt: not UTF-8" in log and "iconv" in log


def test_a_slow_pipe_is_waited_for(place):
    """The prompt comes after the program has asked for it."""
    start = [sys.executable, str(ROOT / "sample.py"), "runs/one", *FEW]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(start, **pipes)
    assert "reading it from standard input" in process.stderr.readline()
    out, log = process.communicate("Water is\n", timeout=120)
    assert process.returncode == 0 and out.startswith("Water is"), log


def test_other_inputs_are_not_waited_for(place, monkeypatch, capsys):
    """A pipe that stays open beside a prompt; /dev/null without one."""
    reading, writing = os.pipe()
    for stdin, words, begins in ((reading, ("Hello",), "Hello"), (os.devnull, (), sample.PROMPT)):
        with open(stdin) as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            patch.setattr(sys, "argv", ["sample.py", "runs/one", *words, *FEW])
            assert sample.run(sample.main) == 0
        out, log = capsys.readouterr()
        assert out.startswith(begins) and "standard input" not in log
    os.close(writing)


def test_closed_output_is_no_traceback(place, monkeypatch):
    """Python has None in the place of a stream that was closed before the start."""
    for closed in ("stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, closed, None)
            patch.setattr(sys, "argv", ["sample.py", "runs/one", "Hello", *FEW])
            assert sample.run(sample.main) in (0, 2)
    words = [sys.executable, str(ROOT / "sample.py"), "runs/one", "Hello", *FEW]
    assert subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *words]).returncode in (0, 2)


def test_text_cannot_control_a_terminal(command, monkeypatch, capsys):
    """Control characters but newline and tab are escapes on a terminal, and themselves in a pipe."""
    code, out, _ = command("a\x1b[31mb\tc\nd\x9b", *FEW)
    assert code == 0 and out.startswith("a\x1b[31mb\tc\nd\x9b")
    for arguments in (("--n", "2"), (), ("--sweep", "0,1"), ("--draft", "runs/two")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("NO_COLOR", "1")
        code, out, _ = command("a\x1b[31mb\tc\nd\x9b", *arguments, *FEW)
        assert code == 0 and "\x1b" not in out and "\x9b" not in out, arguments
        assert "\\x1b[31mb" in out or arguments[:1] == ("--sweep",)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = command("--history")
    assert code == 0 and "\x1b" not in out and "a\\x1b[31mb\tc\nd\\x9b" in out


def test_history_survives_edited_lines(command, place):
    command("runs/one", "Hello", *FEW)
    file = place / "runs" / "one.history.jsonl"
    with open(file, "a") as lines:
        lines.write('{"answers": 3}\n{"answers": [{}], "time": 1}\n[]\n{"an\n')
    code, out, _ = command("runs/one", "--history")
    assert code == 0 and out.count("Hello") == 1


def test_lost_text_of_a_prompt_is_told(command):
    code, _, log = command("Привет, world", *FEW)
    assert code == 0 and "have no token in this vocabulary" in log
    assert "no token" not in command("Hello", *FEW)[2]


def test_a_folder_whose_name_is_not_text_is_refused(command, place):
    name = os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(place / "runs" / "one", place / "runs" / name)
    except OSError:
        pytest.skip("this file system has only names that are UTF-8")
    code, _, log = command(f"runs/{name}", "Hello", *FEW)
    assert code == 2 and "not UTF-8" in log and log.count("\n") == 1


def test_ctrl_c_ends_with_130(place):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "sample.py"), "runs/one", "--chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "not an assistant" in process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in log


# -------------------------------------------------------------------------- generate, as an outsider calls it

def test_extreme_settings_of_generate(place):
    model = Llama.from_pretrained(place / "runs" / "one" / "best").eval()
    greedy = generate(model, [1, 2, 3], 10, temperature=0)
    for temperature in (1e-320, 1e-40, 1e-9):
        assert generate(model, [1, 2, 3], 10, temperature=temperature, seed=1) == greedy
    assert len(generate(model, [1, 2, 3], 10, temperature=1e9, seed=1)) == 10
    assert generate(model, [1, 2, 3], 10, top_k=1, seed=1) == greedy
    assert generate(model, [1, 2, 3], 10, top_p=1e-9, seed=1) == greedy
    assert generate(model, [1, 2, 3], 10, min_p=1, seed=1) == greedy
    assert generate(model, [1, 2, 3], 10, top_k=10**6, seed=1) == generate(model, [1, 2, 3], 10, seed=1)
    assert generate(model, [1, 2, 3], 10, temperature=0, stop_id=greedy[0]) == []
    for name, value in [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
    ]:
        with pytest.raises(UserError, match=name):
            generate(model, [1, 2, 3], 10, **{name: value})
    with pytest.raises(UserError, match="token -1"):
        generate(model, [1, -1], 3)
    with pytest.raises(UserError, match="max_new_tokens"):
        generate(model, [1], -1)
    with torch.no_grad():
        model.model.norm.weight.mul_(3e38)
    with pytest.raises(UserError, match="not finite"):
        generate(model, [1, 2, 3], 10)


# ---------------------------------------------------------------------------------------- the page's handlers

@pytest.fixture()
def views(place):
    pytest.importorskip("gradio", reason="the page is made with gradio")
    from sampling import web_views
    return web_views


FIELDS = (0.8, 0.9, 0, 0.0, 1.15, 8, "3")


def test_two_visitors_at_once_do_not_mix(views):
    """Two generators taken in turns give what each gives alone, and each session's history holds only its
    own.
    """
    def texts(frames):
        return [frame[0] for frame in frames]

    alone = [
        texts(views.on_generate(run, prompt, 2, [], *FIELDS))[-1]
        for run, prompt in (("runs/one", "Hello"), ("runs/two", "Bye"))
    ]
    first, second = (
        views.on_generate("runs/one", "Hello", 2, [], *FIELDS),
        views.on_generate("runs/two", "Bye", 2, [], *FIELDS),
    )
    frames = [next(first), next(second)] + [*first][-1:] + [*second][-1:]
    assert texts(frames[2:]) == alone
    assert [record["prompt"] for record in frames[2][2]] == ["Hello"] and [
        record["prompt"] for record in frames[3][2]
    ] == ["Bye"]
    assert frames[2][3].count("<section") == 2 and "tokens/s" in frames[2][1]


def test_mistakes_become_lines_on_the_page(views, place):
    def generated(run, prompt, *fields):
        return list(views.on_generate(run, prompt, 1, [], *(fields or FIELDS)))[-1][1]

    assert "prompt is empty" in generated("runs/one", "  ")
    assert "at most 1024" in generated("runs/one", "word " * 3000)
    assert "top_p" in generated("runs/one", "Hello", 1, 7, 0, 0, 1, 8, "1")
    assert "A setting is empty" in generated("runs/one", "Hello", None, 1, 0, 0, 1, 8, "1")
    assert "tokens/s" in generated("runs/two", "Hello")
    shutil.rmtree(place / "runs" / "two")
    assert 'role="alert"' in generated("runs/two", "Hello") and "runs/two: no such run" in generated(
        "runs/two", "Hello"
    )
    for handler, arguments in (
        (views.on_explore, ("x" * 30000,)),
        (views.on_sweep, ("Hello", "0.3, hot")),
        (views.on_sweep, ("", "0.3")),
        (views.on_sweep, ("Hello", "0.3," * 3000 + "1")),
        (views.on_sweep, ("Hello", None)),
    ):
        theme = ["dark"] if handler is views.on_explore else []
        assert 'role="alert"' in list(handler("runs/one", *arguments, *FIELDS, *theme))[-1]
    turns = [("user", "Hi"), ("assistant", "Ho")]
    assert list(views.on_chat("runs/one", "", turns, *FIELDS))[-1][1] == turns
    assert 'role="alert"' in list(views.on_arena("runs/one", "runs/two", "blind", "Hello", *FIELDS))[-1][0]
    assert "&lt;b&gt;" in list(views.on_generate("runs/one", "<b>Hi", 1, [], *FIELDS))[-1][0]


def test_fields_that_are_not_numbers_or_not_text(views):
    def generated(prompt, count, seed):
        return list(views.on_generate("runs/one", prompt, count, [], *FIELDS[:-1], seed))[-1]

    def seed_of(frame):
        return frame[2][0]["answers"][0]["seed"]

    assert seed_of(generated("Hello", 1, "")) != seed_of(generated("Hello", 1, ""))
    assert seed_of(generated("Hello", 1, " 7 ")) == 7
    for count, seed in ((1, "-1"), (1, "x"), (0, "1"), (None, "1")):
        status = generated("Hello", count, seed)[1]
        assert ("seed" if count else "responses") in status and 'role="alert"' in status
    shown = generated("half a pair \ud800 here", 1, "1")
    assert "half a pair ? here" in shown[0] and shown[2][0]["prompt"] == "half a pair ? here"
    assert "no token in this vocabulary" in generated("Привет", 1, "1")[1]


def test_foreign_hosts_and_uploads_are_refused(views):
    from sampling.web import allowed

    def answer(path, *hosts):
        return allowed({"path": path, "headers": [(b"host", host.encode()) for host in hosts]})

    assert all(answer("/", host) for host in ("127.0.0.1:7860", "localhost:7860", "localhost", "LocalHost:1"))
    foreign = ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::1]:7860",
               "0.0.0.0:7860", "localhost.evil.example", "evil.example:localhost",
               "localhost@evil.example", "2130706433")
    assert not any(answer("/", host) for host in foreign)
    assert not answer("/") and not answer("/", "localhost", "evil.example")
    assert not answer("/gradio_api/upload", "localhost") and answer("/gradio_api/queue/join", "localhost")


def test_blind_arena_on_the_page(views):
    *_, (shown, vote, ballot, _) = views.on_arena(
        "runs/one", "runs/two", "random pair, blind", "Hello", *FIELDS
    )
    assert (
        "one" not in re.sub("<[^>]*>", "", shown).split()
        and {name for name, _ in vote["pair"]} == {"one", "two"}
        and ballot["visible"]
    )
    _, _, result = views.on_vote(vote, "A is better")
    assert f"A was {vote['pair'][0][0]}" in result and arena.score()[0][:2] == (vote["pair"][0][0], 1)
    assert views.on_vote(None, "tie")[2] == ""


def test_presets_fill_the_fields(views):
    assert (
        views.fields_for("runs/one", "focused")[:2] == [0.5, 0.8]
        and views.fields_for("runs/one", "creative")[5] == 250
    )
    assert views.fields_for("runs/none", "balanced") == list(vars(SampleSettings()).values())
