# SPDX-License-Identifier: Apache-2.0
"""Where a run computes: CPU, CUDA, MPS, XLA, several processes; and which attention kernel runs there.

Read `device.py` (the plain device), `open.py` (which one a run gets, and why), `xla.py` (the TPU through
torch_xla), `attention_gpu.py`, `attention_tpu.py`, `keep_memory.py` (one switch of the allocator). May
import: common, model.
"""
