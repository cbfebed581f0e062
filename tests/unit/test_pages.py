"""Results on pages: they agree with what is committed, each method has its place, verdicts are those of the contrasts."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
from xml.etree import ElementTree

import pytest

from sdgym.algos.presets import load_preset
from sdgym.benchmarks.head_to_head import pages as p
from sdgym.benchmarks.head_to_head.pictures import curves_svg, dots_svg
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
SVG = "{http://www.w3.org/2000/svg}"
TEXT = {path: path.read_text(encoding="utf-8") for path in (p.DOCS / "algorithms").glob("*.md")}


def page_of(preset: str) -> str:
    found = [text for text in TEXT.values() if preset in p.named_presets(text)]
    assert len(found) == 1, f"{preset} is named as a preset by {len(found)} pages"
    return found[0]


def test_pages_agree_with_the_committed_results() -> None:
    stale = [path.name for path, text in p.pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
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
    return Contrast("srpo", "grpo", "", "gain", difference, p_holm, p_holm, 0.01, Estimate(1, 0.5))


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
    text = p.block("srpo", ["srpo"], [suite, p.Recorded("first", [], [])], [prediction])
    (line,) = [line for line in text.splitlines() if line.startswith("| srpo − grpo")]
    assert line.endswith(f"| {result} |") and "| family |" in line and f"| {difference.n} |" in line and f"{difference.mean:+.3f}" in line
    whole = p.findings_block([suite], [prediction])
    assert f"1 {result}, {int(difference.mean > 0)} of 1 with the expected sign" in whole and line in whole
    assert "has been recorded yet" in p.findings_block([], [prediction])


def test_a_recorded_suite_has_its_command() -> None:
    rows = [{"env": f"sdgym/{world}-v0", "after": {"n": n}} for world, n in (("Math", 2), ("Sokoban", 5))]
    assert p.command(p.Recorded("first", rows, [])) == "sdgym compare first"
    assert p.command(p.Recorded("first", rows[:1], [])) == "sdgym compare first --envs sdgym/Math-v0 --seeds 2"
    assert "\n\nAgain: `sdgym compare family" in page_of("sd_zero_repo") and ", `sdgym compare first" in page_of("sdpo_rich")


def test_a_control_turned_round_counts_the_other_way() -> None:
    prediction = Prediction(treatment="grpo", control="srpo", expect="lower", source="a source of some length")
    (found,) = check([prediction], [contrast(Estimate(6, 0.2, 0.1, 0.3), 0.03)])
    assert found.result == "confirmed" and "-0.200 [-0.300, -0.100]" in p.prediction_table(
        [prediction], [p.Recorded("x", [], [found.contrast])]
    )


def test_settings_of_one_method_are_set_against_each_other_unless_a_prediction_did() -> None:
    def between(treatment: str, control: str) -> Contrast:
        return Contrast(treatment, control, "", "gain", Estimate(5, 0.1, 0.05, 0.15), 0.01, 0.04, 0.02, Estimate(5, 0.9))

    suite = p.Recorded("s", [], [between("vpd-mean", "vpd"), between("vpd-k-5", "vpd"), between("vpd", "grpo")])
    table = p.setting_table(suite, ["vpd"], {("vpd-k-5", "vpd")})
    assert [line for line in table.splitlines() if line.startswith("| vpd")] == [
        "| vpd-mean − vpd | +0.100 [+0.050, +0.150] | 5 | 0.040 | higher |"
    ]
    assert p.setting_table(suite, ["grpo"]) == ""


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


def curve(arm: str, mean: list[float], low: list[float] | None = None) -> dict[str, object]:
    high = None if low is None else [2 * middle - bound for middle, bound in zip(mean, low, strict=True)]
    return {"arm": arm, "tokens": [0.0, 50.0, 100.0], "mean": mean, "low": low, "high": high}


def test_a_curve_lies_where_its_numbers_say() -> None:
    text = curves_svg([curve("a<b", [0.0, 0.5, 1.0], [0.0, 0.4, 0.9]), curve("grpo", [0.5, 0.5, 0.5])], faint=["grpo"])
    root = ElementTree.fromstring(text)
    lines = [[tuple(map(float, p.split(","))) for p in e.attrib["points"].split()] for e in root.iter(f"{SVG}polyline")]
    top, bottom, middle = lines[0][2][1], lines[0][0][1], lines[0][1]
    assert middle == ((lines[0][0][0] + lines[0][2][0]) / 2, (top + bottom) / 2) and top < bottom
    assert [y for _, y in lines[1]] == [middle[1]] * 3
    assert len(list(root.iter(f"{SVG}polygon"))) == 1, "bounds are drawn where there are some"
    assert [e.attrib["class"].split()[0] for e in root.iter(f"{SVG}polyline")] == ["c0", "faint"]
    assert "a<b" in [e.text for e in root.iter(f"{SVG}text")]


def test_dots_stand_in_order_and_controls_are_hollow() -> None:
    rows = [
        {"arm": arm, "ends": ends, "before": {"mean": 0.25}, "after": {"mean": sum(ends) / len(ends)}}
        for arm, ends in (("worse", [0.5, 0.5]), ("better", [0.75, 1.0]), ("better-P2", [0.0]))
    ]
    root = ElementTree.fromstring(dots_svg([*rows, {**rows[0], "arm": "unfinished", "ends": []}], ["better-P2"]))
    circles = [(float(e.attrib["cy"]), float(e.attrib["cx"]), e.attrib["class"]) for e in root.iter(f"{SVG}circle")]
    assert circles == sorted(circles) and [kind for *_, kind in circles] == ["full"] * 4 + ["hollow"]
    assert [e.text for e in root.iter(f"{SVG}text") if e.attrib["text-anchor"] == "end"] == ["better", "worse", "better-P2"]
    scale = circles[1][1] - circles[0][1], circles[1][1] - circles[2][1]
    assert scale[1] == pytest.approx(2 * scale[0], abs=0.2)
