# SPDX-License-Identifier: Apache-2.0
"""GSM8K: generation in batches equals generation one by one, and answers are read as lm-eval reads them."""
import json

import pytest
import torch

from common import UserError
from judging import gsm8k as problems
from judging.gsm8k import exact_match
from model import Llama, ModelConfig
from sample import generate

CONFIG = ModelConfig(
    vocab_size=130, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=700,
)


class Bytes:
    """One token for each ASCII byte; id 128 ends a text."""

    eos_id, vocab_size = 128, CONFIG.vocab_size
    prefix_ids, stop_ids = [], {128}

    def encode(self, text, document=False):
        return list(text.encode("ascii"))

    def decode(self, ids, skip_special=False):
        return "".join(chr(token) for token in ids if token < 128)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    model = Llama(CONFIG).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    return model


def test_prompts_of_all_lengths_at_once(model):
    prompts = [
        Bytes().encode(text)
        for text in ("Question: a", "What is 1 + 1?", "x", "Question: how many eggs are left?\nAnswer:")
    ]
    texts = problems.greedy(model, Bytes(), prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        alone = Bytes().decode(generate(model, prompt, problems.ANSWER_TOKENS, temperature=0, stop_id=128))
        for stop in problems.STOPS:
            alone = alone.split(stop)[0]
        assert text == alone and text


def test_generation_stops_at_the_separator_and_at_a_stop_text(model, monkeypatch):
    prompt = Bytes().encode("What is 1 + 1?")
    whole = generate(model, prompt, problems.ANSWER_TOKENS, temperature=0)
    steps = []
    project = model.project
    monkeypatch.setattr(model, "project", lambda hidden: steps.append(1) or project(hidden))
    stop = Bytes().decode(whole)[20:26]
    monkeypatch.setattr(problems, "STOPS", (stop,))
    (text,) = problems.greedy(model, Bytes(), [prompt])
    assert text == Bytes().decode(whole).split(stop)[0] and len(steps) < 64
    ending = Bytes()
    ending.eos_id = next(token for token in whole if token != whole[0])
    ending.stop_ids = {ending.eos_id}
    steps.clear()
    problems.greedy(model, ending, [prompt])
    assert len(steps) == whole.index(ending.eos_id) + 1


@pytest.mark.parametrize("text, number", [
    ("So 3 + 4 = 7.", "7"), ("It costs $1,234.50 in all.", "1234.50"), ("9 of 10. No, -3", "-3"),
    ("no number", "[invalid]"),
    ("#### 18", "18"), ("$5", "5"), ("12.", "12"), ("left: ...", "..")])
def test_flexible_extraction(text, number):
    """The expected values are what lm-eval 0.4.13's filter and metric make of these texts (checked by hand
    against its source).
    """
    assert problems.final_number(text) == number


def test_the_score_counts_right_answers(model, tmp_path, monkeypatch):
    items = [{"question": f"q{number}?", "answer": f"<<1+1=2>>\n#### {number},000"} for number in range(5)]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    prompts = []

    def fake(model, tokenizer, ids):
        prompts.extend(tokenizer.decode(prompt) for prompt in ids)
        return [f"I think {3 if 'q3' in prompts[-1] else 1}000" for _ in ids]

    monkeypatch.setattr(problems, "greedy", fake)
    monkeypatch.setattr(problems, "ROWS", 1)
    found = exact_match(model, Bytes(), path)
    assert found["exact_match"] == pytest.approx(2 / 5) and (found["items"], found["shots"]) == (5, 0)
    assert sorted(prompts) == [f"Question: q{number}?\nAnswer:" for number in range(5)]
    prompts.clear()
    exact_match(model, Bytes(), path, shots=2)
    (of_q1,) = [prompt for prompt in prompts if prompt.endswith("q1?\nAnswer:")]
    assert of_q1 == (
        "Question: q0?\nAnswer: <<1+1=2>>\n#### 0,000\n\nQuestion: q2?\nAnswer: <<1+1=2>>\n#### "
        "2,000\n\nQuestion: q1?\nAnswer:"
    )
    prompts.clear()
    assert exact_match(model, Bytes(), path, shots=1, examples=path, limit=2)["items"] == 2
    assert exact_match(model, Bytes(), path, shots=4, limit=1)["shots"] == 4, (
        "examples come from the whole file, whatever the limit"
    )
    for shots, examples, room in ((5, None, 4), (6, path, 5), (-1, None, 4)):
        with pytest.raises(
            UserError, match=f"--shots {shots} needs more worked examples than it has; give 0 to {room}"
        ):
            exact_match(model, Bytes(), path, shots=shots, examples=examples)


def test_a_long_prompt_loses_its_beginning_and_a_short_model_is_refused(model, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "x" * 900, "answer": "#### 1"}) + "\n")
    assert exact_match(model, Bytes(), path)["items"] == 1
    small = Llama(ModelConfig(**{**CONFIG.__dict__, "max_position_embeddings": 256}))
    with pytest.raises(UserError, match="256 positions; an answer alone needs 256"):
        exact_match(small, Bytes(), path)
