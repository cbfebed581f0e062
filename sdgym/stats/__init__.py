"""Statistics of comparisons, every definition with its reference. NumPy; SciPy is imported where it is used.

``basic.py`` means, pass@k, Holm, sign-flip test · ``hierarchy.py`` the bootstrap over checkpoint > seed > task ·
``compare.py`` ranking, contrasts, profiles, agreement · ``curves.py`` area and budget to a threshold ·
``records.py`` from per-item records to cells.

References: Agarwal et al. 2021 (Deep RL at the edge of the statistical precipice, NeurIPS); Chen et al. 2021 (Evaluating
large language models trained on code); Davison & Hinkley 1997 (Bootstrap methods and their application); Efron &
Tibshirani 1993 (An introduction to the bootstrap); Hake 1998 (Am. J. Phys. 66, 64); Holm 1979 (Scand. J. Statist. 6, 65);
Kendall 1945 (Biometrika 33, 239); Owen 2007 (The pigeonhole bootstrap, Ann. Appl. Stat. 1, 386); Saravanan et al. 2020
(Application of the hierarchical bootstrap to multi-level data in neuroscience).
"""

from sdgym.stats.basic import MIN_SEEDS, Estimate, bootstrap_interval, estimate, holm, pass_at_k, percentile_interval, sign_flip_test
from sdgym.stats.compare import (
    Agreement,
    Contrast,
    Profile,
    Rank,
    contrasts,
    kendall_rows,
    mean_score,
    pooled_score,
    probability_of_improvement,
    profile,
    rank_agreement,
    ranking,
)
from sdgym.stats.curves import area_under_curve, budget_to_threshold
from sdgym.stats.hierarchy import Cell, Design, Measure, RunKey, interquartile_mean, normalised_gain, weighted_mean
from sdgym.stats.records import ScoredRun, build_cells, success_rates

__all__ = [
    "MIN_SEEDS",
    "Agreement",
    "Cell",
    "Contrast",
    "Design",
    "Estimate",
    "Measure",
    "Profile",
    "Rank",
    "RunKey",
    "ScoredRun",
    "area_under_curve",
    "bootstrap_interval",
    "budget_to_threshold",
    "build_cells",
    "contrasts",
    "estimate",
    "holm",
    "interquartile_mean",
    "kendall_rows",
    "mean_score",
    "normalised_gain",
    "pass_at_k",
    "percentile_interval",
    "pooled_score",
    "probability_of_improvement",
    "profile",
    "rank_agreement",
    "ranking",
    "sign_flip_test",
    "success_rates",
    "weighted_mean",
]
