"""Results on pages: they agree with what is committed, each method has its place, verdicts are those of the contrasts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil

import pytest

from sdgym.algos.presets import load_preset
from sdgym.benchmarks.head_to_head import pages as p
from sdgym.benchmarks.head_to_head.predictions import Prediction, check, load_predictions
from sdgym.errors import ConfigError
from sdgym.stats import Contrast, Estimate

# the methods of the wider family, each with a page, a status, a prediction and a place for results
ISSUE = [
    "rlsd",
    "cepo",
    "srpo",
    "paced",
    "sc_sdpo",
    "avsd",
    "selfci",
    "pw_opsd",
    "sg_topk",
    "hindsight",
    "uni_opd",
    "pi_opsd",
    "tt_opd",
    "unisd",
    "caopd",
    "rltf_sd",
    "rltf_fm",
    "trace",
    "pi_distill",
    "atesd",
    "tsd_kd",
    "curio_sft",
    "score",
    "rerest",
    "bstar",
    "revise",
    "mr_rlvr",
    "pu_rl",
    "pu_pairs",
    "sgs",
]
TEXT = {path: path.read_text(encoding="utf-8") for path in (p.DOCS / "algorithms").glob("*.md")}


def page_of(preset: str) -> str:
    found = [text for text in TEXT.values() if preset in p.named_presets(text)]
    assert len(found) == 1, f"{preset} is named as a preset by {len(found)} pages"
    return found[0]


def test_pages_agree_with_the_committed_results() -> None:
    stale = [path.name for path, text in p.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run: python -m sdgym.benchmarks.head_to_head.pages ({', '.join(stale)})"


@pytest.mark.parametrize("preset", ISSUE)
def test_each_method_has_a_page_with_status_predictions_and_results(preset: str) -> None:
    text = page_of(preset)
    above, _, below = text.partition(p.START)
    assert below.count(p.END) == 1 and "## Results" in below
    assert load_preset(preset).status in above.lower(), f"{preset} is {load_preset(preset).status}, and its page does not say so"
    assert any(p.is_of(prediction.treatment, [preset]) for prediction in load_predictions()), f"nothing was predicted about {preset}"
    assert re.search(rf"^\| {preset}\S* − \S+ \| (higher|lower) \|", below, re.MULTILINE), "the prediction is not on the page"


def test_the_numbers_are_those_of_the_table() -> None:
    rows = json.loads((p.RESULTS / "first" / "table.json").read_text())
    row = next(r for r in rows if r["arm"] == "sdpo-P2" and "Sokoban" in r["env"])
    cells = f"| {100 * row['before']['mean']:.1f}% | {100 * row['after']['mean']:.1f}% | "
    assert cells in page_of("sdpo_rich"), "a control stands on its method's page"
    assert cells not in page_of("opsd_v1") and "33.2% | 36.3%" in page_of("opsd_v1")


def contrast(difference: Estimate, p_holm: float | None) -> Contrast:
    return Contrast("srpo", "grpo", "", "gain", difference, p_holm, p_holm, Estimate(1, 0.5))


@pytest.mark.parametrize(
    ("difference", "p_holm", "result"),
    [
        (Estimate(3, 0.2, None, None), None, "too few runs"),
        (Estimate(6, 0.2, 0.1, 0.3), 0.03, "confirmed"),
        (Estimate(6, -0.2, -0.3, -0.1), 0.03, "contradicted"),
        (Estimate(6, 0.2, -0.1, 0.3), 0.5, "not confirmed"),
    ],
)
def test_a_verdict_on_the_page_is_that_of_the_contrast(difference: Estimate, p_holm: float | None, result: str) -> None:
    prediction = Prediction(treatment="srpo", control="grpo", expect="higher", source="a source of some length")
    suite = p.Recorded("family", [], [contrast(difference, p_holm)])
    text = p.block(["srpo"], [suite, p.Recorded("first", [], [])], [prediction])
    (line,) = [line for line in text.splitlines() if line.startswith("| srpo − grpo")]
    assert line.endswith(f"| {result} |") and "| family |" in line and f"| {difference.n} |" in line and f"{difference.mean:+.3f}" in line
    whole = p.family_block([suite], [prediction])
    assert f"1 {result}, {int(difference.mean > 0)} of 1 with the expected sign" in whole and line in whole
    assert "has been recorded yet" in p.family_block([dataclasses.replace(suite, name="first")], [prediction])


def test_a_control_turned_round_counts_the_other_way() -> None:
    prediction = Prediction(treatment="grpo", control="srpo", expect="lower", source="a source of some length")
    (found,) = check([prediction], [contrast(Estimate(6, 0.2, 0.1, 0.3), 0.03)])
    assert found.result == "confirmed" and "-0.200 [-0.300, -0.100]" in p.prediction_table(
        [prediction], [p.Recorded("x", [], [found.contrast])]
    )


def test_what_people_write_stays() -> None:
    page = "# A\n\nPreset: `srpo`.\n"
    once = p.updated(page, "one")
    assert once == f"{page}\n{p.START}\none\n{p.END}\n" and p.updated(once, "one") == once
    assert p.updated(once + "\nmore\n", "two") == f"{page}\n{p.START}\ntwo\n{p.END}\n\nmore\n"
    with pytest.raises(ConfigError, match="without the other"):
        p.updated(once.replace(p.END, ""), "two")


def test_refusals(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="pack the comparison"):
        p.record("nothing", tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "table.json").write_text("[]")
    (tmp_path / "broken" / "contrasts.json").write_text('[{"treatment": "a"}]')
    with pytest.raises(ConfigError, match="record them again"):
        p.recorded(tmp_path)
    with pytest.raises(ConfigError, match="checkout"):
        p.pages(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", [suite.name for suite in p.recorded()])
def test_what_is_committed_is_what_the_per_item_records_say(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(p.RESULTS / name / "runs.tar.gz", tmp_path / name)
    again, committed = p.record(name, tmp_path), p.load_recorded(name)
    assert again.rows == committed.rows
    for a, b in zip(again.contrasts, committed.contrasts, strict=True):
        assert (a.treatment, a.control, a.verdict) == (b.treatment, b.control, b.verdict)
        assert a.difference.mean == pytest.approx(b.difference.mean, abs=1e-12)
