"""vLLM as the generation back end: in this process, or a server on the network that takes the weights from a shared folder.

Ids and log-probs are the engine's own; nothing is tokenised again. The engine caches prefixes, so a session is only
its tokens so far and every turn sends them all. After every update the weights are pushed and its cache dropped.
Sampler and trainer are two implementations here: their log-probs are compared when the back end is built and at every
update (``train/logprob_gap``), and :mod:`sdgym.session` turns on truncated importance weights against the difference.
Noise is vLLM's own, seeded per request: no equal bits with the embedded sampler.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sdgym.endpoint import Endpoint
from sdgym.errors import ConfigError, PolicyError, SdgymError
from sdgym.files import unfinished
from sdgym.generation.base import Request, Sample, SamplingParams
from sdgym.model_store import local_path
from sdgym.packing import score_sequences
from sdgym.parallel import World
from sdgym.policy import Policy

Weights = Callable[[], Iterable[tuple[str, Tensor]]]
"""Gives the policy's current weights by name, whole and without adapters."""
PROBE = SamplingParams(temperature=0.7, max_tokens=4)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
"""Largest difference in log-prob between engine and trainer on the probe, by the engine's dtype."""


@dataclasses.dataclass
class Raw:
    """What an engine says about one request."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    stopped: bool


class _VLLMSampler:
    """What both back ends share: sessions, limits, order; see :class:`sdgym.generation.base.Sampler`."""

    def __init__(self, policy: Policy, tolerance: float) -> None:
        self.policy, self.context_limit, self._tolerance = policy, policy.context_limit, tolerance
        self._sessions: dict[int, list[int]] = {}
        self._pending: dict[int, Request] = {}  # in submit order
        self._full: list[int] = []
        self._pushed = False

    def submit(self, request: Request) -> None:
        """Send a request to the engine.

        Raises:
            ConfigError: the sampling settings truncate: vLLM then reports log-probs of the truncated distribution.
        """
        s = request.sampling
        if s.top_p < 1.0 or s.top_k > 0 or s.min_p > 0.0:
            raise ConfigError("generation.engine=vllm records log-probs after truncation: leave sampling.top_p, top_k and min_p at 1, 0, 0")
        context = self._sessions.setdefault(request.session, [])
        context += [int(i) for i in request.new_ids]
        self._pending[request.request_id] = request
        room = self.context_limit - len(context)
        if room <= 0:
            self._full.append(request.request_id)
        else:
            self._send(request, list(context), min(s.max_tokens, room))

    def tick(self) -> list[Sample]:
        """Let the engine go on; return the requests that finished, in submit order."""
        nothing = Raw((), (), False)
        done = {request_id: nothing for request_id in self._full} or dict(self._receive())
        self._full = []
        return [self._finish(self._pending.pop(i), done[i]) for i in list(self._pending) if i in done]

    def _finish(self, request: Request, raw: Raw) -> Sample:
        context = self._sessions[request.session]
        context += raw.ids
        stop: Literal["eos", "length", "context"] = "eos" if raw.stopped else "length"
        if not raw.stopped and len(raw.ids) < request.sampling.max_tokens:
            stop = "context"
        if not request.keep:
            self.release(request.session)
        return Sample(request.request_id, np.array(raw.ids, np.int64), np.array(raw.logprobs, np.float32), stop)

    def release(self, session: int) -> None:
        """Forget a session's tokens; what the engine has cached of them it drops by itself."""
        self._sessions.pop(session, None)

    @property
    def pending(self) -> int:
        """Requests submitted and not yet returned."""
        return len(self._pending)

    def sync_weights(self) -> None:
        """Push the policy's current weights and drop every session and cached prefix."""
        if self._pending:
            raise PolicyError(f"cannot change weights while {self.pending} requests are pending")
        self._sessions.clear()
        self._push()
        if not self._pushed:
            self.check()
        self._pushed = True

    def check(self) -> None:
        """Generate a few tokens and compare their log-probs with the policy's own forward pass.

        Raises:
            PolicyError: they differ: other weights, another temperature convention (``--logprobs-mode``), another model.
        """
        prompt = np.asarray(self.policy.vocab_size // np.array([2, 3, 4]), np.int64)
        self.submit(Request(-1, -1, prompt, 1, PROBE))
        samples: list[Sample] = []
        while not samples:
            samples = self.tick()
        (sample,) = samples
        places = len(prompt) + np.arange(len(sample.ids))
        ((expected, _),) = score_sequences(self.policy, [(np.concatenate([prompt, sample.ids]), places)], PROBE.temperature, False)
        error = float(np.abs(sample.logprobs - expected).max())
        if not error <= self._tolerance:
            raise PolicyError(
                f"vLLM's log-probs differ from the policy's by {error:.3g} (allowed {self._tolerance}): it must serve the same weights, "
                "and a server must run with --logprobs-mode processed_logprobs"
            )

    def _send(self, request: Request, ids: list[int], max_tokens: int) -> None:
        """Start a request."""
        raise PolicyError("a back end sends its own requests")

    def _receive(self) -> Iterable[tuple[int, Raw]]:
        """Wait until something may have happened; return what has finished."""
        raise PolicyError("a back end receives its own results")

    def _push(self) -> None:
        """Bring the weights to the engine."""
        raise PolicyError("a back end pushes its own weights")


def _settings(request: Request, end_ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """Return the sampling settings that the engine and the server's protocol have in common."""
    return {
        "temperature": request.sampling.temperature,
        "max_tokens": max_tokens,
        "seed": request.noise_key >> 1,  # 63 bits
        "stop_token_ids": list(end_ids),
        "logprobs": 0,
    }


class VLLMSampler(_VLLMSampler):
    """An engine in this process.

    Args:
        policy: the trained policy; the engine loads the same folder or Hugging Face id first.
        weights: see :data:`Weights`.
        slots: sequences decoded at once.
        dtype: of the engine's weights.
        memory: share of the device's memory for the engine (GPU), or gigabytes of its cache (CPU).

    Raises:
        PolicyError: vLLM is not installed, or its log-probs are not the policy's.
    """

    def __init__(self, policy: Policy, weights: Weights, slots: int = 256, dtype: str = "float32", memory: float = 0.4) -> None:
        super().__init__(policy, TOLERANCE[dtype])
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over in memory
        if policy.device.type == "cpu":
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, int(memory))))
        engine, self._params = _vllm()
        folder = local_path(policy.name)
        memory_setting = {} if policy.device.type == "cpu" else {"gpu_memory_utilization": memory}
        arguments = engine.EngineArgs(
            model=policy.name if folder is None else str(folder),
            dtype=dtype,
            max_model_len=self.context_limit,
            max_num_seqs=slots,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            enforce_eager=policy.device.type == "cpu",
            disable_log_stats=True,
            **memory_setting,
        )
        self._weights = weights
        self._engine = engine.LLMEngine.from_engine_args(arguments)
        self.check()

    def _send(self, request: Request, ids: list[int], max_tokens: int) -> None:
        settings = _settings(request, self.policy.chat.end_ids, max_tokens)
        self._engine.add_request(str(request.request_id), {"prompt_token_ids": ids}, self._params(detokenize=False, **settings))

    def _receive(self) -> Iterable[tuple[int, Raw]]:
        for output in self._engine.step():
            if output.finished:
                (found,) = output.outputs
                ids = list(found.token_ids)
                logprobs = [table[token].logprob for table, token in zip(found.logprobs or (), ids, strict=True)]
                yield int(output.request_id), Raw(ids, logprobs, found.finish_reason == "stop")

    def _push(self) -> None:
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(self._weights())})
        self._engine.apply_model(_pack_tied_head)
        if not self._engine.reset_prefix_cache():
            raise PolicyError("vLLM kept prefixes of the old weights")

    def close(self) -> None:
        """Stop the engine, while the process groups it uses are there."""
        self._engine.engine_core.shutdown()


