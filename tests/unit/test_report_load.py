"""What a report reads from a run folder beside its numbers."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from sdgym.report.load import load_run


@pytest.mark.parametrize(
    ("algo", "supervision"),
    [
        ({"name": "opsd"}, "reference"),
        ({"name": "uni_opd"}, "external"),
        ({"name": "uni_opd", "overrides": {"teacher": "frozen"}}, "reward"),
        ({"name": "uni_opd", "overrides": {"teacher": "frozen", "contexts": ["reference"]}}, "reference"),
        ({"name": "somebody.elses:Method", "overrides": {"a": 1}}, "?"),
    ],
)
def test_the_class_of_supervision_is_that_of_the_settings(algo: dict[str, object], supervision: str, tmp_path: pathlib.Path) -> None:
    config = {"algo": algo, "env": {"id": "sdgym/Math-v0", "kwargs": {}}, "model": "tiny", "seed": 0, "steps": 1, "eval": {"split": "val"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("metrics.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text("")
    assert load_run(tmp_path).supervision == supervision
