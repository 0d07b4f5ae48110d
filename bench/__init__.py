# SPDX-License-Identifier: Apache-2.0
"""What README and BENCHMARKS show: the measurements behind their figures, and README's two pictures.

`python -m bench.NAME` runs one.

Read `training_step.py` (a step beside other implementations), `attention.py` (its forms on a CPU),
`decoding.py` (a token), `pipeline.py` (data), `encoder.py`, `scoring.py`, `recipes.py`, `shakespeare.py`,
`weight_forms.py`, `torchtpu_on_cpu.py`, `tpu_compile.py`, `readme_picture.py`. May import: everything.
"""
