# SPDX-License-Identifier: Apache-2.0
"""Whether two commits compute the same: a corpus, a run, a resumed run, the exported folder, the audit.

    python tests/compare_commits.py BEFORE [AFTER]

Both commits are checked out into a temporary folder, with `git worktree`. Each prepares a corpus from the
same two generated text files with the same vocabulary file (BEFORE's), trains `tiny` on it for a few steps in
FP32 on one thread, once without and once with an interruption, and audits the cards. Where a commit has
--no-fused it is given, since torch's fused AdamW rounds differently from ours. AFTER also resumes the
interrupted run of BEFORE. Prints a row for each thing that is compared: its SHA-256 or values in both, and
whether they are equal. Exit code 1 if anything differs.
"""
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    "--size", "tiny", "--data", "corpus", "--device", "cpu", "--precision", "fp32", "--seed", "42",
    "--steps", "12", "--warmup-steps", "2", "--schedule", "cosine", "--learning-rate", "1e-3",
    "--seq-len", "64", "--batch-size", "4", "--eval-steps", "4", "--max-eval-samples", "8",
]
WORDS = ("the a one small old red river house bird stone child garden light voice winter road runs sees "
         "finds keeps leaves near under after before slowly again never").split()


def sh(*command: object, cwd: Path) -> str:
    """Run a command and return what it prints; its messages are shown if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_texts(folder: Path) -> None:
    """web.txt and code.txt: generated documents, divided by blank lines."""
    chance = random.Random(7)
    sentences = [" ".join(chance.choices(WORDS, k=8)).capitalize() + "." for _ in range(6000)]
    web = [" ".join(sentences[i:i + 4]) for i in range(0, len(sentences), 4)]
    code = [f"def {chance.choice(WORDS)}_{i}(x):\n    return x * {i} + {chance.randrange(99)}"
            for i in range(800)]
    (folder / "web.txt").write_text("\n\n".join(web))
    (folder / "code.txt").write_text("\n\n".join(code))


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def files_of(folder: Path) -> dict[str, str]:
    """Name -> checksum of every file."""
    return {file.relative_to(folder).as_posix(): sha(file.read_bytes())
            for file in sorted(folder.rglob("*")) if file.is_file()}


def losses_of(run: Path, key: str) -> list[float]:
    rows = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [row[key] for row in rows if key in row]


def results(code: Path, place: Path, vocab: Path) -> dict[str, str]:
    """What one commit computes in the folder `place`: name of the thing -> checksum or value."""
    place.mkdir()
    write_texts(place)
    sources = ["--source", "web=web.txt", "--source", "code=code.txt"]
    sh(sys.executable, code / "data.py", "prepare", *sources, "--vocab", vocab, "--out", "corpus", cwd=place)
    train = [sys.executable, code / "train.py"]
    written_out = "--no-fused" in sh(*train, "--help", cwd=place)
    settings = [*SETTINGS, *["--no-fused"] * written_out]
    sh(*train, *settings, "--out", "run", cwd=place)
    sh(*train, *settings, "--out", "cut", "--stop-after", "5", cwd=place)
    shutil.copytree(place / "cut", place / "left")                # for the other commit
    sh(*train, "--resume", "cut", cwd=place)
    found = {}
    for name, digest in files_of(place / "corpus").items():
        found[f"corpus: {name}"] = digest
    for run in ("run", "cut"):
        what = {"run": "run", "cut": "resumed run"}[run]
        for key in ("loss", "eval_loss"):
            values = losses_of(place / run, key)
            found[f"{what}: {key}, {len(values)} values"] = " ".join(f"{value:.9f}" for value in values)
        for name in ("last/model.safetensors", "last/optimizer.safetensors", "best/model.safetensors"):
            found[f"{what}: {name}"] = sha((place / run / name).read_bytes())
    for name, digest in files_of(place / "run/best").items():
        if name != "model.safetensors":
            found[f"exported folder: {name}"] = digest
    printed = sh(sys.executable, code / "params.py", "--audit", "--json", cwd=place)
    audit = json.loads(printed)["findings"]
    for verdict in ("consistent", "inconsistent", "not checkable"):
        rows = sorted(json.dumps([finding[key] for key in ("id", "stated", "computed", "correction")])
                      for finding in audit if finding["verdict"] == verdict)
        found[f"audit: {verdict}"] = f"{len(rows)} findings, {sha(json.dumps(rows).encode())}"
    return found


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    before, after = sys.argv[1], (sys.argv[2:] or ["HEAD"])[0]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            for name, commit in (("before", before), ("after", after)):
                sh("git", "worktree", "add", "--detach", place / f"code {name}", commit, cwd=ROOT)
            vocab = place / "same.vocab"
            shutil.copyfile(next((place / "code before" / "vocabs").glob("*.vocab")), vocab)
            found = {name: results(place / f"code {name}", place / name, vocab)
                     for name in ("before", "after")}
            mixed = place / "before" / "left"
            sh(sys.executable, place / "code after" / "train.py", "--resume", mixed, cwd=place / "before")
            for name in ("last/model.safetensors", "last/optimizer.safetensors"):
                what = f"run of BEFORE, resumed by AFTER: {name}"
                found["before"][what] = found["before"][f"run: {name}"]
                found["after"][what] = sha((mixed / name).read_bytes())
        finally:
            for name in ("before", "after"):
                subprocess.run(["git", "worktree", "remove", "--force", place / f"code {name}"], cwd=ROOT)
    names = list(dict.fromkeys([*found["before"], *found["after"]]))
    different = 0
    for name in names:
        one, two = (found[commit].get(name, "absent") for commit in ("before", "after"))
        different += one != two
        said = one[:40] if one == two else f"{one[:40]} -> {two[:40]}"
        print(f"{'same     ' if one == two else 'DIFFERENT'}  {name}: {said}")
    print(f"{len(names) - different} of {len(names)} are the same ({before} and {after})")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
