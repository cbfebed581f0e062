"""The report: numbers recomputed by hand from per-item files, untrusted text, one offline file that a browser draws."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np
import pytest

from sdgym.buffer import RolloutBuffer
from sdgym.config import dump_config, make_config
from sdgym.core import Feedback, Outcome, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.errors import DataError, RunFolderError
from sdgym.report import load_folder, table_rows, write_report
from sdgym.report.page import LIMIT, embed
from sdgym.report.tables import blocks, count, percent, points
from sdgym.report.terminal import curves, sparkline

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def episode(member: int, success: bool, action: str = "\\boxed{4}", feedback: str = "The last digit is wrong.") -> Trajectory:
    """One finished single-turn episode."""
    task = Task(f"tiny-train-{member}-0", ({"role": "user", "content": "2 + 2?"},), "train", member)
    segment = Segment(np.arange(6), np.array([False] * 3 + [True] * 3), np.zeros(6, np.float32), (TurnSpan(0, 3, 6),), 3)
    outcome = Outcome.CORRECT if success else Outcome.WRONG
    told = [] if success else [Feedback("verifier", feedback)]
    reward = float(success)
    return Trajectory(
        f"g{member}", 0, task, [segment], ["2 + 2?"], [action], [reward], told, outcome, reward, success, StopReason.TERMINATED
    )


def record(
    step: int, split: str, index: int, successes: int, samples: int = 4, greedy: float = 0.0, majority: float = 0.0
) -> dict[str, object]:
    """One line of ``eval.jsonl``, as the trainer writes it."""
    item = {"task_id": f"t{index}", "samples": samples, "successes": successes, "reward": successes / samples}
    return {"step": step, "split": split, **item, "majority": majority, "greedy": greedy}


def write_run(
    folder: pathlib.Path,
    algo: str = "grpo",
    env: str = "sdgym/Math-v0",
    seed: int = 0,
    curve: Sequence[float] = (0.25, 0.5, 0.75),
    rows: Sequence[Trajectory] = (),
    **settings: object,
) -> pathlib.Path:
    """Write a run folder with 8 tasks × 4 samples per evaluation at steps 0, 10, 20 …"""
    steps = 10 * (len(curve) - 1)
    config = make_config({"algo": algo, "env": {"id": env, "level": "tiny"}, "seed": seed, "steps": steps, **settings})
    (folder / "trajectories").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    lines, items = [], []
    for i, value in enumerate(curve):
        solved = round(value * 32)
        per_task = [solved // 8 + (j < solved % 8) for j in range(8)]
        items += [record(10 * i, "val", j, n, greedy=float(n >= 2), majority=float(n >= 3)) for j, n in enumerate(per_task)]
        lines.append(
            {"step": 10 * i, "seconds": 3.0 * i, "eval/success": value, "ledger/sampled_tokens": 5000 * i, "ledger/episodes": 2560 * i}
        )
        lines[-1] |= {"train/success": value, "train/length": 9.0, "train/entropy": 1.0 - value} if i else {}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "eval.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    if rows:
        RolloutBuffer(rows).save(folder / "trajectories" / "step_000020.parquet")
    return folder


def test_the_table_is_what_the_per_item_records_say(tmp_path: pathlib.Path) -> None:
    for seed, end in enumerate((0.5, 0.75)):
        write_run(tmp_path / f"s{seed}", seed=seed, curve=(0.25, end))
    (row,) = table_rows(tmp_path)
    assert (row["env"], row["arm"], row["supervision"], row["after"]["n"]) == ("sdgym/Math-v0", "grpo", "reward", 2)
    assert row["before"]["mean"] == pytest.approx(0.25)
    assert row["after"]["mean"] == pytest.approx(0.625)
    assert row["after"]["low"] is None, "two seeds have no interval"
    assert row["tokens"] == 5000


def test_printed_summaries_are_not_trusted(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", curve=(0.25, 0.5))
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"eval/success": 0.5', '"eval/success": 0.99'))
    assert table_rows(tmp_path)[0]["after"]["mean"] == pytest.approx(0.5)


def test_five_seeds_have_an_interval_and_a_band(tmp_path: pathlib.Path) -> None:
    ends = (0.25, 0.5, 0.5, 0.75, 1.0)
    for seed, end in enumerate(ends):
        write_run(tmp_path / f"s{seed}", seed=seed, curve=(0.25, end))
    after = table_rows(tmp_path)[0]["after"]
    assert after["mean"] == pytest.approx(np.mean(ends))
    assert 0.25 <= after["low"] < after["mean"] < after["high"] <= 1.0
    data = page_data(write_report(tmp_path))
    assert data["charts"][0]["arms"][0]["mean"][1]["success_low"] == pytest.approx(after["low"])


def test_references_are_the_start_by_decoding_alone(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", curve=(0.5, 0.75))
    runs, _ = load_folder(tmp_path)
    references = {r.name: r.value for r in blocks(runs)[0].references}
    assert references == {"start, greedy": pytest.approx(1.0), "start, maj@4": pytest.approx(0.0)}  # every task has 2 of 4


def test_an_unfinished_run_is_drawn_but_not_in_the_table(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a", curve=(0.25, 0.5, 0.75))
    for name, keep in (("metrics.jsonl", 2), ("eval.jsonl", 16)):
        lines = (folder / name).read_text().splitlines(keepends=True)[:keep]
        (folder / name).write_text("".join(lines) + '{"step": 2')  # killed while writing
    assert table_rows(tmp_path) == []
    assert len(page_data(write_report(tmp_path))["charts"][0]["arms"][0]["mean"]) == 2


def test_a_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "eval.jsonl").write_text("not json\n" + (folder / "eval.jsonl").read_text())
    with pytest.raises(DataError, match=r"line 1 of .*eval\.jsonl"):
        write_report(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(RunFolderError, match="there is no folder"):
        write_report(tmp_path / "nowhere")


def page_data(path: pathlib.Path) -> dict:
    """Return the data block of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL).group(1))


