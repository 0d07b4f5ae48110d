# SPDX-License-Identifier: Apache-2.0
"""A model folder in the tools around it: lm-eval, PEFT, INT8 and 4-bit, assisted generation, ONNX, GGUF, the
rules of vLLM.

All on one small model that is trained for a moment on real text, so that quantization and adapters have
something to keep.
"""
import dataclasses
import gzip
import json
import subprocess

import numpy
import pytest
import torch
from oracle_runner import oracle, python_of

from corpus.command import prepare_files
import tokenizer
from common import ROOT, UserError
from evaluate import choice_queries, score
from publishing import to_gguf as export_gguf
from audit.shapes import lora_parameters
from model import SIZES, Llama
from train import train

VOCABULARY = "english-4096-strict-nocapcode-v1"


@pytest.fixture(scope="module")
def texts(shared) -> list[str]:
    with gzip.open(shared / "corpus" / "web.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(next(lines))["text"] for _ in range(120)]


@pytest.fixture(scope="module")
def trained(shared, texts, tmp_path_factory):
    """The `best/` of a run of one minute: the shape of 20m, 320 wide (no multiple of 256), two layers."""
    work = tmp_path_factory.mktemp("run")
    (work / "text.txt").write_text("\n\n".join(texts[:100]), encoding="utf-8")
    corpus = prepare_files(
        [work / "text.txt"], work / "corpus", shared / "vocabs" / f"{VOCABULARY}.vocab"
    )
    shape = dataclasses.replace(SIZES["20m"], num_hidden_layers=2, max_position_embeddings=512)
    settings = dict(
        model=shape,
        data=str(corpus),
        out=str(work / "small"),
        steps=60,
        seq_len=128,
        batch_size=8,
        learning_rate=2e-3,
        eval_steps=60,
        logging_steps=20,
        device="cpu",
        precision="fp32",
    )
    history = train(**settings)
    assert history.losses[-1] < 7 < history.losses[0]
    return history.folder / "best"


@pytest.fixture(scope="module")
def held_out(texts, tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "held_out.txt"
    file.write_text("\n\n".join(texts[100:]), encoding="utf-8")
    return file


# ---------------------------------------------------------------------------------------------------- lm-eval

def write_lines(file, items):
    file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


@pytest.mark.ci
def test_lm_eval(shared, trained, texts, tmp_path):
    """lm-eval's own command line: multiple choice, rolling likelihood and generation; each number as the
    project computes it.
    """
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    with gzip.open(shared / "eval" / "piqa_val.jsonl.gz", "rt", encoding="utf-8") as lines:
        items = [json.loads(next(lines)) for _ in range(60)]
    asked = [
        {"query": f"Question: {item['context']}\nAnswer:", "choices": item["choices"], "label": item["label"]}
        for item in items
    ]
    documents = [text[:600] for text in texts[100:104]]
    write_lines(tasks / "choice.jsonl", asked)
    write_lines(tasks / "rolling.jsonl", [{"text": text} for text in documents])
    write_lines(tasks / "until.jsonl", [{"text": text[:80].rstrip()} for text in documents])
    found = oracle(
        "tf5",
        "lm_eval_run.py",
        trained,
        tasks,
        tmp_path / "out",
        work=tmp_path,
        needs=("lm_eval",),
        timeout=1800,
    )
    model, t = Llama.from_pretrained(trained), tokenizer.load(trained)

    right = []
    rows = [
        choice_queries(t, item["query"], [" " + choice for choice in item["choices"]], boundary="lm-eval")[0]
        for item in asked
    ]
    for item, scored, answers in zip(asked, score(model, rows), found["choice"]["answers"]):
        ours = [float(one.log_probs.sum()) for one in scored]
        theirs = [float(answer[0][0]) for answer in answers]
        assert ours == pytest.approx(theirs, abs=2e-3)
        right.append(max(range(len(ours)), key=ours.__getitem__) == item["label"])
    assert found["choice"]["metrics"]["acc"] == pytest.approx(sum(right) / len(right))

    for text, answer in zip(documents, found["rolling"]["answers"]):
        ids = [t.eos_id] + t.encode(text, document=True)
        log_probs = model(torch.tensor([ids]))[0, :-1].log_softmax(dim=-1)
        ours = log_probs.gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
        assert float(answer[0][0] if isinstance(answer[0], list) else answer[0]) == pytest.approx(
            ours, abs=5e-3
        )
    assert all(isinstance(answer[0][0], str) for answer in found["until"]["answers"])


@pytest.mark.ci
def test_lm_eval_boundary(trained, tmp_path):
    """The boundary trouble: the reference's ids leave lm-eval no token to score, so no tokenizer class can
    help; `judging/lm_eval_model.py` does.

    Where another choice has one token, lm-eval's cache of contexts lets the empty choice pass with
    log-probability 0, that is, as certain; else it stops.
    """
    t = tokenizer.load(trained)
    context = "She is one of"
    assert len(t.encode(context + " the")) == len(t.encode(context)), (
        "one token covers the end of the context and the whole choice"
    )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_lines(tasks / "certain.jsonl", [{"query": context, "choices": ["the", "a"], "label": 0}])
    write_lines(
        tasks / "trouble.jsonl", [{"query": context, "choices": ["the", "a very old friend"], "label": 0}]
    )
    plain = oracle(
        "tf5", "lm_eval_run.py", trained, tasks, tmp_path / "plain", work=tmp_path, needs=("lm_eval",)
    )
    assert plain["certain"]["answers"][0][0] == [["0.0", "True"]]
    assert "AssertionError" in plain["trouble"]["error"]
    ours = [
        python_of("tf5", ("lm_eval",)),
        str(ROOT / "judging" / "lm_eval_model.py"),
        "--model",
        "tokenmonster",
    ]
    mended = oracle(
        "tf5", "lm_eval_run.py", trained, tasks, tmp_path / "mended", *ours, work=tmp_path, needs=("lm_eval",)
    )
    whole = t.encode(context + " the", document=True)
    expected = (
        Llama.from_pretrained(trained)(torch.tensor([whole[:-1]]))[0, -1]
        .log_softmax(dim=-1)[whole[-1]]
        .item()
    )
    for task in ("certain", "trouble"):
        assert float(mended[task]["answers"][0][0][0][0]) == pytest.approx(expected, abs=1e-3)


# ---------------------------------------------------------------------------------- adapters and quantization

@pytest.mark.slow
def test_lora(shared, trained, tmp_path):
    """The cards' adapter: its size is what params.py says, and a short run on text of another kind lowers the
    loss on more of that kind.
    """
    with gzip.open(shared / "corpus" / "math.jsonl.gz", "rt", encoding="utf-8") as lines:
        (tmp_path / "math.txt").write_text(
            "\n\n".join(json.loads(next(lines))["text"] for _ in range(300)), encoding="utf-8"
        )
    found = oracle(
        "tf5", "adapters.py", trained, tmp_path / "math.txt", work=tmp_path, needs=("peft",), timeout=1800
    )
    print("LoRA", found)
    assert found["trainable"] == lora_parameters(Llama.from_pretrained(trained).config, rank=16)
    assert found["held_out_after"] < found["held_out_before"] - 0.1
    assert found["reloaded_difference"] < 1e-5 and found["merged_difference"] < 1e-4
    assert "error" in found["qlora"] or found["qlora"]["held_out_after"] < found["qlora"]["held_out_before"]


@pytest.mark.slow
def test_int8_and_four_bit(trained, held_out, tmp_path):
    found = oracle("tf5", "quantized.py", trained, held_out, work=tmp_path)
    print("quantized", found)
    layers = Llama.from_pretrained(trained).config.num_hidden_layers
    assert found["int8"]["int8_layers"] == 7 * layers + 1
    assert found["int8"]["bytes"] < 0.6 * found["fp32"]["bytes"]
    assert abs(found["int8"]["loss"] - found["fp32"]["loss"]) < 0.05 and found["int8"]["same_best"] > 0.9
    if "error" not in found["four_bit"]:
        assert (
            abs(found["four_bit"]["loss"] - found["fp32"]["loss"]) < 0.2
            and found["four_bit"]["same_best"] > 0.7
        )


@pytest.mark.slow
def test_assisted_generation(trained, shared, tmp_path):
    """The trained model drafts for a deeper one of the same vocabulary: the text stays the same."""
    torch.manual_seed(0)
    model = Llama.from_pretrained(trained)
    larger = Llama(dataclasses.replace(model.config, num_hidden_layers=6)).eval()
    # the first layers are the draft's, the others do almost nothing: a larger model that often agrees
    with torch.no_grad():
        larger.load_state_dict(model.state_dict(), strict=False)
        for layer in larger.model.layers[2:]:
            layer.self_attn.o_proj.weight.mul_(0.1)
            layer.mlp.down_proj.weight.mul_(0.1)
    t = tokenizer.load(trained)
    larger.save_pretrained(tmp_path / "larger", eos_token_id=t.eos_id, pad_token_id=t.pad_id)
    t.save_pretrained(tmp_path / "larger")
    found = oracle("tf5", "assisted.py", tmp_path / "larger", trained, work=tmp_path)
    print("assisted", found)
    assert found["same"] == [True, True, True]
    assert sum(found["calls_with_draft"]) < sum(found["calls"])


# ----------------------------------------------------------------------------------------------------- export

@pytest.mark.slow
def test_onnx(trained, tmp_path):
    """`python -m publishing.to_onnx`, then the file against transformers: padding at the left, a prompt and
    steps with past keys and values.
    """
    python = python_of("tf5", ("onnx", "onnxscript", "onnxruntime"))
    file = tmp_path / "model.onnx"
    done = subprocess.run(
        [python, "-m", "publishing.to_onnx", trained, "--out", file], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = oracle("tf5", "onnx_check.py", trained, file, work=tmp_path)
    layers = Llama.from_pretrained(trained).config.num_hidden_layers
    past = [f"past_key_values.{i}.{part}" for i in range(layers) for part in ("key", "value")]
    assert found["inputs"] == ["input_ids", "attention_mask", "position_ids", *past]
    assert found["outputs"] == ["logits", *[name.replace("past_key_values", "present") for name in past]]
    assert found["largest"] < 1e-4 and found["finite"] and found["past_length"] == 20


@pytest.mark.ci
def test_gguf_file(trained, tmp_path):
    """The file that is written by hand, read back by our own reader: names, shapes, types, and where a q
    matrix's rows go.
    """
    types = export_gguf.export(trained, tmp_path / "model.gguf", "f16")
    model = Llama.from_pretrained(trained)
    assert len(types) == len(model.state_dict())
    assert types["token_embd.weight"] == ("F16", [4096, 320]) and types["output_norm.weight"] == (
        "F32",
        [320],
    )
    assert types["blk.1.attn_k.weight"] == ("F16", [64, 320])
    # two heads of width 4: features 0 1 2 3, pairs (0, 2) and (1, 3)
    rows = numpy.arange(8, dtype=numpy.float32)[:, None]
    assert export_gguf.interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:500])
    with pytest.raises(UserError, match="damaged GGUF file"):
        export_gguf.read_types(tmp_path / "cut.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_gguf_in_llama_cpp(trained, tmp_path, tied):
    """llama.cpp reads the file and gives our logits: FP32 and FP16 files closely, the quantized ones by their
    best tokens.
    """
    python = python_of("gguf")
    folder = trained
    model = Llama.from_pretrained(trained)
    if tied:
        weights = model.state_dict()
        weights.pop("lm_head.weight")
        model = Llama(dataclasses.replace(model.config, tie_word_embeddings=True)).eval()
        model.load_state_dict(weights)
        folder = tmp_path / "tied"
        model.save_pretrained(folder)
    ids = torch.randint(4096, (1, 100), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        numpy.savez(tmp_path / "logits.npz", input_ids=ids[0].numpy(), logits=model(ids)[0].numpy())
    files = {kind: tmp_path / f"{kind}.gguf" for kind in ("f32", "f16", "q4_0", "q4_k_m")}
    said = {}
    for kind, file in files.items():
        command = [python, "-m", "publishing.to_gguf", folder, "--type", kind, "--out", file]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        said[kind] = done.stdout
    found = oracle("gguf", "gguf_check.py", tmp_path / "logits.npz", *files.values(), work=tmp_path)
    results = {kind: found[str(file)] for kind, file in files.items()}
    print("gguf", found["llama_cpp"], results)
    assert all(result["vocabulary"] == 4096 for result in results.values())
    assert results["f32"]["largest"] < 2e-3 and results["f32"]["same_best"] == 1
    assert results["f16"]["largest"] < 2e-2 and results["f16"]["same_best"] > 0.98
    assert results["q4_0"]["same_best"] > 0.6 and results["q4_k_m"]["same_best"] > 0.6
    assert "not a multiple of 256" in said["q4_k_m"] and "as Q5_0" in said["q4_k_m"]
    # one matrix: llama.cpp wants Q6_K for the head of a q4_0 file, and these rows do not allow it
    assert "(the block of the K types): 1 as Q8_0" in said["q4_0"]
    assert "no tensor fell back" in said["f16"]


# ------------------------------------------------------------------------------------------------------- vLLM

@pytest.mark.ci
def test_vllm_rules(shared, trained, tmp_path):
    """vLLM does not run here: its rules for a folder and a tokenizer, as its source has them."""
    t = tokenizer.load(trained)
    golden = json.loads((shared / "golden" / "tokenmonster.json").read_text(encoding="utf-8"))
    cases = [
        {"text": case["text"], "ids": t.encode(case["text"], document=True)}
        for case in golden
        if case["vocab"] == VOCABULARY
    ]
    for case in cases:
        case["decoded"] = t.decode(case["ids"])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    found = oracle("tf5", "vllm_rules.py", trained, tmp_path / "cases.json", work=tmp_path)
    assert found["broken"] == [] and found["wrong_text"] == [] and found["cases"] > 150
    assert found["highest_id"] < found["rows"] and found["ids_of_copy"] == t.encode("Hello world")