class VLLMServerSampler(_VLLMSampler):
    """A vLLM server, told to read new weights from a folder that both can see.

    The server runs with ``VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs`` and must be
    reachable by nobody else: who can reach it can change its model.

    Args:
        policy: the trained policy; the server serves the same weights to begin with.
        weights: see :data:`Weights`.
        url: base address, as ``http://127.0.0.1:8000``; a key is read from ``$SDGYM_VLLM_KEY`` if it is set.
        folder: where weights are put for the server; on storage that it shares.
        slots: requests in flight.
        world: the processes of the run; the main one pushes.

    Raises:
        ConfigError, PolicyError: no server there, or one that says other things than the policy.
    """

    def __init__(self, policy: Policy, weights: Weights, url: str, folder: Path, slots: int = 256, world: World | None = None) -> None:
        super().__init__(policy, TOLERANCE["bfloat16"])
        key = "SDGYM_VLLM_KEY" if os.environ.get("SDGYM_VLLM_KEY") else ""
        self._server = Endpoint(url, key_env=key, what="the vLLM server", timeout=600.0)
        self._weights, self._folder, self._world = weights, Path(folder), world or World()
        self._model = str(self._server.get("/v1/models")["data"][0]["id"])
        self._pool = concurrent.futures.ThreadPoolExecutor(slots, thread_name_prefix="vllm")
        self._running: dict[concurrent.futures.Future[Mapping[str, Any]], int] = {}
        self.check()

    def _send(self, request: Request, ids: list[int], max_tokens: int) -> None:
        body = {"model": self._model, "prompt": ids, "return_token_ids": True, **_settings(request, self.policy.chat.end_ids, max_tokens)}
        self._running[self._pool.submit(self._server.post, "/v1/completions", body)] = request.request_id

    def _receive(self) -> Iterable[tuple[int, Raw]]:
        done, _ = concurrent.futures.wait(self._running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            request_id = self._running.pop(future)
            try:
                (choice,) = future.result()["choices"]
                ids = [int(i) for i in choice["token_ids"]]
                logprobs = [float(x) for x in choice["logprobs"]["token_logprobs"]]
                stopped = choice["finish_reason"] == "stop"
            except (KeyError, TypeError, ValueError) as error:
                raise PolicyError(
                    f"the vLLM server answered without token ids and log-probs ({error}); it needs vLLM 0.12 or newer"
                ) from None
            if len(ids) != len(logprobs):
                raise PolicyError(f"the vLLM server answered {len(ids)} token ids and {len(logprobs)} log-probs")
            yield request_id, Raw(ids, logprobs, stopped)

    def _push(self) -> None:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._weights()}
        error: SdgymError | None = None
        if self._world.main:
            try:
                self._hand_over(tensors)
            except SdgymError as failure:
                error = failure
        self._world.together(True, error)  # nobody asks before the new weights are there

    def close(self) -> None:
        """Drop what has not been sent yet."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _hand_over(self, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        writing = unfinished(self._folder)
        for old in (writing, self._folder):
            shutil.rmtree(old, ignore_errors=True)
        writing.mkdir(parents=True)
        self.policy.model.config.save_pretrained(writing)
        save_file(tensors, writing / "model.safetensors", metadata={"format": "pt"})
        writing.rename(self._folder)
        self._server.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder.resolve())}})
        if self._server.post("/reset_prefix_cache", {}).get("success") is False:
            raise PolicyError("the vLLM server kept prefixes of the old weights")


def _pack_tied_head(model: Any) -> None:
    """Prepare the head again: one tied to the embedding is not reloaded by itself, and on a CPU it keeps a packed copy."""
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


def _vllm() -> tuple[Any, Any]:
    try:
        import vllm
    except ImportError:
        raise PolicyError("generation.engine=vllm needs the package vllm: see docs/scale.md for versions that fit") from None
    return vllm, vllm.SamplingParams
