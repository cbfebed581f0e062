"""The presets as points of the composition: a table whose every cell links to the code that implements it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sdgym.algos.base import Algorithm
from sdgym.algos.compose import Composed
from sdgym.algos.composition.settings import CompositionConfig
from sdgym.algos.conditioning import conditioners
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.opsd import OPSD
from sdgym.algos.presets import build_algorithm, load_preset, preset_names
from sdgym.algos.sdpo import SDPO
from sdgym.algos.settings import DistillSettings, UpdateSettings

START, END = "<!-- table: sdgym algos table -->", "<!-- end of table -->"
HEADER = ("preset", "status", "base", "context", "weights", "views", "signal", "divergence", "token weight", "rows", "combination", "mean")
NAMED = ("grpo", "dr_grpo", "opsd_v1", "opsd_v3", "sdft", "sdpo_rich", "sdpo_norich", "sdpo_hybrid")
"""Presets that have a class of their own and are points of the composition all the same; tests hold them to it."""
SHORT = {"forward_kl": "FKL", "reverse_kl": "RKL", "jensen_shannon": "JSD", "mixed": "FKL + RKL"}
MEANS = {"token_mean_global": "tokens", "token_mean_micro": "tokens, micro-batch", "seq_mean_token_mean": "rows of token means"}
MEANS |= {"seq_mean_token_sum": "rows of token sums", "token_sum_norm": "token sum / L"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a preset does on one axis, and the file (from the project's top) that implements it; several where ``more`` follow."""

    text: str
    path: str = ""
    more: tuple[Cell, ...] = ()

    def markdown(self) -> str:
        """Return the cell as links from a page in ``docs/``."""
        own = f"[{self.text}](../{self.path})" if self.path else self.text
        return " · ".join([own, *(cell.markdown() for cell in self.more)])


NOTHING = Cell("–")


def composition_of(algorithm: Algorithm) -> CompositionConfig | None:
    """Return the composition that ``algorithm`` is: its own settings, or those that say the same; None for another kind of method."""
    config = algorithm.config
    if isinstance(config, CompositionConfig):
        return config
    shared = {name: getattr(config, name) for name in CompositionConfig.model_fields if hasattr(config, name)}
    if isinstance(algorithm, SDPO):
        weight = algorithm.config.policy_weight
        return CompositionConfig(**shared | {"contexts": [algorithm.config.context], "combine": "sum" if weight else "replace"})
    return CompositionConfig(**shared | {"contexts": ["reference"]}) if isinstance(algorithm, OPSD) else None


def rows() -> list[tuple[Cell, ...]]:
    """Return one row per preset of the family: the named points first, then the composed presets by name."""
    composed = [name for name in preset_names() if load_preset(name).algorithm == Composed.name]
    return [_row(name, build_algorithm(name)) for name in (*NAMED, *composed)]


def axes(name: str, algorithm: Algorithm) -> dict[str, str]:
    """Return axis → what ``algorithm`` does there, of the table's axes those that it moves, in order; ``name`` is its preset's."""
    if isinstance(algorithm, GRPO) or composition_of(algorithm) is not None:
        cells = dict(zip(HEADER, _row(name, algorithm), strict=True))
    else:
        c, policy = algorithm.config, getattr(algorithm.config, "policy", None)
        cells = {"base": _base(policy)} if isinstance(policy, GRPOConfig) else {}
        cells |= {"divergence": _divergence(c)} if isinstance(c, DistillSettings) else {}
        cells |= {"mean": _mean(c.aggregation)} if isinstance(c, UpdateSettings) else {}
    found = {axis: " · ".join(part.text for part in (cell, *cell.more)) for axis, cell in cells.items() if cell != NOTHING}
    return {axis: found[axis] for axis in HEADER[2:] if axis in found and axis not in ("context", "weights")}


def _row(name: str, algorithm: Algorithm) -> tuple[Cell, ...]:
    preset = Cell(name, f"algos/presets/{name}.yaml"), Cell(load_preset(name).status, "algos/presets/__init__.py")
    if isinstance(algorithm, GRPO):
        return (*preset, _base(algorithm.config), *[NOTHING] * 8, _mean(algorithm.config.aggregation))
    c = composition_of(algorithm)
    assert c is not None
    base = _base(c.policy) if c.combine != "replace" else NOTHING
    if c.reward == "cosine":
        base = Cell(f"{base.text}, cosine length", "algos/composition/rewards.py")
    mean = _mean(c.policy.aggregation if c.signal == "modulate" else c.aggregation)
    combine = _combine(c)
    if name == "sdpo_hybrid":
        combine = Cell("sum, .9 and .1", "algos/sdpo.py")
    return (*preset, base, _context(c), _weights(c), _views(c), _signal(c), _divergence(c), _token_weight(c), _rows(c), combine, mean)


def _base(c: GRPOConfig) -> Cell:
    scale = {"group": "GRPO", "batch": "GRPO, batch scale", "none": "Dr.GRPO"}[c.scale]
    return Cell(scale, "algos/advantages.py")


