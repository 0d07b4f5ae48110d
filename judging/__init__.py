# SPDX-License-Identifier: Apache-2.0
"""The command line of evaluate.py: scoreboard, GSM8K, training curves, lm-eval's own harness.

Read `scoreboard.py` first, then `gsm8k.py`, `curve.py`, `fetch_blimp.py`, `lm_eval_model.py`. May import:
everything up to evaluate.
"""
