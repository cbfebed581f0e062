"""LoRA through PEFT: a small trained adapter beside frozen weights, and teachers that are other adapters of them.

PEFT changes a model in place, so the causal LM stays what it was for sampler, scorer and optimizer. One copy of the
large weights serves several models: the student (its adapter on), the frozen teacher (adapter off) and an averaged
or copied teacher (a second adapter). An :class:`AdapterView` is such a model.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdgym.config import LoraConfig
from sdgym.errors import ConfigError, PolicyError
from sdgym.parallel import WRAPPED, named_weights
from sdgym.seeding import derive

if TYPE_CHECKING:
    from peft import PeftModel

    from sdgym.policy import Policy

STUDENT, TEACHER = "default", "teacher"  # PEFT saves the adapter called "default" at the top of a folder
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def add_lora(policy: Policy, config: LoraConfig, seed: int) -> None:
    """Freeze the policy's weights and give it a trainable adapter that changes nothing yet (LoRA, arXiv 2106.09685: B = 0).

    Raises:
        PolicyError: PEFT is not installed.
        ConfigError: the model has no modules of the names in ``targets``.
    """
    peft = _peft()
    targets = "all-linear" if config.targets is None else list(config.targets)
    alpha = config.rank if config.alpha is None else config.alpha
    settings = peft.LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "lora") >> 1)  # PEFT draws A from torch's own generator
            policy.adapter = peft.get_peft_model(policy.model, settings, adapter_name=STUDENT)
    except ValueError as error:
        raise ConfigError(f"lora.targets={targets!r} does not fit {policy.name!r}: {' '.join(str(error).split())[:200]}") from None
    policy.adapter.eval()


def add_teacher(adapter: PeftModel) -> None:
    """Add the second adapter: a copy of the student's that is never trained."""
    with torch.random.fork_rng(devices=[]):
        adapter.add_adapter(TEACHER, copy.deepcopy(adapter.peft_config[STUDENT]))
    parameters = dict(adapter.named_parameters())
    for name, parameter in parameters.items():
        if f".{TEACHER}." in name:
            parameter.requires_grad_(False).data.copy_(parameters[name.replace(f".{TEACHER}.", f".{STUDENT}.")])
    adapter.eval()


def teacher_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the second adapter's parameters under the names that the student's have."""
    found = named_weights(model)
    return {name.replace(f".{TEACHER}.", f".{STUDENT}."): p for name, p in found.items() if f".{TEACHER}." in name}


class AdapterView:
    """A causal LM as it is under another adapter, or under none; for scoring (see :func:`sdgym.policy.hidden_states`).

    Args:
        model: the causal LM that PEFT changed.
        adapter: whose adapter is on; None means none.
    """

    def __init__(self, model: Any, adapter: str | None) -> None:
        self._model, self._adapter = model, adapter
        self.config, self.parameters, self.get_output_embeddings = model.config, model.parameters, model.get_output_embeddings

    def base_model(self, **inputs: Any) -> Any:
        """Run the body under the view's adapter, without gradient."""
        with torch.no_grad(), _switched(self._model, self._adapter):
            return self._model.base_model(**inputs)


@contextlib.contextmanager
def _switched(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Use ``adapter`` inside this context.

    PEFT's own switches also set ``requires_grad``. References are scored between the student's forward and backward,
    where those flags must stay as they are (sharded training reads them), so the two fields behind are set instead.
    """
    layers = _layers(model)
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [adapter or STUDENT], adapter is None
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def _layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, tensor)`` of the model without adapters that computes the same: W + s·B·A under the name of W.

    Every parameter of a model without adapters comes as it is. Nothing is changed, and tied weights come once.
    """
    layers = {name.replace(WRAPPED, ""): module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name, parameter in named_weights(model).items():
        owner, _, rest = name.rpartition(".base_layer.")
        if owner in layers:
            value = parameter.detach()
            yield f"{owner}.{rest}", value + layers[owner].get_delta_weight(STUDENT).to(value.dtype) if rest == "weight" else value
        elif ".lora_" not in name:
            yield name, parameter.detach()


def load_adapter(folder: Path, **options: Any) -> Policy:
    """Load the base model that an adapter folder names, with the adapter merged into its weights.

    Raises:
        PolicyError: PEFT is not installed, or the folder does not hold a safetensors adapter of that model.
    """
    from sdgym.policy import Policy

    peft = _peft()
    if not (folder / WEIGHTS_FILE).is_file():
        raise PolicyError(f"{str(folder)!r} holds no {WEIGHTS_FILE}: save the adapter as safetensors")
    try:
        base = str(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{str(folder / CONFIG_FILE)!r} names no base model ({type(error).__name__}: {error})") from None
    policy = Policy.load(base, **options)
    try:
        merged = peft.PeftModel.from_pretrained(policy.model, str(folder)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise PolicyError(f"the adapter in {str(folder)!r} does not fit {base!r}: {' '.join(str(error).split())[:200]}") from None
    return Policy(merged.eval(), policy.tokenizer, str(folder), policy.chat.enable_thinking)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise PolicyError("LoRA needs the package peft: pip install 'sdgym-rl[peft]'") from None
    return peft
