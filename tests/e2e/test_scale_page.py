"""The tables of docs/scale.md are what the commands above them print; its recipes are understood by the launcher and by sdgym."""

from __future__ import annotations

import itertools
import pathlib
import re
import shlex

import pytest

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text()
BLOCK = re.compile(r"<!-- simulated -->\n```bash\n(.*?)\n```\n```text\n(.*?)\n```", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def recipes() -> list[str]:
    """Every launch and training command of the page."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith(("accelerate launch ", "sdgym train "))]


@pytest.mark.parametrize("line", recipes())
def test_a_recipe_parses_and_starts_the_processes_that_it_promises(
    line: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    from sdgym.config import resolve_config

    words = shlex.split(line.replace("$RANK_OF_NODE", "1"))
    if words[0] == "accelerate":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(launch, "default_config_file", str(tmp_path / "none.yaml"))
        for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
            (tmp_path / name).write_text(text)
        parsed, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(words[2:]))
        assert parsed.module and parsed.training_script == "sdgym" and parsed.num_processes > 1
        assert parsed.multi_gpu or parsed.use_fsdp or parsed.use_deepspeed, "--cpu starts one process, whatever number is named"
        if parsed.use_deepspeed:
            parsed.deepspeed_fields_from_accelerate_config = ""
            env = prepare_deepspeed_cmd_env(parsed)[1]
            assert env["ACCELERATE_USE_DEEPSPEED"] == "true" and env["ACCELERATE_DEEPSPEED_ZERO_STAGE"] in ("1", "2")
        else:
            env = prepare_multi_gpu_env(parsed)
            assert not parsed.use_fsdp or (env["ACCELERATE_USE_FSDP"], env["FSDP_VERSION"]) == ("true", "2")
        words = [parsed.training_script, *parsed.training_script_args]
    assert words[:2] == ["sdgym", "train"]
    config = resolve_config(sets=[word for flag, word in itertools.pairwise(words) if flag == "--set"])
    assert config.steps > 0


def test_the_page_has_recipes_for_one_node_and_several() -> None:
    found = "\n".join(recipes())
    for part in ("--num_machines 8", "--config_file fsdp2.yaml", "--use_deepspeed", "device=cpu", "lora.rank", "generation.engine=vllm"):
        assert part in found, part


def test_the_page_has_its_tables() -> None:
    assert len(BLOCK.findall(PAGE)) == PAGE.count("<!-- simulated -->") >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command, shown", BLOCK.findall(PAGE), ids=lambda text: text[:60] if text.startswith("python") else "")
def test_a_table_is_what_its_command_prints(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: pathlib.Path
) -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.__main__ import main

    monkeypatch.chdir(root)
    assert main(shlex.split(command)[3:]) == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines())
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.02, abs=1.01)  # another version may round the last digit otherwise
