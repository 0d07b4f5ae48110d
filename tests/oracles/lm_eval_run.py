# SPDX-License-Identifier: Apache-2.0
"""Oracle (lm-eval on transformers 5.x): run local tasks on a model folder by lm-eval's own command line.

    python lm_eval_run.py FOLDER TASKS OUT [PROGRAM ...]

TASKS holds some of choice.jsonl and certain.jsonl (query, choices, label), rolling.jsonl and until.jsonl
(text), trouble.jsonl (as choice, run by itself because it is expected to fail). PROGRAM is what to run
instead of `python -m lm_eval --model hf`.
"""
import glob
import json
import os
import subprocess
import sys

COMMON = (
    "task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {file}\ntest_split: test\n"
)
CHOICE = COMMON + """output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
  - metric: acc_norm
"""
ROLLING = COMMON + """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: byte_perplexity
"""
UNTIL = COMMON + """output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: ""
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 12
  do_sample: false
metric_list:
  - metric: exact_match
"""
TASKS = {"choice": CHOICE, "rolling": ROLLING, "until": UNTIL, "certain": CHOICE, "trouble": CHOICE}


def run(folder, tasks, names, out, program):
    """One call of the command line; task -> metrics and answers of each item in order, or the error."""
    for name in names:
        with open(os.path.join(tasks, name + ".yaml"), "w") as yaml:
            yaml.write(TASKS[name].format(name="stentor_" + name, file=os.path.join(tasks, name + ".jsonl")))
    chosen = ",".join("stentor_" + name for name in names)
    arguments = [
        "--model_args",
        f"pretrained={folder},trust_remote_code=True,dtype=float32",
        "--include_path",
        tasks,
        "--tasks",
        chosen,
        "--device",
        "cpu",
        "--batch_size",
        "8",
        "--output_path",
        out,
        "--log_samples",
        "--trust_remote_code",
    ]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.split(":")[0].endswith("Error")] or [
            done.stderr[-500:]
        ]
        return {name: {"error": errors[-1]} for name in names}
    (results,) = glob.glob(os.path.join(out, "**", "results_*.json"), recursive=True)
    with open(results) as file:
        metrics = json.load(file)["results"]
    found = {}
    for name in names:
        (samples,) = glob.glob(os.path.join(out, "**", f"samples_stentor_{name}_*.jsonl"), recursive=True)
        with open(samples) as file:
            items = sorted((json.loads(line) for line in file), key=lambda item: item["doc_id"])
        numbers = {
            key.split(",")[0]: value
            for key, value in metrics["stentor_" + name].items()
            if isinstance(value, float)
        }
        found[name] = {"metrics": numbers, "answers": [item["resps"] for item in items]}
    return found


def main(folder, tasks, out, *program):
    program = list(program) or [sys.executable, "-m", "lm_eval", "--model", "hf"]
    sound = [
        name for name in TASKS if name != "trouble" and os.path.isfile(os.path.join(tasks, name + ".jsonl"))
    ]
    found = run(folder, tasks, sound, os.path.join(out, "sound"), program) if sound else {}
    if os.path.isfile(os.path.join(tasks, "trouble.jsonl")):
        found.update(run(folder, tasks, ["trouble"], os.path.join(out, "trouble"), program))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
