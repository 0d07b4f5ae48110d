# SPDX-License-Identifier: Apache-2.0
"""Where a run computes: CPU, CUDA, MPS, TPU, one process or several; and which attention kernel it uses.

Read `device.py` (the plain device), `open.py` (which one a run gets, and why), `torchtpu.py` and `xla.py` (a
TPU through TorchTPU or torch_xla), `attention_cpu.py`, `attention_gpu.py`, `attention_tpu.py`, `loss_cpu.py`.
May import: common, model.
"""
