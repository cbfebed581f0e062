"""Self-revision, SD-Zero's first phase: settings, tuples (x, y, P_r, y') and the pool they are drawn from."""

from sdgym.algos.self_revision.config import SDZeroConfig
from sdgym.algos.self_revision.data import Revision, attempts, revise
from sdgym.algos.self_revision.pool import RevisionPool, Stage

__all__ = ["Revision", "RevisionPool", "SDZeroConfig", "Stage", "attempts", "revise"]
