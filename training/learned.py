# SPDX-License-Identifier: Apache-2.0
"""What a model has learned of the built-in corpus, not only how much: measured at each evaluation of a run.

    documents   loss per source beside the entropy that no model can go below, and the share of the way
    mentions    the loss on first and on later mentions of a name: later ones can be copied
    samples     a few continuations, read by corpus/checker.py: names, pronouns and things kept
    one prompt  the continuation of the same beginning each time

A validation row begins in the middle of a document, so its loss is higher. Only the loss on complete
documents may be compared with the entropy.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

import data
from corpus import builtin, checker, tales
from corpus.documents import builtin_source
from model import Llama
from sampling.many import decode_many
from tokenizer import Tokenizer

SAMPLES = 12                                                      # continuations at each evaluation
TOKENS = 4_500                                                    # of complete documents at each evaluation
AT_ONCE = 16                                                      # documents in one forward pass
TEMPERATURE = 0.8
LONGEST = 300                                                     # tokens of a sampled document


class Document(NamedTuple):
    """A validation document: its text, its tokens with a separator before and after, its -log p in nats."""

    text: str
    ids: list[int]
    nats: float


class Way(NamedTuple):
    """Unigram entropy, loss and entropy of the same documents, in nats per token."""

    unigram: float
    loss: float
    bound: float

    @property
    def share(self) -> float:
        """Share of the way from token frequencies alone to the entropy that no model can go below."""
        return (self.unigram - self.loss) / (self.unigram - self.bound)


def knows_its_entropy(corpus: data.Corpus) -> bool:
    """Whether today's generator made this corpus, so that the checker can read its documents."""
    sources = corpus.manifest.get("recipe", {}).get("sources", {})
    known = {kind: builtin_source(kind).identity for kind in builtin.KINDS}
    return bool(sources) and all(known.get(kind) == identity for kind, identity in sources.items())


def validation_documents(corpus: data.Corpus, tokenizer: Tokenizer, tokens: int) -> dict[str, list[Document]]:
    """The first documents of each source, about `tokens` tokens in all, in the shares of the split.

    The grammar computes the nats of each document from its text.
    """
    sizes = {kind: split["validation"] for kind, split in corpus.num_tokens.items()}
    found = {}
    for kind, size in sizes.items():
        grammar, found[kind], wanted = builtin.KINDS[kind].grammar, [], tokens * size / sum(sizes.values())
        for ids in corpus.documents(kind, tokens):
            text = tokenizer.decode(ids[:-1].tolist())
            found[kind].append(Document(text, [tokenizer.eos_id, *ids.tolist()], grammar.read(text).nats))
            wanted -= len(ids)
            if wanted <= 0:
                break
    return found


@torch.no_grad()
def token_losses(model: Llama, documents: list[Document], device: torch.device) -> list[numpy.ndarray]:
    """-log p of each token after the first, float32 (n,) each, in nats. Padding is left out."""
    longest = max(len(document.ids) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)                          # (B, T)
    for row, document in enumerate(documents):
        ids[row, :len(document.ids)] = torch.tensor(document.ids)
    ids = ids.to(device)                                                                  # (B, T)
    logits = model(ids)[:, :-1].float()                                                   # (B, T-1, V)
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T-1)
    losses = losses.cpu().numpy()
    return [losses[row, :len(document.ids) - 1] for row, document in enumerate(documents)]


def losses_by_source(model: Llama, documents: dict[str, list[Document]],
                     device: torch.device) -> dict[str, list[numpy.ndarray]]:
    """`token_losses` of each source, a few documents at a time."""
    return {
        kind: [losses for start in range(0, len(chosen), AT_ONCE)
               for losses in token_losses(model, chosen[start:start + AT_ONCE], device)]
        for kind, chosen in documents.items()
    }


def way_of(documents: list[Document], losses: list[numpy.ndarray]) -> Way:
    """Unigram entropy, loss and entropy of these documents, from their `token_losses`."""
    counts = numpy.bincount([token for document in documents for token in document.ids[1:]])
    tokens, total = int(counts.sum()), sum(float(row.sum()) for row in losses)
    nats = sum(document.nats for document in documents)
    return Way(data.entropy_of(counts), total / tokens, nats / tokens)


def mention_losses(documents: list[Document], losses: list[numpy.ndarray],
                   tokenizer: Tokenizer) -> tuple[float, float]:
    """Mean loss in nats of a name (all its tokens), at its first and at its later mentions in a tale."""
    first, later = [], []
    for document, row in zip(documents, losses):
        stream, starts, at = tokenizer.stream(), [], 0
        for token in document.ids[1:-1]:
            starts.append(at)
            at += len(stream.feed([token]))
        seen, starts = set(), [*starts, at]
        for found in re.finditer(tales.ANY_NAME, document.text):
            covering = [i for i in range(len(starts) - 1)
                        if starts[i] < found.end() and starts[i + 1] > found.start()]
            (later if found[0] in seen else first).append(float(sum(row[i] for i in covering)))
            seen.add(found[0])
    return (float(numpy.mean(first)) if first else 0.0, float(numpy.mean(later)) if later else 0.0)


