# SPDX-License-Identifier: Apache-2.0
"""Oracle (PEFT, bitsandbytes): a short real LoRA run on a model folder with the cards' settings, and QLoRA
where bitsandbytes runs.

    python adapters.py FOLDER TEXT

Prints the trainable count, the loss before and after on text that the run did not see, whether a saved
adapter loads and merges to the same logits, and the same loss for QLoRA or why it did not run.
"""
import json
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

LENGTH, BATCH, STEPS = 128, 8, 40


def held_out_loss(model, rows):
    model.eval()
    with torch.no_grad():
        return model(input_ids=rows, labels=rows).loss.item()


def adapt(model, rows):
    """LoRA as the cards start it: r 16, alpha 32, dropout 0.05, q/k/v/o, AdamW (0.9, 0.999), cosine with 5%
    warmup; Portimbria's rate 2e-4 x 5.
    """
    torch.manual_seed(0)
    settings = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM",
                          target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(model, settings)
    trainable, total = model.get_nb_trainable_parameters()
    held_out, training = rows[:BATCH], rows[BATCH:]
    before = held_out_loss(model, held_out)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.999), eps=1e-8
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=STEPS, pct_start=0.05, anneal_strategy="cos"
    )
    model.train()
    for step in range(STEPS):
        batch = training[torch.arange(step * BATCH, (step + 1) * BATCH) % len(training)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, {
        "trainable": trainable,
        "all": total,
        "held_out_before": before,
        "held_out_after": held_out_loss(model, held_out),
    }


def main(folder, text_file):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with open(text_file, encoding="utf-8") as file:
        ids = tokenizer(file.read())["input_ids"]
    rows = torch.tensor(ids[:len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model, report = adapt(base, rows)
    with torch.no_grad(), tempfile.TemporaryDirectory() as saved:
        expected = model(input_ids=rows[:1]).logits
        model.save_pretrained(saved)
        again = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), saved
        ).eval()
        report["reloaded_difference"] = (again(input_ids=rows[:1]).logits - expected).abs().max().item()
        merged = again.merge_and_unload()
        report["merged_difference"] = (merged(input_ids=rows[:1]).logits - expected).abs().max().item()
    try:
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
        base = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=four_bit, dtype=torch.float32, device_map={"": "cpu"}
        )
        _, report["qlora"] = adapt(
            prepare_model_for_kbit_training(base, use_gradient_checkpointing=False), rows
        )
    except (RuntimeError, ImportError, NotImplementedError, ValueError) as error:
        report["qlora"] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