def test_what_models_and_worlds_write_cannot_leave_its_place(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", rows=[episode(0, False, HOSTILE, HOSTILE), episode(1, True, HOSTILE)])
    page = write_report(tmp_path).read_text()
    assert HOSTILE not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;") >= 3
    assert "</script" not in embed({"x": HOSTILE}) and json.loads(embed({"x": HOSTILE})) == {"x": HOSTILE}


def test_the_page_is_one_offline_file_and_reproducible(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", rows=[episode(0, False), episode(1, True)])
    page = write_report(tmp_path).read_bytes()
    assert len(page) < LIMIT
    text = page.decode()
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]  # without the plotting library
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", own)
    assert "default-src 'none'" in own
    assert write_report(tmp_path).read_bytes() == page


def test_transcripts_show_reward_and_feedback_per_turn(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", rows=[episode(0, False), episode(1, True)])
    page = write_report(tmp_path).read_text()
    for piece in ("The last digit is wrong.", "feedback, unseen", "\\boxed{4}", "reward 1", "step 20"):
        assert piece in page


def test_configs_show_differences_first(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", algo="grpo")
    write_run(tmp_path / "b", algo="dr_grpo")
    page = write_report(tmp_path).read_text()
    table = page[page.index("Where the runs differ") : page.index("the whole configuration")]
    assert "algo.settings.scale" in table and "algo.settings.aggregation" in table
    assert "tasks_per_step" not in table


def test_too_many_transcripts_are_dropped_to_keep_the_limit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", rows=[episode(i, False, "x" * 4000) for i in range(3)])
    full = len(write_report(tmp_path).read_bytes())
    monkeypatch.setattr("sdgym.report.page.LIMIT", full - 1000)
    assert len(write_report(tmp_path).read_bytes()) <= full - 1000


def test_watch_draws_curves(tmp_path: pathlib.Path) -> None:
    from rich.console import Console

    write_run(tmp_path / "trials" / "math" / "grpo" / "seed-0" / "run")
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(curves(tmp_path, 120))
    text = console.export_text()
    assert "math/grpo/seed-0" in text and "0.25 → 0.75" in text
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█" and len(sparkline([0.1] * 500, 40)) == 40 and sparkline([], 5) == ""


def test_formats() -> None:
    assert [percent(0.3141), points(-0.05), count(1_234_567), count(999.4), count(5300)] == ["31.4 %", "-5.0", "1.23 M", "999", "5.3 k"]
    assert percent(float("nan")) == points(float("nan")) == count(float("nan")) == "–"


@pytest.mark.system
def test_a_browser_draws_the_page_without_a_network(tmp_path: pathlib.Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("requires chromium: no browser is installed")
    for arm in ("grpo", "sharpen"):
        write_run(tmp_path / arm, algo=arm, rows=[episode(0, False, HOSTILE), episode(1, True)])
    page = write_report(tmp_path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    dom = done.stdout
    assert 'data-ready="true"' in dom, done.stderr[-2000:]
    assert dom.count('class="main-svg"') >= 1 and "scatterlayer" in dom
    assert "owned" not in dom.split("<title>")[1].split("</title>")[0]