def continuations(model: Llama, tokenizer: Tokenizer, prompts: list[str], *, temperature: float = TEMPERATURE,
                  most: int = LONGEST, seed: int = 0) -> list[str]:
    """Prompt and continuation up to the separator, at most `most` tokens in all, for many prompts at once.

    Temperature 0 is greedy. The products are in FP32, also while a run trains in another dtype.
    """
    rows = [[tokenizer.eos_id, *tokenizer.encode(prompt, document=True)] for prompt in prompts]
    unfinished, chance = set(range(len(rows))), torch.Generator().manual_seed(seed)
    for tokens in decode_many(model, rows, most - min(map(len, rows)),
                              lambda logits: choose(logits.float(), temperature, chance)):
        for number in list(unfinished):
            if tokens[number] == tokenizer.eos_id or len(rows[number]) == most:
                unfinished.discard(number)
            else:
                rows[number].append(tokens[number])
        if not unfinished:
            break
    return [tokenizer.decode(row[1:]) for row in rows]


def choose(logits: Tensor, temperature: float, chance: torch.Generator) -> list[int]:
    """A token for each row of logits (B, V), drawn at this temperature; 0, or a NaN among them, is greedy."""
    if temperature == 0 or not torch.isfinite(logits).all():
        return logits.argmax(-1).tolist()
    weights = torch.softmax(logits / temperature, dim=-1)                                 # (B, V)
    return torch.multinomial(weights.cpu(), 1, generator=chance)[:, 0].tolist()


def openings(count: int, first: int = 2 * 10**8) -> list[str]:
    """First sentences of tales that are in no prepared corpus."""
    return [checker.END.split(tales.GRAMMAR.write(number).text)[0] for number in range(first, first + count)]


def shares(texts: list[str]) -> dict[str, int]:
    """How many of these tales are long enough to judge, and how many of those keep each kind of fact."""
    judged = [checker.check_tale(text) for text in texts]
    counting = [tale for tale in judged if tale.counts]
    kept = {group: sum(getattr(tale, group) for tale in counting) for group in checker.GROUPS}
    return {
        "tales": len(counting), **kept,
        "name_and_pronoun": sum(tale.name and tale.pronoun for tale in counting),
        "faultless": sum(tale.faultless for tale in counting),
        "sentences": sum(tale.sentences for tale in judged),
        "good_sentences": sum(tale.good_sentences for tale in judged),
    }


@dataclass
class Learned:
    """Measures a run at its evaluations. `documents` is empty for a corpus whose entropy is not known."""

    tokenizer: Tokenizer
    device: torch.device
    documents: dict[str, list[Document]]
    prompt: str

    @classmethod
    def of(cls, validation: data.Corpus, tokenizer: Tokenizer, device: torch.device, longest: int) -> Learned:
        """The measures of a run that validates on this corpus with a model of `longest` positions.

        Nothing is measured on XLA, which compiles every new shape (`evaluate.py --builtin` does it later),
        nor where no document of a source fits into the model.
        """
        if knows_its_entropy(validation) and device.type != "xla":
            documents = {kind: [document for document in chosen if len(document.ids) <= longest]
                         for kind, chosen in validation_documents(validation, tokenizer, TOKENS).items()}
            if all(documents.values()):
                return cls(tokenizer, device, documents, openings(1)[0] if "web" in documents else "")
        return cls(tokenizer, device, {}, "")

    def measure(self, model: Llama) -> dict[str, Any]:
        """The fields that an evaluation row of the log gets; none for another corpus."""
        if not self.documents:
            return {}
        losses = losses_by_source(model, self.documents, self.device)
        way = way_of(sum(self.documents.values(), []), sum(losses.values(), []))
        fields: dict[str, Any] = {
            "whole_loss": way.loss, "entropy": way.bound, "unigram_entropy": way.unigram,
            "share_of_the_way": way.share,
            "whole_losses": {kind: float(numpy.concatenate(rows).mean()) for kind, rows in losses.items()},
        }
        if self.prompt:
            first, later = mention_losses(self.documents["web"], losses["web"], self.tokenizer)
            texts = continuations(model, self.tokenizer, openings(SAMPLES, 3 * 10**8))
            fields |= {"name_first": first, "name_later": later, "kept": shares(texts)}
        return fields

    def sample(self, model: Llama) -> str:
        """The fixed prompt and its continuation; "" where there is no prompt."""
        return continuations(model, self.tokenizer, [self.prompt], seed=1)[0] if self.prompt else ""
