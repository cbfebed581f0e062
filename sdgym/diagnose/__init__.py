"""Does a teacher's gradient point where the reward does? The alignment probe of "Unmasking On-Policy Distillation", arXiv 2605.10889.

``alignment.py`` pure measures · ``probe.py`` rollouts and logits · ``branches.py`` forced tokens to judged episodes · ``page.py`` a page of its own
"""

from sdgym.diagnose.alignment import SIGNALS, Group, State, cosine, groups, ideal_gradient, within
from sdgym.diagnose.branches import Replayed
from sdgym.diagnose.probe import ProbeSettings, probe

__all__ = ["SIGNALS", "Group", "ProbeSettings", "Replayed", "State", "cosine", "groups", "ideal_gradient", "probe", "within"]
