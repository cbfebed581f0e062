"""DeepSpeed's ZeRO 1 and 2 under Accelerate: which configurations work here, and what its engine does in PyTorch's place.

Every process holds whole weights; gradients (stage 2) and the optimizer's state are parted among them. The engine makes the
optimizer step itself, clipping included, and Accelerate's ``backward`` would let it step after every micro-batch: so the engine is
driven directly, as its ``set_gradient_accumulation_boundary`` describes. Read against DeepSpeed 0.19 and Accelerate 1.15.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdgym.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps per weight; beside them ``step``, which the weights of one process share."""


def asked() -> bool:
    """Whether the launcher wants DeepSpeed (``accelerate launch --use_deepspeed``)."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def accelerator_settings(device: str) -> dict[str, Any]:
    """Return what Accelerate needs to be told, so that DeepSpeed is used where the launcher wants it.

    Raises:
        ConfigError: DeepSpeed is not installed, or the run is to leave a GPU idle.
    """
    import torch
    from accelerate.utils import InitProcessGroupKwargs, is_deepspeed_available

    if not is_deepspeed_available():
        raise ConfigError("the launcher asks for DeepSpeed, which is not installed: pip install deepspeed")
    if device != "cpu":
        return {"cpu": False}
    if torch.cuda.is_available():
        raise ConfigError("DeepSpeed takes the GPU that it finds: leave device=cpu out, or hide the GPU with CUDA_VISIBLE_DEVICES=")
    # Accelerate ignores DeepSpeed where it is told to use the CPU, and finds no back end where it is not.
    return {"cpu": False, "kwargs_handlers": [InitProcessGroupKwargs(backend="gloo")]}


def complete(config: dict[str, Any], grad_clip: float, processes: int = 1) -> None:
    """Check a DeepSpeed configuration and fill in what Accelerate leaves to the trainer (in place).

    Args:
        config: DeepSpeed's, as Accelerate read it.
        grad_clip: the run's largest gradient norm; 0 for none.
        processes: of the run. Accelerate writes their number into ``train_batch_size``, where a second run of a process finds it.

    Raises:
        ConfigError: a stage without parted state, ZeRO-3 or offloading (the sampler reads whole weights where they are), float16, or
            a setting that belongs to the run.
    """
    zero = config.get("zero_optimization") or {}
    stage, offload = int(zero.get("stage", 0)), [(zero.get(f"offload_{what}") or {}).get("device") for what in ("param", "optimizer")]
    if stage == 3 or any(device not in (None, "none") for device in offload):
        raise ConfigError(
            "DeepSpeed ZeRO-3 and offloading part the weights from the sampler that reads them: use zero stage 1 or 2, or FSDP2"
        )
    if stage not in (1, 2):
        raise ConfigError(f"DeepSpeed zero stage {stage} shares nothing out: use stage 1 or 2, or launch without DeepSpeed")
    if (config.get("fp16") or {}).get("enabled") is True:
        raise ConfigError("DeepSpeed float16 scales losses, and the objective's metrics with them: use bf16")
    if config.get("gradient_accumulation_steps") not in (None, "auto", 1):
        raise ConfigError("gradient_accumulation_steps of DeepSpeed must be auto or 1: update.micro_tokens cuts the batch")
    if config.get("train_batch_size") not in (None, "auto", processes):
        raise ConfigError("train_batch_size of DeepSpeed must be auto: tasks_per_step and group_size make the batch")
    if config.get("gradient_clipping") not in (None, "auto", grad_clip):
        raise ConfigError(f"gradient_clipping of DeepSpeed must be auto or {grad_clip}, which is optimizer.grad_clip")
    for name in {"optimizer", "scheduler"} & config.keys():
        raise ConfigError(f"take {name!r} out of DeepSpeed's configuration: the run has its own AdamW and learning rate (optimizer.*)")
    config["gradient_accumulation_steps"], config["gradient_clipping"] = 1, grad_clip
    config["train_micro_batch_size_per_gpu"] = 1  # a packed micro-batch is one
    if (config.get("bf16") or {}).get("enabled") is True:
        config["bf16"]["check_grad_overflow"] = True  # a gradient that is not finite must not reach the weights


def is_zero(accelerator: Any) -> bool:
    """Whether an optimizer's state is parted by DeepSpeed."""
    return accelerator is not None and accelerator.distributed_type == "DEEPSPEED"


def parted(optimizer: Any) -> Any:
    """Return DeepSpeed's own optimizer inside Accelerate's, or None where it is another."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "single_partition_of_fp32_groups") else None


def backward(engine: Any, loss: Tensor, last: bool) -> None:
    """Add the gradient of one micro-batch; ``last`` says that the optimizer step is next."""
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)


def step(engine: Any) -> float:
    """Clip, step, and return the gradient's norm before clipping; nothing is changed where that is not finite."""
    engine.step()
    return float(engine.get_global_grad_norm())


def training_state(named: Mapping[str, nn.Parameter], zero: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return trained weights in float32 and the optimizer's moments, whole, as :func:`sdgym.parallel.training_state` does.

    Args:
        named: the model's parameters; all processes must ask.
        zero: DeepSpeed's optimizer.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    trained = {name: p for name, p in named.items() if p.requires_grad}
    weights = {name: safe_get_full_fp32_param(p) for name, p in trained.items()}
    state = zero.state.get(zero.single_partition_of_fp32_groups[0])
    if not state:  # before the first step
        return weights, {}
    moments = {f"{name}/{slot}": safe_get_full_optimizer_state(p, slot) for name, p in trained.items() for slot in MOMENTS}
    return weights, moments | {f"{name}/step": state["step"].clone() for name in trained}


def load_training_state(named: Mapping[str, nn.Parameter], zero: Any, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Take over what any number of processes saved, with DeepSpeed or without; ``named`` are the trained parameters."""
    import torch
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    for name, parameter in named.items():
        parameter.data.copy_(weights[name])
        safe_set_full_fp32_param(parameter, weights[name].to(parameter.device, torch.float32))
    if not moments:
        return
    count = next(value for key, value in moments.items() if key.endswith("/step"))
    for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        zero.state[flat] = {"step": count.clone(), **{slot: torch.zeros_like(flat) for slot in MOMENTS}}
        for parameter in group:
            if parameter._hp_mapping is not None:  # a piece of it is here
                parameter._hp_mapping.set_optim_state_fragment(flat, zero.state[flat])
    for name, parameter in named.items():
        for slot in MOMENTS:
            safe_set_full_optimizer_state(parameter, moments[f"{name}/{slot}"].to(parameter.device, torch.float32), slot)
