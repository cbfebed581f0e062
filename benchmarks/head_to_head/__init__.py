"""Head-to-head comparison: the same worlds, the same start, the same steps, paired seeds, one report.

``suite.py`` what is compared · ``trials.py`` one run and its cache key · ``runner.py`` processes and the budget ·
``display.py`` the terminal · ``compare.py`` puts them together.
"""

from sdgym.benchmarks.head_to_head.compare import Comparison, run_suite

__all__ = ["Comparison", "run_suite"]
