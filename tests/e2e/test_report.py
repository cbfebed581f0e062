"""The report: numbers recomputed by hand from per-item files, untrusted text, one offline file."""

from __future__ import annotations

import base64
import gzip
import json
import pathlib
import re
import types
from typing import Any

import numpy as np
import pytest

from sdgym.errors import DataError, RunFolderError
from sdgym.report import load_folder, table_rows, trajectories, write_report
from sdgym.report.page import LIMIT
from sdgym.report.tables import blocks, count, percent, points
from sdgym.report.versus import CONTROLS, compare

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
Made = types.SimpleNamespace


def part(page: pathlib.Path, name: str) -> Any:
    """Return the inflated data of an element of a page."""
    text = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    assert text is not None
    return json.loads(gzip.decompress(base64.b64decode(text[1])))


def without_library(page: pathlib.Path) -> str:
    """Return the page without its compressed plotting library."""
    return re.sub(r'(id="plotly">).*?(</script>)', r"\1\2", page.read_text(), flags=re.DOTALL)


def test_the_table_is_what_the_per_item_records_say(tmp_path: pathlib.Path, made: Made) -> None:
    for seed, end in enumerate((0.5, 0.75)):
        made.write_run(tmp_path / f"s{seed}", seed=seed, curve=(0.25, end))
    (row,) = table_rows(tmp_path)
    assert (row["env"], row["arm"], row["supervision"], row["after"]["n"]) == ("sdgym/Math-v0", "grpo", "reward", 2)
    assert row["before"]["mean"] == pytest.approx(0.25)
    assert row["after"]["mean"] == pytest.approx(0.625)
    assert row["ends"] == pytest.approx([0.5, 0.75])
    assert row["after"]["low"] is None, "two seeds have no interval"
    assert row["tokens"] == 5000


def test_the_last_checkpoint_counts_not_the_best(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", curve=(0.25, 0.875, 0.5))
    (row,) = table_rows(tmp_path)
    assert (row["after"]["mean"], row["ends"]) == (0.5, [0.5])


def test_the_table_has_pass_at_k(tmp_path: pathlib.Path, made: Made) -> None:
    """4 of 32 samples are right at the end, in four of eight tasks of four samples: pass@4 is one half."""
    made.write_run(tmp_path / "a", curve=(0.25, 0.125))
    (row,) = table_rows(tmp_path)
    assert (row["after"]["mean"], row["passed"]["mean"]) == (0.125, 0.5)
    page = write_report(tmp_path)
    assert re.search(r"pass@4</th>", page.read_text()) and '<td class="num">50.0 %</td>' in page.read_text()
    (arm,) = part(page, "data")["curves"]["worlds"][0]["arms"]
    assert arm["metrics"]["passed"]["mean"] == [1.0, 0.5]


def test_cost_is_what_the_ledger_says(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a")
    spent = {"sampled_tokens": 11_000, "discarded_tokens": 120, "second_pass_tokens": 130, "teacher_tokens": 140, "trained_tokens": 150}
    spent |= {"verifier_calls": 160, "env_steps": 170, "flops": 18e9}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "seconds": 19.0} | {f"ledger/{name}": value for name, value in spent.items()}) + "\n")
    text = write_report(tmp_path).read_text()
    table = text[text.index('<table class="cost">') :]
    shown = re.findall(r"<td class=\"num\"><span>([^<]+)</span>", table[: table.index("</table>")])
    assert shown == ["11 k", "120", "130", "140", "150", "160", "170", "18 G", "19"]


