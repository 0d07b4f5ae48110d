# SPDX-License-Identifier: Apache-2.0
"""The graders of lessons/exercises: the solutions pass, the stubs are "not written yet", and typical wrong
answers get the line that helps.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from in_process import run_pytest

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = ROOT / "lessons" / "exercises"
NAMES = sorted(file.stem for file in (EXERCISES / "solutions").glob("*.py"))
# exercise -> (part of the solution, what a reader may write instead, what the grader says)
WRONG = {
    "rms_norm": [
        ("mean_square + eps", "mean_square", "eps is missing"),
        ("torch.rsqrt(mean_square + eps)", "1 / (mean_square.sqrt() + eps)", "eps is added after the root"),
        (".mean(dim=-1, keepdim=True)", ".mean()", "the mean is over all axes"),
        (".mean(dim=-1, keepdim=True)", ".sum(dim=-1, keepdim=True)", "the squares are summed"),
        (" * weight", "", "the weight is missing"),
        ("torch.rsqrt(mean_square + eps)", "1 / (mean_square + eps)", "the root is missing"),
        ("    mean_square", "    x = x - x.mean(dim=-1, keepdim=True)\n    mean_square", "that is LayerNorm"),
        ("x.pow(2).mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True)", "by the standard deviation"),
        ("dim=-1", "dim=1", "the mean is over the positions"),
        ("torch.rsqrt(mean_square + eps)", "1 / (x.norm(dim=-1, keepdim=True) + eps)",
         "the length of x, with"),
        ("torch.rsqrt(mean_square + eps)", "1 / x.norm(dim=-1, keepdim=True)", "the length of x, the root"),
        ("torch.rsqrt(", "torch.sqrt(", "x is multiplied by the root"),
        ("x.pow(2).mean", "x.abs().mean", "this is the mean of |x|"),
        (") * weight", ") * (1 + weight)", "multiplies by 1 + weight"),
        ("    return x *", "    x *", "is the last line a `return`?"),
        ("dim=-1, keepdim=True", "dim=(1, 2), keepdim=True", "the mean is over the positions too"),
        ("x.pow(2).mean(dim=-1, keepdim=True)", "x.mean(dim=-1, keepdim=True).pow(2)",
         "the mean of x is squared"),
        ("mean_square + eps", "mean_square - eps", "eps is subtracted"),
        (") * weight", ") / weight", "this divides by the weight"),
        ("return x * torch", "return (x - x.mean(dim=-1, keepdim=True)) * torch", "above the fraction bar"),
        ("return x * torch.rsqrt(mean_square + eps) * weight",
         "return torch.rsqrt(mean_square + eps) * weight", "this is the factor alone"),
    ],
    "rotary": [
        ("2) / F)", "2) / F / 2)", "the exponent is -j/F"),
        ("-torch.arange(0, F, 2)", "torch.arange(0, F, 2)", "the frequency grows with j"),
        ("torch.arange(T)", "torch.arange(1, T + 1)", "positions begin at 1"),
        ("(a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())",
         "(a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin())", "turn the other way"),
        ("a * angle.cos() - b", "a * angle.cos() + b", "the minus sign"),
        ("(a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())",
         "(a * angle.sin() - b * angle.cos(), b * angle.sin() + a * angle.cos())",
         "cosine and sine are exchanged"),
        ("torch.cat(turned, dim=-1)", "x", "nothing is turned"),
        ("    turned =", "    a, b = x[..., ::2], x[..., 1::2]\n    turned =",
         "from neighbours and come back"),
        ("(a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())",
         "(a := a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())", "from the new a"),
        ("torch.cat(turned, dim=-1)", "torch.stack(turned, dim=-1).flatten(-2)", "come back as neighbours"),
        ("-torch.arange(0, F, 2)", "-2 * torch.arange(0, F, 2)", "the exponent is -4j/F"),
        ("torch.arange(0, F, 2)", "torch.arange(2, F + 1, 2)", "j begins at 1"),
        ("2) / F)", "2) // F)", "divide with /"),
        ("a, b = x.chunk", "b, a = x.chunk", "the two halves are exchanged"),
        ("torch.cat(turned, dim=-1)", "turned[0]", "only half of the features"),
        ("b * angle.cos() + a * angle.sin()", "b * angle.sin() + a * angle.cos()", "in the new b: b cos w"),
        ("b * angle.cos() + a * angle.sin()", "b * angle.cos() - a * angle.sin()", "the sign in the new b"),
        ("b * angle.cos() + a * angle.sin()", "b", "only a is turned"),
        ("torch.cat(turned, dim=-1)", "torch.cat(turned[::-1], dim=-1)", "come back exchanged"),
        ("torch.outer(torch.arange(T), frequency)", "frequency.expand(T, -1)", "turns by the same angle"),
        ("torch.outer(torch.arange(T), frequency)", "torch.arange(T)[:, None] + frequency",
         "position and frequency are added"),
        ("torch.outer(torch.arange(T), frequency)", "torch.outer(torch.arange(T), frequency).deg2rad()",
         "into degrees or from degrees"),
        ("torch.arange(T), ", "2 * torch.pi * torch.arange(T), ", "a factor 2 pi"),
        ("torch.cat(turned, dim=-1)", "x + torch.cat(turned, dim=-1)", "x is added"),
    ],
    "attention": [
        ("repeat_interleave(group, dim=1)", "repeat(1, group, 1, 1)", "the heads are grouped the other way"),
        ("score.masked_fill(later, -math.inf)", "score", "later positions are read too"),
        ("-math.inf", "0.0", "exp(0) is 1: use -inf"),
        ("torch.softmax(score.masked_fill(later, -math.inf), dim=-1)",
         "torch.softmax(score, dim=-1).masked_fill(later, 0.0)", "cut off after the softmax"),
        (" / math.sqrt(q.shape[3])", "", "the scores are not divided"),
        ("math.sqrt(q.shape[3])", "q.shape[3]", "the scores are divided by F"),
        ("dim=-1)       #", "dim=-2)       #", "the softmax is over the queries"),
        (".triu(1)", ".triu(0)", "a position does not read itself"),
        (".triu(1)", ".tril(-1)", "the mask lies the other way"),
        (".triu(1)", ".triu(2)", "reads one later position too"),
        ("later, -math.inf", "~later, -math.inf", "only later positions are read"),
        ("score.masked_fill(later, -math.inf)", "score + later * -math.inf", "0 times -inf is nan"),
        ("math.sqrt(q.shape[3])", "math.sqrt(q.shape[2])", "divided by sqrt(T)"),
        ("math.sqrt(q.shape[3])", "math.sqrt(q.shape[1] * q.shape[3])", "the root of H times F"),
        ("torch.softmax(score.masked_fill(later, -math.inf), dim=-1)",
         "score.masked_fill(later, -math.inf).exp()", "the weights do not sum to 1"),
        ("weight @ v", "weight", "these are the weights"),
        ("q @ k.transpose", "k @ q.transpose", "q and k are exchanged"),
        ("dim=-1)       #", "dim=1)       #", "the softmax is over the heads"),
        ("v = v.repeat_interleave(group, dim=1)", "v = v.repeat(1, group, 1, 1)", "the values are grouped"),
        ("group = q.shape[1] // k.shape[1]", "group = k.shape[1]", "must match the size of tensor b (4)"),
        ("group = q.shape[1] // k.shape[1]", "group = 2", "must match the size of tensor b (4)"),
        ("math.sqrt(q.shape[3])", "math.sqrt(8)", "the largest difference is at"),
        (" / math.sqrt(q.shape[3])", " * math.sqrt(q.shape[3])", "multiplied by sqrt(F)"),
        ("math.sqrt(q.shape[3])", "math.sqrt(q.shape[1])", "divided by sqrt(H)"),
        ("weight @ v", "weight @ k", "the weights are applied to the keys"),
        ("weight @ v", "(weight @ v).transpose(1, 2)", "come back as (B, T, H, F)"),
        ("weight @ v", "(weight @ v).transpose(1, 2).flatten(2)", "the heads come back joined"),
    ],
    "swiglu": [
        ("F.silu(x @ gate.t()) * (x @ up.t())", "(x @ gate.t()) * F.silu(x @ up.t())", "on the up branch"),
        ("F.silu(", "F.relu(", "this is ReLU"),
        ("F.silu(", "F.gelu(", "this is GELU"),
        ("F.silu(", "F.sigmoid(", "silu(z) is z times sigmoid(z)"),
        ("F.silu(x @ gate.t())", "(x @ gate.t())", "the gate has no silu"),
        ("F.silu(x @ gate.t()) * ", "F.silu(x @ gate.t()) + ", "the branches are added"),
        (" * (x @ up.t())", "", "the up branch is missing"),
        ("F.silu(x @ gate.t()) * (x @ up.t())", "F.silu((x @ gate.t()) * (x @ up.t()))", "after the product"),
        ("(x @ up.t())", "F.silu(x @ up.t())", "silu is on both branches"),
        ("F.silu(x @ gate.t()) * (x @ up.t())", "(x @ gate.t()) * F.sigmoid(x @ up.t())", "the same z twice"),
        ("F.silu(", "F.tanh(", "this is tanh"),
        ("x @ up.t()", "x @ gate.t()", "the gate is used twice"),
        ("hidden @ down.t()", "hidden", "the product with down is missing"),
        ("return hidden @ down.t()", "return F.silu(hidden @ down.t())", "a second silu comes at the end"),
        ("return hidden @ down.t()", "return x + hidden @ down.t()", "x is added"),
        ("F.silu(", "F.softplus(", "this is softplus"),
        ("F.silu(", "F.leaky_relu(", "this is leaky ReLU"),
        ("F.silu(x @ gate.t())", "F.softmax(x @ gate.t(), dim=-1)", "this is a softmax over the gate"),
        ("F.silu(x @ gate.t())", "(x @ gate.t()) / (1 + (x @ gate.t()).exp())", "a sign is wrong"),
        ("F.silu(x @ gate.t())", "(1 - F.sigmoid(x @ gate.t()))", "this is 1 - sigmoid(z)"),
    ],
    "cross_entropy": [
        (".mean()", ".sum()", "the losses are summed"),
        ("torch.logsumexp(logits, dim=2) - chosen", "chosen - torch.logsumexp(logits, dim=2)", "the sign"),
        ("    logits = logits[:, :-1]", "    input_ids = torch.cat([input_ids[:, :1], input_ids], dim=1)\n"
         "    logits = logits", "judged on its own token"),
        (".mean()", ".mean() / 0.6931471805599453", "this is in bits"),
        ("torch.logsumexp(logits, dim=2)", "logits.exp().sum(dim=2).log()", "exp overflows"),
        ("torch.logsumexp(logits, dim=2) - chosen", "-chosen", "logsumexp is missing"),
        (".mean()", ".sum() / input_ids.numel()", "divided by B*T"),
        (".mean()", ".sum(dim=1).mean()", "divided by B;"),
        ("    logits = logits[:, :-1] ", "    input_ids = input_ids.roll(1, dims=1)\n"
         "    logits = logits[:, 1:] ", "the shift goes the other way"),
        ("input_ids[:, 1:, None]", "input_ids[:, :-1, None]", "both are cut in the same way"),
        ("logits[:, :-1] ", "logits[:, 1:] ", "both lose the first position"),
        ("torch.logsumexp(logits, dim=2) - chosen", "-torch.softmax(logits, dim=2).gather(2, "
         "input_ids[:, 1:, None])", "the logarithm is missing"),
        ("    chosen", "    logits = torch.softmax(logits, dim=2)\n    chosen", "softmax is taken twice"),
        ("torch.logsumexp(logits, dim=2) - chosen", "-torch.log_softmax(logits, dim=1).gather(2, "
         "input_ids[:, 1:, None])", "softmax is over the positions"),
        ("torch.logsumexp(logits, dim=2) - chosen", "-torch.log_softmax(logits, dim=2)",
         "over all tokens of"),
        ("torch.logsumexp(logits, dim=2)", "(logits - logits.max()).exp().sum(dim=2).log()",
         "not added again"),
        (".mean()", "", "one number for each prediction"),
        (".mean()", ".mean() / 2.302585092994046", "to base 10"),
        (".mean()", ".mean().exp()", "this is the perplexity"),
        ("(torch.logsumexp(logits, dim=2) - chosen)",
         "(1 - torch.softmax(logits, dim=2).gather(2, input_ids[:, 1:, None]))", "the mean of 1 - p"),
        ("(torch.logsumexp(logits, dim=2) - chosen)",
         "torch.distributions.Categorical(logits=logits).entropy()", "the entropy of the predictions"),
        ("    logits = logits[:, :-1] ", "    logits, input_ids = logits.flatten(0, 1)[None], "
         "input_ids.flatten()[None]\n    logits = logits[:, :-1] ", "the rows were joined"),
        (".mean()", ".mean(dim=1)", "one number for each row"),
        ("torch.logsumexp(logits, dim=2)", "((logits - logits.max()).exp().sum(dim=2).log() + logits.max())",
         "each position's own maximum"),
    ],
    "adamw": [
        ("w * (1 - lr * decay)", "w", "the weight does not decay"),
        ("1 - lr * decay", "1 - decay", "not multiplied by the rate"),
        ("    m = 0.9", "    g, decay = g + decay * w, 0.0\n    m = 0.9", "that is Adam with L2"),
        ("0.9 * m + 0.1 * g", "0.95 * m + 0.05 * g", "m runs with b2"),
        ("lr * step, m, v", "lr * step, v, m", "in the wrong order"),
        ("(m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)", "m / (v.sqrt() + 1e-8)",
         "the moments are not corrected"),
        ("0.05 * g * g", "0.05 * g.abs()", "v keeps |g|"),
        (".sqrt() + 1e-8", " + 1e-8).sqrt(", "eps is under the root"),
        (".sqrt() + 1e-8", " + 1e-8", "the root of v is missing"),
        ("0.9 * m + ", "", "m forgets the steps before"),
        ("    m = 0.9", "    t = t + 1\n    m = 0.9", "one too high"),
        ("    m = 0.9", "    t = t - 1\n    m = 0.9", "1 - b^t is 0 or below"),
        ("- lr * step", "+ lr * step", "the step goes uphill"),
        ("(m / (1 - 0.9**t)) / ((v / (1 - 0.95**t))", "(m / (1 - 0.95**t)) / ((v / (1 - 0.9**t))",
         "the corrections are exchanged"),
        (".sqrt() + 1e-8", ".sqrt()", "0 / 0 is nan"),
        ("v / (1 - 0.95**t)", "v", "v is not corrected"),
        ("m / (1 - 0.9**t)", "m", "m is not corrected"),
        ("0.9 * m + 0.1 * g", "0.9 * m + g", "the factor 1 - b1 of g is missing"),
        ("0.95 * v + ", "", "v forgets the steps before"),
        ("w * (1 - lr * decay) - lr * step", "(w - lr * step) * (1 - lr * decay)", "the decay comes after"),
        ("1 - lr * decay", "1 + lr * decay", "the weight grows"),
        ("1 - 0.9**t", "1 - 0.9 * t", "has b1 * t"),
        ("(m / (1", "(g / (1", "the step follows the gradient"),
        ("lr * step, m, v", "lr * step, m / (1 - 0.9**t), v / (1 - 0.95**t)", "the corrected moments"),
    ],
    "schedule": [
        ("step / warmup_steps", "(step + 1) / warmup_steps", "the warmup begins above 0"),
        ("/ (steps - warmup_steps)", "/ (steps - warmup_steps - 1)", "would reach 0 at step number"),
        ("/ (steps - warmup_steps)", "/ steps", "lasts steps - warmup_steps"),
        ("(step - warmup_steps) / (steps - warmup_steps)", "step / steps", "the cosine begins at step 0"),
        ("0.5 * (1 + math.cos(math.pi * done))", "(1 - done)", "the fall is a straight line"),
        ("math.pi * done", "2 * math.pi * done", "a whole cosine"),
        ("0.5 * (1 + math.cos(math.pi * done))", "1.0", "stays at its peak"),
        ("done = (step - warmup_steps)", "done = (step - warmup_steps + 1)", "begins one step early"),
        ("    if step", "    warmup_steps = 0\n    if step", "the warmup is missing"),
        ("    if step < warmup_steps:\n        return", "    warm =",
         "the cosine is taken in the warmup too"),
        ("peak * step / warmup_steps", "step / warmup_steps", "the peak is missing in the warmup"),
        ("peak * 0.5 *", "peak *", "the factor 0.5 is missing"),
        ("step / warmup_steps", "step / steps", "the warmup rises over all steps"),
        ("math.pi * done", "math.pi * done / 2", "ends at half of the peak"),
        ("math.pi * done", "done", "the angle is `done`"),
        ("math.cos(", "math.sin(", "this is a sine"),
        ("(1 + math", "(1 - math", "the rate rises after the warmup"),
        ("if step <", "if step >", "the two branches are exchanged"),
        ("peak * 0.5 * (1 +", "0.1 * peak + 0.9 * peak * 0.5 * (1 +", "ends at a tenth of the peak"),
        ("    return peak * 0.5", "    peak * 0.5", "it returned NoneType"),
        ("0.5 * (1 + math.cos(math.pi * done))", "math.cos(math.pi * done)", "the cosine alone"),
        ("0.5 * (1 + math.cos(math.pi * done))", "math.cos(math.pi / 2 * done)", "a quarter of a cosine"),
        ("(1 + math.cos(math.pi * done))", "math.cos(math.pi * done)", "the 1 is missing"),
        ("math.pi * done", "180 * done", "cos takes radians"),
        ("step / warmup_steps", "step / (warmup_steps - 1)", "one step early: divide by"),
        ("done = (step - warmup_steps)", "done = step", "the fall counts from step 0"),
        ("peak * step / warmup_steps", "peak", "the rate is at its peak in the warmup"),
        ("step / warmup_steps", "(step // warmup_steps)", "the rate is 0 in the warmup"),
        ("step / warmup_steps", "0.5 * (1 - math.cos(math.pi * step / warmup_steps))", "half a cosine too"),
        ("step / warmup_steps", "(1 - step / warmup_steps)", "the rate falls in the warmup"),
    ],
    "packing": [
        ("[*document, separator]", "[separator, *document]", "the separator comes before each document"),
        ("[*document, separator]", "document", "the separator after each document is missing"),
        ("[*document, separator]]", "[*document, separator]][:-1]", "the last row is missing"),
        ("len(stream) - seq_len + 1", "len(stream) - seq_len", "the last row is missing"),
        ("len(stream) - seq_len + 1", "len(stream)", "yours was kept"),
        ("    return", "    stream += [separator] * (-len(stream) % seq_len)\n    return", "was padded"),
        ("+ 1, seq_len)", "+ 1, seq_len - 1)", "the rows overlap"),
        ("    return [stream", "    return [([*document, separator] + [separator] * seq_len)[:seq_len] "
         "for document in documents]\n    return [stream", "a row of its own"),
        ("    return [stream", "    return [row for document in documents for row in [[*document, separator]"
         "[i:i + seq_len] for i in range(0, len(document) + 1, seq_len)]]\n    return [stream",
         "each document begins a new row"),
        ("[*document, separator]", "[separator, *document, separator]", "before and after each document"),
        ("    return", "    stream.append(separator)\n    return", "a separator too many"),
        ("range(0, len(stream) - seq_len + 1, seq_len)", "range(len(stream) // seq_len)", "one token after"),
        ("    return", "    return stream\n    return", "the list that it returned holds int"),
        ("    return", "    import numpy\n    return numpy.array(stream)\n    return", "holds int"),
        ("    return", "    return {0: stream}\n    return", "it returned dict"),
        ("    return", "    row, rows = [], []\n    for token in stream:\n        row.append(token)\n        "
         "if len(row) == seq_len:\n            rows.append(row)\n            row.clear()\n    return rows\n"
         "    return", "one and the same list"),
        ("[start:start + seq_len]", "[start:start + seq_len - 1] + [separator]", "only a document does"),
        ("in documents for", "in documents[1:] for", "the first document is missing"),
        ("in documents for", "in documents[:-1] for", "the last document is missing"),
        ("*document, separator", "*document[:seq_len - 1], separator", "longer than a row is cut"),
        ("    return", "    if len(stream) % seq_len:\n        return [*(stream[i:i + seq_len] for i in "
         "range(0, len(stream) - seq_len + 1, seq_len)), stream[-seq_len:]]\n    return",
         "the last row repeats tokens"),
        ("    return", "    return []\n    return", "no row came back"),
    ],
    "top_p": [
        ("before < p", "before + probability <= p", "the token that crosses p must be kept"),
        (".sort(descending=True)", ".sort()", "the least probable tokens are kept"),
        ("-math.inf).scatter", "0.0).scatter", "the removed tokens got 0"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])",
         "torch.cat([logits[kept], torch.full((len(logits) - len(kept),), -math.inf)])", "come back sorted"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])", "torch.softmax(logits, dim=0)",
         "probabilities come back"),
        ("scatter(0, kept, logits[kept])", "scatter(0, kept, logits[kept]).log_softmax(0)", "log-prob"),
        ("order[before < p]", "order[:int((before < p).sum()) + 1]", "one token too many"),
        ("order[before < p]", "order", "nothing is removed"),
        ("order[before < p]", "order[probability >= 1 - p]", "kept by their own probability"),
        ("order[before < p]", "order[probability > p]", "a probability above p"),
        ("torch.softmax(logits, dim=0).sort", "logits.sort", "take the softmax first"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])",
         "logits.masked_fill(before >= p, -math.inf)", "the mask is in sorted order"),
        ("order[before < p]", "order[:int(p * len(order))]", "a share p of the tokens"),
        ("before < p", "before < 1 - p", "p and 1 - p are exchanged"),
        ("before < p", "before > p", "that should be removed are kept"),
        ("kept, logits[kept]", "kept, logits", "the logits of other tokens"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])", "logits[kept]",
         "only the kept logits"),
        ("order[before < p]", "order[:1]", "only the most probable token is kept"),
        ("order[before < p]", "order[probability >= p * probability[0]]", "(min-p)"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])",
         "torch.zeros_like(logits).scatter(0, kept, 1.0)", "a mask comes back"),
        ("torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])", "kept", "the numbers of the"),
        ("logits[kept])", "torch.softmax(logits, dim=0)[kept])", "have their probabilities"),
    ],
    "ungreedy": [
        ("return best", "return longest", "this is greedy"),
        ("covered, 0, number, first", "covered, 0, 1, first", "`number` is 1, 2 and 3"),
        ("score > best_score", "score >= best_score", "of equal scores the last won"),
        (", records[longest].alt2)", ")", "the second alternative (alt2) is not tried"),
        ("best, best_score = first, score", "best, best_score = second, score", "return the first"),
        ("return best", "return records[best].token", "return the number of its record"),
        ("tokenizer.weigh(data, start, covered, 0, number, first, second, 0).score",
         "len(records[first].token) + len(records[second].token)", "the score of `weigh` decides"),
        ("start, covered, 0", "start, len(records[first].token), 0", "`covered` is the length of the"),
        ("score > best_score", "score < best_score", "the lowest score won"),
        ("start + len(records[first].token), end", "start + covered, end", "where the candidate ends"),
        ("best, best_score = first", "best, best_score = number", "the place among the candidates"),
        ("best, best_score = first", "best, best_score = records[first].id", "the id of the token"),
        ("records[longest].alt1, records[longest].alt2", "records[longest].alt2, records[longest].alt1",
         "alt2 is tried before alt1"),
        ("    return best", "", "is the last line a `return`"),
        ("best, best_score = longest, None", "best, best_score = longest, 0", "a score of 0 or less"),
        ("first, second, 0).score", "second, first, 0).score", "exchanged in `weigh`"),
        ("first, second, 0).score", "first, second, 0)", "the pairs are compared, not their scores"),
        ("if first is None", "if first in (None, longest)", "the longest token is missing"),
    ],
    "prefix_matching": [
        ("[s + 1 for s", "[s for s", "this is the weight on the earlier occurrences"),
        ("weights[:, t, followed]", "weights[:, t, [place - 2 for place in followed if place > 1]]",
         "what came before the earlier occurrences"),
        ("if ids[s] == ids[t]]", "if ids[s] == ids[t]][-1:]", "only the last earlier occurrence"),
        ("if ids[s] == ids[t]]", "if ids[s] == ids[t]][:1]", "only the first occurrence"),
        ("        if followed:\n    ", "", "the mean is over all positions"),
        ("followed].sum(dim=1)", "followed].mean(dim=1)", "the weights of one position are averaged"),
        ("weights[:, t, followed]", "weights[:, followed, t]", "rows and columns are exchanged"),
        (".mean(dim=0) ", ".mean() ", "the heads are averaged"),
        (".mean(dim=0) ", ".sum(dim=0) ", "the positions are added up"),
        (".mean(dim=0) ", ".mean(dim=1) ", "one number for each position"),
        ("followed].sum(dim=1)", "followed].max(dim=1).values", "the largest weight of a position"),
        ("[s + 1 for s", "[s + 2 for s", "two places after"),
        ("for s in range(t)", "for s in range(len(ids) - 1)", "whose token did not occur before"),
        ("for s in range(t)", "for s in range(1, t)", "position 0 is left out"),
        ("for s in range(t)", "for s in range(t - 1)", "where it is position t itself"),
        ("found.append(weights[:, t, followed].sum(dim=1))",
         "found += [weights[:, t, place] for place in followed]", "is averaged by itself"),
        (".mean(dim=0) ", ".max(dim=0).values ", "the largest position is taken"),
        ("ids[s] == ids[t]", "t and ids[s] == ids[t - 1]", "the token before t"),
        ("torch.stack(found).mean(dim=0)", "torch.stack(found)", "one row for each position"),
    ],
    "power_law": [
        ("(losses - floor).log()", "losses.log()", "the floor is not subtracted"),
        ("(losses - floor).log()", "(losses + floor).log()", "the floor is added"),
        ("-slope])", "slope])", "the sign of alpha is wrong"),
        ("(y.mean() - slope * x.mean()).exp()", "y.mean() - slope * x.mean()", "this is log(a), not a"),
        ("sizes.log(), (losses - floor).log()", "sizes.log10(), (losses - floor).log10()", "a = 10^height"),
        ("sizes.log(), (losses - floor).log()", "sizes, losses - floor", "no logarithm is taken"),
        ("sizes.log(), (losses - floor).log()", "sizes.log(), losses - floor", "the loss must be too"),
        ("sizes.log(), (losses - floor).log()", "(losses - floor).log(), sizes.log()",
         "x and y are exchanged"),
        ("[(y.mean() - slope * x.mean()).exp(), -slope]", "[-slope, (y.mean() - slope * x.mean()).exp()]",
         "a and alpha are exchanged"),
        ("    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()",
         "    slope = (x * y).sum() / (x * x).sum()", "subtract the means first"),
        ("    return", "    slope = (y[-1] - y[0]) / (x[-1] - x[0])\n    return torch.stack([(y[0] - slope * "
         "x[0]).exp(), -slope])\n    return", "the first and the last point only"),
        ("(losses - floor).log()", "losses.log() - floor", "subtracted from the logarithm"),
        ("(losses - floor)", "(losses / floor)", "the loss is divided by the floor"),
        ("(losses - floor)", "(floor - losses)", "only a positive number has a logarithm"),
        ("sizes.log(), (losses - floor).log()", "sizes.log2(), (losses - floor).log2()", "a = 2^height"),
        (".sum() / ((x - x.mean()) ** 2).sum()", ".mean() / x.var()", "by n and the other by n - 1"),
        ("(y.mean() - slope * x.mean())", "y.mean()", "the height in the middle of the points"),
        ("(y.mean() - slope * x.mean())", "(y.mean() + slope * x.mean())", "here it is added"),
        ("(y.mean() - slope * x.mean())", "(y[0] - slope * x[0])", "a comes from one point"),
        ("-slope])", "-1 / slope])", "this is 1 / alpha"),
        ("-slope])", "(-slope).exp()])", "alpha is the slope itself"),
        (".exp(), -slope", ".exp() + floor, -slope", "the floor is added to a"),
        ("sizes.log()", "sizes.log10()", "the logarithms have two bases"),
        ("((x - x.mean()) ** 2).sum()", "(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()).sqrt()",
         "this is the correlation"),
        ("    return", "    slope = (y[-1] - y[0]) / (x[-1] - x[0])\n    return", "the slope is that of"),
    ],
}
# exercise -> bodies of right answers in another style: loops, einsum, numpy, in place
RIGHT = {
    "rms_norm": [
        """
    y = x.tolist()
    for row in y:
        for vector in row:
            size = math.sqrt(sum(number**2 for number in vector) / len(vector) + eps)
            vector[:] = [number / size * w for number, w in zip(vector, weight.tolist())]
    return y""", """
    x /= (torch.einsum("btd,btd->bt", x, x) / x.shape[2] + eps).sqrt()[..., None]
    return x.mul_(weight)""", """
    x = x.numpy()
    return x / numpy.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight.numpy()"""],
    "rotary": [
        """
    y = torch.empty_like(x)
    for n in range(x.shape[2]):
        for j in range(x.shape[3] // 2):
            w = n * theta ** (-2 * j / x.shape[3])
            a, b = x[:, :, n, j], x[:, :, n, j + x.shape[3] // 2]
            y[:, :, n, j] = a * math.cos(w) - b * math.sin(w)
            y[:, :, n, j + x.shape[3] // 2] = b * math.cos(w) + a * math.sin(w)
    return y""", """
    a, b = x.chunk(2, dim=3)
    w = torch.einsum("t,f->tf", torch.arange(x.shape[2]) * 1.0, theta ** -torch.linspace(0, 1, 5)[:-1])
    z = torch.complex(a, b) * torch.polar(torch.ones_like(w), w)
    return torch.cat([z.real, z.imag], dim=3)"""],
    "attention": [
        """
    y, group = torch.zeros_like(q), q.shape[1] // k.shape[1]
    for b, h, t in numpy.ndindex(q.shape[:3]):
        weight = torch.softmax(k[b, h // group, :t + 1] @ q[b, h, t] / math.sqrt(q.shape[3]), dim=0)
        y[b, h, t] = weight @ v[b, h // group, :t + 1]
    return y""", """
    q = q.unflatten(1, (k.shape[1], -1))
    score = torch.einsum("bkgtf,bksf->bkgts", q, k) / math.sqrt(q.shape[4])
    score = score + torch.full(score.shape[3:], -math.inf).triu(1)
    return torch.einsum("bkgts,bksf->bkgtf", score.softmax(4), v).flatten(1, 2)"""],
    "swiglu": ["""
    g, u = torch.einsum("btd,md->btm", x, gate), torch.einsum("btd,md->btm", x, up)
    return torch.einsum("btm,dm->btd", g / (1 + torch.exp(-g)) * u, down)""", """
    x, gate, up, down = (weight.numpy() for weight in (x, gate, up, down))
    return (x @ gate.T / (1 + numpy.exp(-x @ gate.T)) * (x @ up.T)) @ down.T"""],
    "cross_entropy": ["""
    losses = [torch.logsumexp(logits[b, t], dim=0) - logits[b, t, input_ids[b, t + 1]]
              for b in range(len(logits)) for t in range(logits.shape[1] - 1)]
    return float(sum(losses)) / len(losses)""", """
    x = logits.numpy()[:, :-1]
    top = x.max(axis=2, keepdims=True)
    chosen = numpy.take_along_axis(x, input_ids.numpy()[:, 1:, None], 2)
    return numpy.mean(numpy.log(numpy.exp(x - top).sum(2, keepdims=True)) + top - chosen)"""],
    "adamw": ["""
    w.mul_(1 - lr * decay)
    m.lerp_(g, 0.1)
    v.mul_(0.95).addcmul_(g, g, value=0.05)
    w -= lr / (1 - 0.9**t) * m / (torch.sqrt(v / (1 - 0.95**t)) + 1e-8)
    return [w, m, v]"""],
    "schedule": ["""
    rise = numpy.float32(min(1, step / warmup_steps))
    done = max(0, step - warmup_steps) / (steps - warmup_steps)
    return rise * peak * numpy.cos(numpy.pi / 2 * done) ** 2""",
                 """
    if step <= warmup_steps:
        return torch.tensor(peak * step / warmup_steps)
    done = torch.tensor((step - warmup_steps) / (steps - warmup_steps))
    return peak / 2 * (1 + torch.cos(math.pi * done))"""],
    "packing": ["""
    rows, row = [], []
    for document in documents:
        for token in [*document, separator]:
            row.append(token)
            if len(row) == seq_len:
                rows.append(tuple(row))
                row = []
    return tuple(rows)""", """
    stream = numpy.concatenate([[*document, separator] for document in documents])
    return stream[:len(stream) // seq_len * seq_len].reshape(-1, seq_len)"""],
    "top_p": ["""
    kept, total = [-math.inf] * len(logits), 0.0
    for token in logits.argsort(descending=True).tolist():
        if total < p:
            kept[token] = float(logits[token])
        total += float(logits.softmax(0)[token])
    return kept""", """
    chance = torch.softmax(logits, dim=0)
    above = torch.einsum("ij,j->i", (chance[None, :] > chance[:, None]).float(), chance)
    logits[above >= p] = -math.inf
    return logits"""],
    "ungreedy": ["""
    records, end = tokenizer.vocab.records, len(data) - 1
    top = tokenizer.longest(data, start, end)
    found = []
    for number, first in enumerate([top, records[top].alt1, records[top].alt2], 1):
        second = None if first is None else tokenizer.longest(data, start + len(records[first].token), end)
        if second is not None:
            pair = tokenizer.weigh(data, start, len(records[top].token), 0, number, first, second, 0)
            found.append((-pair.score, number, first))
    return min(found)[2] if found else top"""],
    "prefix_matching": ["""
    before = (ids[:, None] == ids) & torch.ones(len(ids), len(ids)).tril(-1).bool()
    weight = torch.einsum("hts,ts->ht", weights[:, :, 1:], before[:, :-1].float())
    return weight[:, before.any(dim=1)].mean(dim=1)""", """
    scores = []
    for head in weights.tolist():
        found = [[head[t][s + 1] for s in range(t) if ids[s] == ids[t]] for t in range(len(ids))]
        found = [sum(places) for places in found if places]
        scores.append(sum(found) / len(found))
    return scores"""],
    "power_law": ["""
    slope, height = numpy.polyfit(numpy.log(sizes), numpy.log(losses - floor), 1)
    return numpy.exp(height), -slope""", """
    x = torch.stack([torch.ones_like(sizes), sizes.log()], dim=1)
    height, slope = torch.linalg.lstsq(x, (losses - floor).log()[:, None]).solution[:, 0]
    return torch.stack([height.exp(), -slope])"""],
}
ROUNDS = max(map(len, WRONG.values()))
MANY = """\
import sys
import pytest
for answers in sys.argv[2:]:
    print("graded:", answers)
    tests = [f"{sys.argv[1]}/test_{name}.py" for name in open(f"{answers}/names").read().split()]
    pytest.main(["-p", "no:cacheprovider", "-q", *tests, f"--answers={answers}"])
"""


def grade(answers: Path, *names: str) -> tuple[int, str]:
    """Exit code and output of grading these answers."""
    tests = [str(EXERCISES / f"test_{name}.py") for name in names]
    return run_pytest(*tests, f"--answers={answers}")


def test_every_exercise_has_stub_grader_solution_and_a_wrong_answer():
    stubs = {file.stem for file in EXERCISES.glob("*.py")} - {"conftest", "grading"}
    assert {name for name in stubs if not name.startswith("test_")} == set(NAMES) == set(WRONG)
    assert {name.removeprefix("test_") for name in stubs if name.startswith("test_")} == set(NAMES)


def test_solutions_pass():
    code, printed = grade(EXERCISES / "solutions", *NAMES)
    assert code == 0, printed


def test_stubs_are_not_written_yet():
    code, printed = grade(EXERCISES, *NAMES)
    missing = re.findall(r"^not written yet: \w+ in lessons/exercises/(\w+)\.py", printed, re.MULTILINE)
    assert code == 1 and set(missing) == set(NAMES), printed


def test_stub_and_solution_have_the_same_signature():
    for name in NAMES:
        lines = [next(line for line in file.read_text().splitlines() if line.startswith("def "))
                 for file in (EXERCISES / f"{name}.py", EXERCISES / "solutions" / f"{name}.py")]
        assert lines[0] == lines[1], name


@pytest.mark.ci
def test_wrong_answers_get_the_line_that_helps(tmp_path):
    """Round n grades wrong answer n of every exercise that has so many; one process grades all rounds."""
    rounds = [{name: wrong[n] for name, wrong in WRONG.items() if n < len(wrong)} for n in range(ROUNDS)]
    folders = [tmp_path / str(n) for n in range(ROUNDS)]
    for folder, chosen in zip(folders, rounds):
        folder.mkdir()
        (folder / "names").write_text(" ".join(chosen))
        for name, (right, wrong, _) in chosen.items():
            text = (EXERCISES / "solutions" / f"{name}.py").read_text(encoding="utf-8")
            assert right in text, f"the solution of {name} no longer holds {right!r}"
            (folder / f"{name}.py").write_text(text.replace(right, wrong))
    done = subprocess.run([sys.executable, "-c", MANY, str(EXERCISES), *map(str, folders)], cwd=ROOT,
                          capture_output=True, text=True)
    parts = done.stdout.split("graded: ")[1:]
    assert len(parts) == ROUNDS, done.stdout + done.stderr
    silent = [(name, wrong, message) for chosen, printed in zip(rounds, parts)
              for name, (_, wrong, message) in chosen.items() if message not in printed]
    assert not silent, silent
    for chosen, printed in zip(rounds, parts):
        failed = set(re.findall(r"^FAILED \S*test_(\w+)\.py", printed, re.MULTILINE))
        assert failed == set(chosen), printed


@pytest.mark.ci
@pytest.mark.parametrize("number", range(max(map(len, RIGHT.values()))))
def test_right_answers_in_another_style_are_accepted(number, tmp_path):
    chosen = {name: bodies[number] for name, bodies in RIGHT.items() if number < len(bodies)}
    for name, body in chosen.items():
        text = (EXERCISES / f"{name}.py").read_text(encoding="utf-8").split("    raise NotImpl")[0]
        text = text.replace("annotations\n", "annotations\n\nimport math\n\nimport numpy\nimport torch\n", 1)
        (tmp_path / f"{name}.py").write_text(text + body.lstrip("\n") + "\n", encoding="utf-8")
    code, printed = grade(tmp_path, *chosen)
    assert code == 0, printed


def test_every_exercise_has_six_wrong_answers():
    assert all(len({wrong for _, wrong, _ in answers}) >= 6 for answers in WRONG.values())


def test_an_error_shows_the_readers_own_line(tmp_path):
    text = (EXERCISES / "solutions" / "rms_norm.py").read_text(encoding="utf-8")
    (tmp_path / "rms_norm.py").write_text(text.replace("* weight", "* wieght"))
    (tmp_path / "swiglu.py").write_text("def swiglu(x, gate, up, down):\n    return (x\n")
    (tmp_path / "top_p.py").write_text("def top_p(logits):\n    return logits\n")
    (tmp_path / "packing.py").write_text("def pack(documents, separator, seq_len):\n    exit()\n")
    code, printed = grade(tmp_path, "rms_norm", "swiglu", "top_p", "packing")
    assert "packing.py, line 2:\n    exit()\nSystemExit: " in printed, printed
    assert code == 1 and "NameError: name 'wieght' is not defined" in printed, printed
    assert "rms_norm.py, line 11:\n    return x * torch.rsqrt(mean_square + eps) * wieght" in printed, printed
    assert "swiglu.py, line 2:\n    return (x\nSyntaxError: '(' was never closed" in printed, printed
    assert "top_p raised TypeError: top_p() takes 1 positional argument but 2 were given" in printed, printed
    assert "grading.py" not in printed and "importlib" not in printed and "Traceback" not in printed, printed


def test_an_infinity_is_shown_as_one(tmp_path):
    text = (EXERCISES / "solutions" / "top_p.py").read_text(encoding="utf-8")
    (tmp_path / "top_p.py").write_text(text.replace("-math.inf", "-1e30"))
    code, printed = grade(tmp_path, "top_p")
    assert code == 1 and "expected -inf" in printed, printed


def test_a_missing_or_renamed_answer_is_named(tmp_path):
    shutil.copy(EXERCISES / "solutions" / "rms_norm.py", tmp_path / "top_p.py")
    code, printed = grade(tmp_path, "top_p", "swiglu")
    assert code == 1 and "defines no top_p" in printed and "swiglu.py is missing: copy it" in printed, printed
