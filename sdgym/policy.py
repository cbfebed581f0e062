"""A causal language model as a policy: load, forward, save. Weights live in Hugging Face format throughout."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdgym.chat import ChatFormat
from sdgym.errors import ConfigError, PolicyError, UnknownNameError
from sdgym.model_store import EMBEDDED, FETCHABLE, known_names, local_path

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Policy:
    """A causal language model with its tokenizer and chat format.

    Attributes:
        model: a Hugging Face causal LM; the learner trains it, the sampler reads it.
        tokenizer, chat: text side.
        name: what the user asked for.
        context_limit: positions the model was built for.
        vocab_size: V, the width of the logits.
        token_cost: attention cells worth one token, for :func:`sdgym.packing.pack`.
        adapter: PEFT's view of ``model`` where an adapter is trained instead of the weights (:func:`sdgym.adapters.add_lora`).
    """

    adapter: PeftModel | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, enable_thinking: bool | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        config = model.config.get_text_config()
        generation = getattr(model, "generation_config", None)
        stops = getattr(generation, "eos_token_id", None)
        self.chat = ChatFormat(tokenizer, enable_thinking, [stops] if isinstance(stops, int) else stops or [])
        self.context_limit = int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0) or 2048)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.token_cost = 4 * int(config.hidden_size)
        _check_split_head(model)

    @classmethod
    def load(
        cls,
        name_or_path: str,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        enable_thinking: bool | None = None,
    ) -> Policy:
        """Load an embedded policy, a fetched model, a local folder or a Hugging Face id.

        Only safetensors weights are read and no code from a model folder is ever run. The folder of a PEFT adapter
        gives its base model with the adapter merged in.

        Args:
            name_or_path: ``tiny`` and its siblings, a name of ``sdgym model list``, a folder, or ``owner/name``.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            threads: CPU threads for torch; None leaves them.
            enable_thinking: passed to the chat template when not None.

        Raises:
            UnknownNameError: no such name and no such folder.
            ConfigError: unknown dtype, or a device that this machine lacks.
            PolicyError: the folder does not hold a usable model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if name_or_path.startswith("openai:"):
            raise ConfigError("an endpoint (openai:URL) can be evaluated and cannot be trained: its weights are elsewhere")
        target = _device(device)
        precision = _dtype(dtype, target)
        if threads is not None:
            torch.set_num_threads(max(1, threads))
        folder = local_path(name_or_path)
        if folder is None and (Path(name_or_path).expanduser() / "adapter_config.json").is_file():
            from sdgym.adapters import load_adapter

            return load_adapter(
                Path(name_or_path).expanduser(), device=device, dtype=dtype, threads=threads, enable_thinking=enable_thinking
            )
        if folder is None and name_or_path in FETCHABLE:
            raise PolicyError(f"model {name_or_path!r} is not here yet; get it with: sdgym model fetch {name_or_path}")
        if folder is None and name_or_path in EMBEDDED:
            raise PolicyError(f"the embedded policy {name_or_path!r} is missing from this installation; install sdgym again")
        if folder is None and not _HUB_ID.fullmatch(name_or_path):
            raise UnknownNameError("model", name_or_path, known_names())
        source = name_or_path if folder is None else str(folder)
        options: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=precision, use_safetensors=True, attn_implementation="sdpa", **options
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            advice = "check the folder" if folder is not None else "check the name and the network, or give a local folder"
            raise PolicyError(f"cannot load model {name_or_path!r}: {reason}; {advice}") from error
        torch.nn.Module.to(model, target)
        return cls(model.eval(), tokenizer, name_or_path, enable_thinking)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the last hidden states ``[B, L, D]``; see :func:`hidden_states`."""
        return hidden_states(self.model, input_ids, attention_mask, position_ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits ``[S, V]`` of selected hidden states ``[S, D]``; see :func:`head_logits`."""
        return head_logits(self.model, hidden)

    def save(self, path: str | Path) -> None:
        """Write model (or adapter), tokenizer and chat template as a Hugging Face (or PEFT) folder (safetensors)."""
        if self.adapter is None:
            self.model.save_pretrained(path)
        else:
            self.adapter.save_pretrained(str(path), selected_adapters=["default"])
        self.tokenizer.save_pretrained(path)

    def state_hash(self) -> str:
        """Return the SHA-256 of all weights: equal hashes, equal bits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def hidden_states(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the last hidden states ``[B, L, D]`` of a causal LM, without its head.

    Args:
        model: a Hugging Face causal LM.
        input_ids: int64 ``[B, L]``.
        attention_mask: ``[B, L]`` (1 = token), bool ``[B, 1, L, L]`` (True = seen), or None for causal.
        position_ids: int64 ``[B, L]``, or None for 0 … L-1.
    """
    if attention_mask is not None and attention_mask.ndim == 4 and attention_mask.dtype == torch.bool:
        dtype = next(model.parameters()).dtype  # additive form: made once, not once per layer
        attention_mask = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device).masked_fill_(
            ~attention_mask, torch.finfo(dtype).min
        )
    output = model.base_model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits ``[..., V]`` of hidden states ``[..., D]``, with the architecture's own scaling and soft cap."""
    config = model.config.get_text_config()
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


def recompute_layers(model: PreTrainedModel) -> None:
    """Let every layer keep only its input for the backward pass and compute the rest again (activation checkpointing).

    Layers do so in training mode only; the flag is set on them and not on what is inside, so dropout stays off.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _check_split_head(model: PreTrainedModel) -> None:
    """Refuse an architecture whose logits are not head(last hidden state): every loss would be wrong."""
    with torch.no_grad():
        width = model.get_output_embeddings().weight.shape[0]  # ids inside the vocabulary: padding's embedding may be zero
        ids = torch.tensor([[width // 3, width // 2]], device=next(model.parameters()).device)
        ours, theirs = head_logits(model, hidden_states(model, ids)), model(input_ids=ids, use_cache=False).logits
    error = float((ours.float() - theirs.float()).abs().max())
    if not error <= 1e-3 * max(1.0, float(theirs.float().abs().max())):
        raise PolicyError(
            f"{type(model).__name__} changes its logits after the head (difference {error:.3g} on a probe), "
            "which sdgym does not know; use a Llama-, Qwen-, Mistral- or Gemma-style model"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use 'cpu', or a device torch can see"
        ) from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name not in DTYPES:
        raise UnknownNameError("dtype", name, DTYPES)
    if device.type == "cpu" and name == "float16":
        raise ConfigError("float16 on the CPU is neither fast nor exact enough to train; use float32")
    if device.type == "cpu" and name == "bfloat16" and not cpu_has_bfloat16():
        raise ConfigError("this CPU has no bfloat16 instructions, so bfloat16 would be slower and less exact; use float32")
    return DTYPES[name]


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo")
    return "bf16" in flags.read_text(errors="ignore") if flags.exists() else "BF16" in capabilities
