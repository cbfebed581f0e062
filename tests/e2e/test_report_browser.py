"""The page in a real Chromium: it draws, its controls work, ten thousand episodes stay usable, the console stays silent.

Screenshots are kept in ``runs/report/``.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import time
import types
from typing import Any

import pytest

from sdgym.report import write_report

pytestmark = pytest.mark.system

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
Made = types.SimpleNamespace
TALL = 8000  # pixels: a window that shows the whole page, so that everything is drawn
ARROW_DOWN, ARROW_RIGHT, END = "\ue015", "\ue014", "\ue010"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, made: Made) -> pathlib.Path:
    """Write a comparison of three methods, one of which has a teacher, over five seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    for seed in range(5):
        for arm, end in (("grpo", 0.5), ("sdpo", 0.75), ("sharpen", 0.375)):
            rows = [made.episode(m, m % 2 == 1, HOSTILE if m == 0 else f"\\boxed{{{seed}{m}}}") for m in range(4)]
            made.write_run(
                folder / f"{arm}-{seed}", algo=arm, seed=seed, curve=(0.25, (end + 0.03 * seed) / 2, end + 0.03 * seed), rows=rows
            )
    return write_report(folder)


@pytest.fixture
def shown(browser: Any, page: pathlib.Path) -> Any:
    """Open the page in a desktop window."""
    browser.look(1280, TALL, "light")
    browser.open(page)
    drawn(browser)
    return browser


def drawn(browser: Any) -> None:
    """Wait until every chart in sight is drawn."""
    browser.wait("return [...document.querySelectorAll('.chart, .profile')].every((c) => c.data && c.data.length)")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
def test_the_page_draws_without_a_complaint(browser: Any, page: pathlib.Path, root: pathlib.Path, scheme: str, width: int) -> None:
    browser.look(width, TALL if width > 800 else 2 * TALL, scheme)
    browser.open(page)
    drawn(browser)
    assert browser.complaints() == []
    assert browser.run("return document.title") != "owned"
    charts = browser.run(
        "return [...document.querySelectorAll('.chart')].map((c) => [c.querySelectorAll('.scatterlayer .trace').length, c.dataset.traces])"
    )
    assert len(charts) == 4 and all(drawn > 0 and int(wanted) >= drawn for drawn, wanted in charts)
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "nothing sticks out sideways"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 27)" if scheme == "dark" else "rgb(251, 250, 247)"
    )
    assert len(browser.screenshot(root / "runs" / "report" / f"{scheme}-{width}.png")) > 50_000


def test_the_axis_switches_in_every_chart(shown: Any) -> None:
    shown.click("input[name=axis][value=flops]")
    shown.wait("return [...document.querySelectorAll('.chart')].every((c) => c.layout.xaxis.title.text === 'FLOPs')")
    assert max(shown.run("return document.querySelector('.chart').data.at(-1).x")) == 2e9
    shown.click("input[name=axis][value=step]")
    shown.wait("return document.querySelector('.chart').layout.xaxis.title.text === 'steps'")
    assert max(shown.run("return document.querySelector('.chart').data.at(-1).x")) == 20
    assert shown.complaints() == []


def test_metrics_and_methods_can_be_chosen(shown: Any) -> None:
    band = "return document.querySelector('.chart').data.filter((t) => t.fill === 'toself').length"
    assert shown.run(band) == 3, "five seeds give a band per method"
    shown.click("button[data-arm=sharpen]")
    shown.wait("return document.querySelector('.chart').data.every((t) => t.legendgroup !== 'sharpen')")
    shown.click("input[name=learning][value=greedy]")
    shown.wait("return !document.querySelector('.chart').layout.shapes.length")
    assert shown.complaints() == []


def test_the_theme_switches_and_repaints(shown: Any) -> None:
    before = shown.run("return document.querySelector('.chart').data.at(-1).line.color")
    shown.click("#theme")
    shown.wait("return document.querySelector('.chart').data.at(-1).line.color !== arguments[0]", before)
    assert shown.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def found(browser: Any) -> str:
    """Return the line that counts the episodes."""
    return str(browser.run("return document.getElementById('found').textContent"))


def test_filters_choose_episodes(shown: Any) -> None:
    assert found(shown) == "60 of 60 episodes, 30 solved"
    shown.choose("by-result", "solved")
    assert found(shown) == "30 of 60 episodes, 30 solved"
    shown.choose("by-arm", "sdpo")
    shown.choose("by-seed", "3")
    assert found(shown) == "2 of 60 episodes, 2 solved"
    rows = shown.run("return [...document.querySelectorAll('#episodes .row')].map((r) => r.textContent)")
    assert len(rows) == 2 and all("sdpo" in row and "seed 3" in row for row in rows)
    shown.choose("by-stop", "terminated")
    shown.choose("by-task", "boxed{33}")
    assert found(shown) == "1 of 60 episodes, 1 solved"
    shown.choose("by-task", "no such words")
    assert found(shown) == "0 of 60 episodes, 0 solved"
    assert "No episode fits" in shown.run("return document.getElementById('episode').textContent")
    assert shown.complaints() == []


