"""Run another script, or sdgym's command line, under DeepSpeed on a CPU without compiling DeepSpeed's shared-memory kernels first.

with_deepspeed.py SCRIPT.py ARGUMENTS…   or   with_deepspeed.py sdgym ARGUMENTS…
"""

from __future__ import annotations

import runpy
import sys

import deepspeed.ops

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does the same, and a compiler may be missing or slow
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