def test_a_teacher_without_lift_is_named_on_the_page(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", algo="sdpo")
    items = {"lift": (0, 1), "no lift shown": (1, 0), "nothing to say yet": (None, None)}
    for name, (student, teacher) in items.items():
        lines = [{"kind": "feedback", "task_id": f"t{i}", "student": student, "teacher": teacher} for i in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lifts = [["sdpo", name, f"{name}.jsonl"] for name in items]
    (tmp_path / "comparison.json").write_text(json.dumps({"trials": {"a": ["sdpo", "math"]}, "starts": {}, "lifts": lifts}))
    page = write_report(tmp_path).read_text()
    rows = re.findall(r"<td>([^<]+)</td><td>feedback</td>.*?<td class=\"(up|soft)\">([^<]+)</td>", page)
    assert rows == [(name, "up" if name == "lift" else "soft", name) for name in items]


def test_the_command_prints_the_tables_of_the_comparison(tmp_path: pathlib.Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    from sdgym.cli import execute

    arms_with_control(made, tmp_path, 5)
    assert execute(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "success on val (8 tasks × 4 samples, T=1)" in printed and "pass@4" in printed
    (line,) = [line for line in printed.splitlines() if line.split()[:2] == ["sdpo", "feedback"]]
    assert "25.0 %" in line and "75.0 %" in line and "+50.0" in line


def test_printed_summaries_are_not_trusted(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a", curve=(0.25, 0.5))
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"eval/success": 0.5', '"eval/success": 0.99'))
    assert table_rows(tmp_path)[0]["after"]["mean"] == pytest.approx(0.5)


def test_five_seeds_have_an_interval_and_a_band(tmp_path: pathlib.Path, made: Made) -> None:
    ends = (0.25, 0.5, 0.5, 0.75, 1.0)
    for seed, end in enumerate(ends):
        made.write_run(tmp_path / f"s{seed}", seed=seed, curve=(0.25, end))
    after = table_rows(tmp_path)[0]["after"]
    assert after["mean"] == pytest.approx(np.mean(ends))
    assert 0.25 <= after["low"] < after["mean"] < after["high"] <= 1.0
    page = write_report(tmp_path)
    (arm,) = part(page, "data")["curves"]["worlds"][0]["arms"]
    curve = arm["metrics"]["success"]
    assert curve["mean"] == pytest.approx([0.25, 0.6]) and curve["low"][0] == curve["high"][0] == 0.25
    # All resamples of five values: the exact percentile bootstrap, which 4,000 draws meet to a grid step (0.05).
    exact = np.quantile(np.array(np.meshgrid(*[ends] * 5)).reshape(5, -1).mean(axis=0), [0.025, 0.975])
    assert [curve["low"][1], curve["high"][1]] == pytest.approx(exact, abs=0.051)
    assert 'class="range"' in page.read_text()


def test_below_five_seeds_are_drawn_one_by_one_without_a_band(tmp_path: pathlib.Path, made: Made) -> None:
    for seed, end in enumerate((0.5, 0.75)):
        made.write_run(tmp_path / f"s{seed}", seed=seed, curve=(0.25, end))
    page = write_report(tmp_path)
    (arm,) = part(page, "data")["curves"]["worlds"][0]["arms"]
    curve = arm["metrics"]["success"]
    assert curve["low"] is None and curve["runs"] == [[0.25, 0.5], [0.25, 0.75]]
    assert arm["runs"][1]["eval"]["flops"] == [0.0, 1e9] and set(arm["grids"]["eval"]) == {"step", "tokens", "episodes", "flops"}
    assert 'class="range"' not in page.read_text()


def test_a_long_log_is_averaged_into_few_points(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a")
    lines = [{"step": s, "seconds": 1.0 * s, "train/entropy": float(s), "ledger/sampled_tokens": 10 * s} for s in range(1, 401)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (arm,) = part(write_report(tmp_path), "data")["curves"]["worlds"][0]["arms"]
    assert len(arm["metrics"]["entropy"]["mean"]) == 80
    assert arm["metrics"]["entropy"]["mean"][:2] == [3.0, 8.0] and arm["grids"]["train"]["tokens"][:2] == [50.0, 100.0]


def test_references_are_the_start_by_decoding_alone(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", curve=(0.5, 0.75))
    runs, _ = load_folder(tmp_path)
    references = {r.name: r.value for r in blocks(runs)[0].references}
    assert references == {"start, greedy": pytest.approx(1.0), "start, maj@4": pytest.approx(0.0)}  # every task has 2 of 4


def test_an_unfinished_run_is_drawn_but_not_in_the_table(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a", curve=(0.25, 0.5, 0.75))
    for name, keep in (("metrics.jsonl", 2), ("eval.jsonl", 16)):
        lines = (folder / name).read_text().splitlines(keepends=True)[:keep]
        (folder / name).write_text("".join(lines) + '{"step": 2')  # killed while writing
    assert table_rows(tmp_path) == []
    (arm,) = part(write_report(tmp_path), "data")["curves"]["worlds"][0]["arms"]
    assert arm["metrics"]["success"]["mean"] == [0.25, 0.5]


def test_a_damaged_file_is_named(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a", rows=[made.episode(0, True)])
    (folder / "trajectories" / "step_000020.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"step_000020\.parquet"):
        write_report(tmp_path)
    (folder / "eval.jsonl").write_text("not json\n" + (folder / "eval.jsonl").read_text())
    with pytest.raises(DataError, match=r"line 1 of .*eval\.jsonl"):
        write_report(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(RunFolderError, match="there is no folder"):
        write_report(tmp_path / "nowhere")


def test_what_models_and_worlds_write_never_becomes_markup(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", rows=[made.episode(0, False, HOSTILE, HOSTILE), made.episode(1, True, HOSTILE)])
    (tmp_path / "comparison.json").write_text(
        json.dumps({"title": HOSTILE, "notes": [HOSTILE], "trials": {"a": [HOSTILE, "w"]}, "starts": {}})
    )
    page = write_report(tmp_path)
    assert HOSTILE not in page.read_text() and "&lt;/script&gt;&lt;script&gt;" in page.read_text()
    assert part(page, "chunk-0")[0]["turns"][0]["a"] == HOSTILE


def test_the_page_is_one_offline_file_and_reproducible(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", rows=[made.episode(0, False), made.episode(1, True)])
    page = write_report(tmp_path)
    first = page.read_bytes()
    assert len(first) < 3_000_000, "a page without many episodes is small: the plotting library is compressed"
    text = without_library(page)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text) and "default-src 'none'" in text
    assert write_report(tmp_path).read_bytes() == first


def test_episodes_hold_turns_feedback_contexts_and_token_values(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", rows=[made.episode(0, False), made.episode(1, True)])
    page = write_report(tmp_path)
    wrong, right = part(page, "chunk-0")
    assert wrong["turns"] == [{"o": "2 + 2?", "a": "\\boxed{4}", "r": 0.0, "f": [["verifier", "The last digit is wrong.", 0]], "n": 3}]
    assert wrong["s"] == [-50, -50, -50] and wrong["v"] == [[-1.0, 3]] and wrong["p"] == ["t0 ", "t1 ", "t2 "]
    assert wrong["c"] == [[0, "2 + 2?\nAnswer:"]]
    (teacher,) = wrong["t"]
    assert teacher["l"] == [-50, -300, -50]
    assert teacher["c"] == [[0, 6, " The last digit is wrong.", 8]], "only what the teacher alone read is stored"
    columns = part(page, "index")["columns"]
    assert columns["peak"] == [-250, 0] and columns["at"] == [1, 0] and columns["success"] == [0, 1]
    assert right["turns"][0]["f"] == []


def test_a_run_without_token_data_shows_its_texts(tmp_path: pathlib.Path, made: Made) -> None:
    folder = made.write_run(tmp_path / "a", rows=[made.episode(0, False)])
    (folder / "tokens" / "step_000020.parquet").unlink()
    page = write_report(tmp_path)
    assert "p" not in part(page, "chunk-0")[0] and part(page, "index")["columns"]["peak"] == [None]


def test_too_many_episodes_lose_whole_groups(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", rows=[made.episode(i, False) for i in range(10)])
    runs, _ = load_folder(tmp_path)
    saved = trajectories.collect(runs, most=4)
    assert (saved.total, saved.shown) == (10, 4)


def test_a_large_page_is_thinned_to_the_limit(tmp_path: pathlib.Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    rows = [made.episode(i, False, "".join(map(chr, noise.integers(33, 127, 5000)))) for i in range(60)]
    made.write_run(tmp_path / "a", rows=rows)
    full = len(write_report(tmp_path).read_bytes())
    monkeypatch.setattr("sdgym.report.page.LIMIT", full - 150_000)
    page = write_report(tmp_path)
    assert len(page.read_bytes()) <= full - 150_000 < LIMIT
    assert 0 < len(part(page, "index")["columns"]["run"]) < 60 and "of 60 saved episodes" in page.read_text()


def test_configs_show_differences_first(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", algo="grpo")
    made.write_run(tmp_path / "b", algo="dr_grpo")
    page = write_report(tmp_path).read_text()
    table = page[page.index("Where the runs differ") : page.index("the whole configuration")]
    assert "algo.settings.scale" in table and "algo.settings.aggregation" in table
    assert "tasks_per_step" not in table


def arms_with_control(made: Made, folder: pathlib.Path, seeds: int) -> None:
    """Write GRPO, SDPO and SDPO on shuffled text, whose gains differ by seed."""
    for seed in range(seeds):
        made.write_run(folder / f"g{seed}", algo="grpo", seed=seed, curve=(0.25, 0.5))
        made.write_run(folder / f"s{seed}", algo="sdpo", seed=seed, curve=(0.25, 0.75))
        made.write_run(folder / f"c{seed}", algo={"name": "sdpo", "control": "P2"}, seed=seed, curve=(0.25, 0.25 + 0.125 * (seed % 3)))
    trials = {f"{k}{seed}": [arm, "math"] for k, arm in (("g", "grpo"), ("s", "sdpo"), ("c", "sdpo-P2")) for seed in range(seeds)}
    (folder / "comparison.json").write_text(json.dumps({"trials": trials, "starts": {}}))


def test_each_arm_against_its_control_and_against_grpo(tmp_path: pathlib.Path, made: Made) -> None:
    arms_with_control(made, tmp_path, 3)
    found = compare(tmp_path, *load_folder(tmp_path))
    (table,) = found.contrasts
    gains = {(c.treatment, c.control): (c.difference.mean, what) for c, what in table.rows}
    # Normalised gain: (after − 1/4) / (3/4). SDPO 2/3, GRPO 1/3, the control 0, 1/6 and 1/3.
    assert gains == {("sdpo", "grpo"): (pytest.approx(1 / 3), "reward alone"), ("sdpo", "sdpo-P2"): (pytest.approx(1 / 2), CONTROLS["P2"])}
    assert [(title, [r.arm for r in rows]) for title, rows in found.rankings] == [
        ("Rewards alone", ["grpo"]),
        ("Rewards and feedback", ["sdpo"]),
    ]
    (square,) = found.matrices
    assert square.arms == ("sdpo", "grpo", "sdpo-P2") and square.cells[0][1].low is None
    assert square.cells[1][2].mean == pytest.approx(2.5 / 3), "GRPO beats two runs of the control and ties with the third"
    assert square.cells[2][1].mean == pytest.approx(0.5 / 3) and square.cells[0][0] is None
    page = write_report(tmp_path).read_text()
    assert "text of another task" in page and '<td class="few"' in page and "too few runs" in page


def test_five_runs_bring_intervals_verdicts_and_colours(tmp_path: pathlib.Path, made: Made) -> None:
    arms_with_control(made, tmp_path, 5)
    found = compare(tmp_path, *load_folder(tmp_path))
    (square,) = found.matrices
    assert 0.5 < square.cells[0][1].low <= square.cells[0][1].high == 1.0
    assert square.cells[1][0].low == 0.0 and square.cells[1][0].high == pytest.approx(1.0 - square.cells[0][1].low)
    verdicts = {c.control: c.verdict for c, _ in found.contrasts[0].rows}
    assert verdicts == {"grpo": "too few runs", "sdpo-P2": "too few runs"}, "five runs that all agree have p = 2/2⁵"
    page = write_report(tmp_path)
    assert "its 95 % interval over checkpoints, seeds and tasks" in page.read_text() and '<td class="few"' not in page.read_text()
    assert {p["arm"] for p in part(page, "data")["profiles"]} == {"grpo", "sdpo", "sdpo-P2"}


def test_runs_that_cannot_be_compared_are_shown_with_the_reason(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", curve=(0.25, 0.5))
    made.write_run(tmp_path / "b", curve=(0.25, 0.75))  # the same method, policy and seed once more
    page = write_report(tmp_path).read_text()
    assert "The runs are not compared with each other" in page and "62.5 %" in page


def test_formats() -> None:
    assert [percent(0.3141), points(-0.05), count(1_234_567), count(999.4), count(5300)] == ["31.4 %", "-5.0", "1.23 M", "999", "5.3 k"]
    assert percent(float("nan")) == points(float("nan")) == count(float("nan")) == "–"