def test_a_run_is_picked_by_its_policy_too(browser: Any, made: Made, tmp_path: pathlib.Path) -> None:
    for model in ("tiny", "tiny-b"):
        made.write_run(tmp_path / model, algo="sdpo", model=model, curve=(0.25, 0.5), rows=[made.episode(m, False) for m in range(4)])
    browser.look(1280, 900, "light")
    browser.open(write_report(tmp_path))
    assert found(browser) == "8 of 8 episodes, 0 solved"
    browser.choose("by-model", "tiny-b")
    browser.choose("by-env", "sdgym/Math-v0 · tiny")
    browser.choose("by-step", "20")
    assert found(browser) == "4 of 8 episodes, 0 solved"
    title = "return document.getElementById('episode-title').textContent"
    browser.wait(f"{title}.startsWith('sdpo on sdgym/Math-v0 · tiny · policy tiny-b · seed 0 · step 20 ')")
    assert browser.complaints() == []


def test_the_jump_lands_on_the_largest_disagreement(shown: Any) -> None:
    shown.click("#jump")
    shown.wait("return document.activeElement.classList.contains('token')")
    assert shown.run("return document.activeElement.textContent") == "t1 "
    reading = "return document.getElementById('reading').textContent"
    assert all(
        words in shown.run(reading) for words in ("token 2 of 3", "student −0.50", "teacher −3.00", "log-ratio −2.50", "advantage −1.000")
    )
    first = shown.run("return document.querySelector('#episodes [aria-selected=true]').id")
    shown.click("#jump")
    shown.wait("return document.querySelector('#episodes [aria-selected=true]').id !== arguments[0]", first)
    assert shown.complaints() == []


def test_an_episode_shows_turns_contexts_and_colours(shown: Any) -> None:
    shown.choose("by-result", "unsolved")
    shown.wait("return document.querySelectorAll('#episode .token').length === 3")
    text = shown.run("return document.getElementById('episode').innerText")
    assert all(
        piece in text for piece in ("Student read", "Teacher read (feedback)", "The last digit is wrong.", "feedback (verifier), unseen")
    )
    assert shown.run("return document.querySelector('#episode mark').textContent") == " The last digit is wrong."
    colours = "return [...document.querySelectorAll('#episode .token')].map((t) => t.style.backgroundColor)"
    ratio = shown.run(colours)
    assert "213, 94, 0" in ratio[1] and ratio[0] == ratio[2] != ratio[1], "only the second token is disliked"
    shown.click("input[name=paint][value=advantage]")
    assert len(set(shown.run(colours))) == 1 and "213, 94, 0" in shown.run(colours)[0]
    shown.click("input[name=paint][value=none]")
    assert shown.run(colours) == ["", "", ""]
    assert shown.complaints() == []


def test_the_keyboard_is_enough(shown: Any) -> None:
    shown.run("document.getElementById('episodes').focus()")
    shown.press(ARROW_DOWN)
    assert shown.run("return document.querySelector('#episodes [aria-selected=true]').id") == "row-1"
    shown.press(END)
    assert shown.run("return document.querySelector('#episodes [aria-selected=true]').id") == "row-59"
    shown.wait("return document.querySelector('#episode .token') !== null")
    shown.run("document.querySelector('#episode .token').focus()")
    shown.press(ARROW_RIGHT)
    assert "token 2 of 3" in shown.run("return document.getElementById('reading').textContent")
    shown.press("j")
    assert shown.run("return document.activeElement.classList.contains('chosen')")
    reachable = (
        "return [...document.querySelectorAll('a, button, input, select, summary, #episodes')].every((e) => e.disabled || e.tabIndex >= 0)"
    )
    assert shown.run(reachable)


def test_ten_thousand_episodes_stay_small_and_quick(browser: Any, made: Made, tmp_path: pathlib.Path) -> None:
    words = ["carry", "one", "then", "add", "the", "tens", "and", "write", "digit", "below", "units", "so", "we", "get"]
    rows = [made.episode(m, m % 3 == 0, " ".join(words[(m * 7 + i) % len(words)] for i in range(20)), length=48) for m in range(500)]
    for seed in range(20):
        folder = made.write_run(tmp_path / f"s{seed}", algo="sdpo", seed=seed, curve=(0.25, 0.5), rows=[] if seed else rows)
        for kind in ("trajectories", "tokens") if seed else ():
            shutil.copytree(tmp_path / "s0" / kind, folder / kind, dirs_exist_ok=True)
    page = write_report(tmp_path)
    assert page.stat().st_size <= 15_000_000
    browser.look(1280, 900, "light")
    began = time.monotonic()
    browser.open(page)
    opened = time.monotonic() - began
    assert found(browser) == "10,000 of 10,000 episodes, 3,340 solved"
    assert browser.run("return document.querySelectorAll('#episodes .row').length") < 60, "rows out of sight do not exist"
    spent = {name: browser.run(f"const t = performance.now(); {code}; return performance.now() - t") for name, code in ACTIONS.items()}
    assert opened < 30 and max(spent.values()) < 1000, json.dumps({"opened": opened, **spent})
    browser.wait("return document.querySelector('#episode .token') !== null")
    assert browser.complaints() == []


def change(name: str, value: str) -> str:
    """Return a script that chooses ``value``."""
    return f"const e = document.getElementById('by-{name}'); e.value = '{value}'; e.dispatchEvent(new Event('change'))"


ACTIONS = {
    "filter": change("result", "solved"),
    "order": change("order", "disagreement"),
    "scroll": "const box = document.getElementById('episodes'); box.scrollTop = 1e5; box.dispatchEvent(new Event('scroll'))",
    "jump": "document.getElementById('jump').click()",
}
