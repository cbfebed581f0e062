"""An OpenAI-compatible chat endpoint as a policy to evaluate: ``openai:URL`` or ``openai:URL#model``.

The endpoint has its own tokenizer and template, which nobody here knows. What stands in for tokens are bytes: a prompt
is the conversation as JSON, an action is its text in UTF-8, so lengths are bytes. Log-probs are unknown (NaN), so such
a policy can be evaluated and cannot be trained.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.core import Message
from sdgym.endpoint import Endpoint
from sdgym.errors import ConfigError, PolicyError
from sdgym.generation.base import Request, Sample

PREFIX = "openai:"
KEY = "OPENAI_API_KEY"
WORKERS = 16
"""Requests in flight at once."""
MAX_TOKENS = 1024
"""Tokens per turn where nobody says; an environment's own limit counts the embedded policies' characters."""


def is_endpoint(model: object) -> bool:
    """Whether ``model`` names an endpoint."""
    return isinstance(model, str) and model.startswith(PREFIX)


def endpoint_of(name: str, wait: float = 1.0) -> tuple[Endpoint, str]:
    """Return the server and the model ("" if none is named) of ``openai:URL#model``. Raises :class:`ConfigError` for a bad address."""
    url, _, model = name.removeprefix(PREFIX).partition("#")
    return Endpoint(url, key_env=KEY if os.environ.get(KEY) else "", wait=wait), model


class ByteChat:
    """Messages to bytes and back, in the shape of :class:`sdgym.chat.ChatFormat`."""

    end_ids: tuple[int, ...] = ()

    def with_tools(self, tools: object) -> ByteChat:
        """Return this format: tools are described in the environment's own text."""
        return self

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> np.ndarray:
        """Return the conversation as JSON, one id per byte: int64 ``[L]``."""
        return np.frombuffer(json.dumps([dict(m) for m in messages]).encode(), np.uint8).astype(np.int64)

    def continuation_ids(self, history: Sequence[Message], new: Sequence[Message], ended: bool, tools: object = None) -> None:
        """Return None: every turn sends the whole conversation."""
        return

    def decode_action(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of an answer."""
        return bytes(int(i) for i in ids).decode("utf-8")


class EndpointSampler:
    """Asks the endpoint for every turn; see :class:`sdgym.generation.base.Sampler`.

    The key comes from ``$OPENAI_API_KEY`` if it is set, and goes nowhere else.

    Args:
        name: ``openai:URL`` or ``openai:URL#model``.
        workers: requests in flight.
        wait: seconds before a failed request is repeated, doubled each time.

    Raises:
        ConfigError: the address cannot be used, or the endpoint serves several models and none was named.
        PolicyError: it gives no answer.
    """

    def __init__(self, name: str, workers: int = WORKERS, wait: float = 1.0) -> None:
        self._server, model = endpoint_of(name, wait)
        self.context_limit = 1 << 24  # bytes; the endpoint has its own limit and says so
        self.model = model or self._only_model()
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="endpoint")
        self._pending: dict[int, concurrent.futures.Future[Sample]] = {}  # in submit order

    def _only_model(self) -> str:
        try:
            names = [str(entry["id"]) for entry in self._server.get("/models")["data"]]
        except (KeyError, TypeError):
            raise ConfigError(f"{self._server.url} does not list its models: name one, as {PREFIX}{self._server.url}#MODEL") from None
        if len(names) != 1:
            raise ConfigError(f"{self._server.url} serves {len(names)} models ({', '.join(names[:5])}): name one with #MODEL")
        return names[0]

    def submit(self, request: Request) -> None:
        """Send a request."""
        self._pending[request.request_id] = self._pool.submit(self._ask, request)

    def _ask(self, request: Request) -> Sample:
        s = request.sampling
        body = {"model": self.model, "messages": json.loads(bytes(request.new_ids.astype(np.uint8)))}
        body |= {"temperature": s.temperature, "max_tokens": s.max_tokens, "seed": request.noise_key >> 33}
        if s.top_p < 1.0:
            body["top_p"] = s.top_p
        answer = self._server.post("/chat/completions", body)
        try:
            (choice,) = answer["choices"]
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason")
            ids = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise PolicyError(f"the endpoint at {self._server.url} answered something else than a chat completion") from None
        return Sample(request.request_id, ids, np.full(len(ids), np.nan, np.float32), "length" if reason == "length" else "eos")

    def tick(self) -> list[Sample]:
        """Wait for an answer; return all that are there, in submit order.

        Raises:
            PolicyError: a request failed as often as it was tried.
        """
        concurrent.futures.wait(self._pending.values(), return_when=concurrent.futures.FIRST_COMPLETED)
        done = [i for i, future in self._pending.items() if future.done()]
        return [self._pending.pop(i).result() for i in done]

    def release(self, session: int) -> None:
        """Nothing is kept."""

    @property
    def pending(self) -> int:
        """Requests submitted and not yet returned."""
        return len(self._pending)

    def sync_weights(self) -> None:
        """Raise: the weights are elsewhere."""
        raise PolicyError("an endpoint can be evaluated and cannot be trained")

    def close(self) -> None:
        """Drop what has not been sent yet."""
        self._pool.shutdown(wait=False, cancel_futures=True)