def _mean(aggregation: str) -> Cell:
    return Cell(MEANS[aggregation], "sdgym/objective.py")


def _context(c: CompositionConfig) -> Cell:
    place = {"user": "", "system": " (system)", "response": " (after the header)"}[c.placement]
    views = [Cell(f"{kind.replace('_', ' ')}{place}", _file(conditioners.get(kind))) for kind in c.contexts]
    edited = [Cell("pass rate stated", "algos/composition/rewriting.py")] if c.rewrite != "none" else []
    return dataclasses.replace(views[0], more=(*views[1:], *edited))


def _file(cls: type) -> str:
    """Return where a class of the project is written."""
    return cls.__module__.removeprefix("sdgym.").replace(".", "/") + ".py"


def _weights(c: CompositionConfig) -> Cell:
    every = f" every {c.teacher_every}" if c.teacher_every > 1 else ""
    text = {"ema": f"ema {c.teacher_rate:g}{every}", "periodic": f"synchronised{every}"}.get(c.teacher, c.teacher.replace("_", " "))
    reset = f", reset {c.teacher_reset}" if c.teacher == "ema" and c.teacher_reset else ""
    return Cell(text + reset, "sdgym/teacher.py")


def _views(c: CompositionConfig) -> Cell:
    if len(c.contexts) == 1 and c.mixture == "single":
        return Cell("one", "algos/composition/views.py")
    path = {"sum": "algos/composition/assembly.py"}.get(c.mixture, "algos/composition/views.py")
    target = c.signal == "target" and c.mixture in ("geometric", "arithmetic")
    return Cell(c.mixture, "algos/losses/divergence.py" if target else path)


def _signal(c: CompositionConfig) -> Cell:
    if c.signal == "target":
        return Cell("target", "algos/losses/distill.py")
    e, said = c.evidence, [c.signal.replace("_", " ")]
    said += [f"±{e.clip:g}"] if c.signal == "modulate" else []
    said += ["centred"] if e.centre else []
    said += [f"margin {e.margin:g}"] if e.margin else []
    return Cell(", ".join(said), "algos/composition/credit.py")


def _divergence(c: DistillSettings) -> Cell:
    if isinstance(c, CompositionConfig) and c.signal != "target":
        return Cell("sampled", "algos/losses/policy_gradient.py")
    kind = f"JSD {c.alpha:g}" if c.divergence == "jensen_shannon" else SHORT[c.divergence]
    over = {"full": "full", "sampled": "sampled"}.get(c.support, f"{c.support.removesuffix('_topk')} top {c.top_k}, {_residual(c)}")
    clip = f", clip {c.pointwise_clip:g}" if c.pointwise_clip else ""
    path = "distill" if c.support == "sampled" else "divergence"
    return Cell(f"{kind} {over}{clip}", f"algos/losses/{path}.py")


def _residual(c: DistillSettings) -> str:
    stopped = c.residual == "none" and c.divergence == "reverse_kl"
    return "stop-gradient" if stopped else c.residual.replace("_", " ")


def _token_weight(c: CompositionConfig) -> Cell:
    said = [] if c.token_weight.kind == "none" else [c.token_weight.kind.replace("_", " ")]
    said += [f"mean one per {c.token_weight.normalise}"] if said and c.token_weight.normalise != "none" else []
    said += [f"skip {c.skip_first}"] if c.skip_first else []
    said += [f"first {c.last_token}"] if c.last_token else []
    return Cell(", ".join(said), "algos/composition/token_weights.py") if said else Cell("1", "algos/composition/token_weights.py")


def _rows(c: CompositionConfig) -> Cell:
    w = c.sample_weight
    said: list[str] = [] if c.route == "all" else [c.route]
    said += [f"p^{w.alpha:g}(1−p)^{w.beta:g}"] if w.alpha or w.beta else []
    said += ["1 − reward"] if c.context_weights == "failure" else []
    return Cell(", ".join(said), "algos/composition/sample_weights.py") if said else Cell("all", "algos/composition/sample_weights.py")


def _combine(c: CompositionConfig) -> Cell:
    s = c.strength
    fading = f" λ {s.start:g}" if s.end is None else f" λ {s.start:g} → {s.end:g} in {s.hold + s.steps}"
    text = c.combine + (fading if c.combine in ("sum", "modulate") else "")
    text += f", hinge {c.hinge.weight:g}" if c.hinge.weight else ""
    return Cell(text, "algos/composition/assembly.py" if c.combine in ("shared", "modulate") else "algos/compose.py")


def markdown(table: Sequence[Sequence[Cell]] | None = None) -> str:
    """Return the table as Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(cell.markdown() for cell in row) + " |" for row in (rows() if table is None else table)]
    return "\n".join(lines)


def updated(page: str) -> str:
    """Return the text of a page with the table between its two marks made anew.

    Raises:
        ValueError: the marks are missing.
    """
    head, found, rest = page.partition(START)
    _, ended, tail = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the page lacks the marks {START} and {END}")
    return f"{head}{START}\n{markdown()}\n{END}{tail}"
