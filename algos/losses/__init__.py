"""Losses: pure functions with named directions, and frozen objects with the interface :class:`sdgym.objective.TokenLoss`.

``policy_gradient.py`` clipped surrogates and reference KL · ``divergence.py`` directions, supports, residuals ·
``distill.py`` distillation terms · ``importance.py`` importance-weighted reverse KL · ``hinge.py`` a good and a bad teacher · ``sequence.py`` likelihood and
unpaired preference.
"""

from sdgym.algos.losses.distill import DistillLoss, SharpenLoss
from sdgym.algos.losses.hinge import HingeLoss
from sdgym.algos.losses.importance import ImportanceWeightedKL
from sdgym.algos.losses.policy_gradient import PolicyGradientLoss
from sdgym.algos.losses.sequence import BCOLoss, NLLLoss

__all__ = ["BCOLoss", "DistillLoss", "HingeLoss", "ImportanceWeightedKL", "NLLLoss", "PolicyGradientLoss", "SharpenLoss"]
