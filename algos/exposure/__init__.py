"""How much of the reference a teacher is shown: the partial conditioner, and a controller that learns the share (ATESD)."""

from sdgym.algos.exposure.controller import BetaController, progress_reward
from sdgym.algos.exposure.partial import PartialReference, shown

__all__ = ["BetaController", "PartialReference", "progress_reward", "shown"]
