"""Predictions: what each paper leads one to expect, committed before the runs, checked against declared contrasts."""

from __future__ import annotations

import dataclasses
import importlib.resources
import pathlib
from collections.abc import Sequence
from typing import Literal

import pydantic
import yaml

from sdgym.config import explain
from sdgym.errors import ConfigError
from sdgym.stats import Contrast

Result = Literal["confirmed", "contradicted", "not confirmed", "too few runs", "not tested"]


class Prediction(pydantic.BaseModel):
    """One expectation.

    Attributes:
        treatment, control: arms.
        expect: direction of treatment − control.
        source: where it comes from.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    treatment: str
    control: str
    expect: Literal["higher", "lower"]
    source: str = pydantic.Field(min_length=10)


@dataclasses.dataclass(frozen=True)
class Checked:
    """A prediction beside what was found; ``contrast`` is None where the comparison did not declare it."""

    prediction: Prediction
    contrast: Contrast | None

    @property
    def result(self) -> Result:
        """``confirmed`` and ``contradicted`` need a shown difference; otherwise the data do not decide."""
        if self.contrast is None:
            return "not tested"
        found = self.contrast.verdict
        if found == "too few runs":
            return "too few runs"
        if found == "no difference shown":
            return "not confirmed"
        return "confirmed" if found == self.prediction.expect else "contradicted"


def load_predictions(path: str | pathlib.Path | None = None) -> list[Prediction]:
    """Read predictions, by default those committed with sdgym.

    Raises:
        ConfigError: an entry is malformed, or a contrast is predicted twice.
    """
    place = importlib.resources.files("sdgym.benchmarks") / "predictions.yaml" if path is None else pathlib.Path(path)
    entries = yaml.safe_load(place.read_text(encoding="utf-8"))
    try:
        found = [Prediction.model_validate(entry) for entry in entries]
    except pydantic.ValidationError as error:
        raise ConfigError(f"predictions: {explain(error, Prediction)}") from None
    seen: set[frozenset[str]] = set()
    for prediction in found:
        pair = frozenset((prediction.treatment, prediction.control))
        if pair in seen:
            raise ConfigError(f"predictions: {prediction.treatment} and {prediction.control} are compared twice")
        seen.add(pair)
    return found


def check(predictions: Sequence[Prediction], contrasts: Sequence[Contrast]) -> list[Checked]:
    """Return every prediction with the contrast that tests it; contrasts per world are not looked at, a reversed pair is turned."""
    pooled = {(c.treatment, c.control): c for c in contrasts if not c.world}
    found = []
    for p in predictions:
        contrast = pooled.get((p.treatment, p.control))
        if contrast is None and (p.control, p.treatment) in pooled:
            contrast = pooled[p.control, p.treatment].reversed()
        found.append(Checked(p, contrast))
    return found
