# SPDX-License-Identifier: Apache-2.0
"""What the figures of README and BENCHMARKS were measured with. Each file is a command: `python -m
bench.NAME`.

Read `training_step.py` (a step beside other implementations), `attention.py` (its forms on a CPU),
`decoding.py` (a token), `pipeline.py` (data), `encoder.py`, `scoring.py`, `recipes.py`, `weight_forms.py`,
`tpu_compile.py`. May import: everything.
"""
