"""An OpenAI-compatible chat endpoint as a summariser."""

from __future__ import annotations

import concurrent.futures
import warnings
from collections.abc import Sequence
from typing import Any

from sdgym.algos.base import CollectContext
from sdgym.core import Message
from sdgym.endpoint import Endpoint
from sdgym.errors import PolicyError


class ChatEndpoint:
    """``POST {url}/chat/completions``, several requests at a time, answers in order.

    A request that fails (:meth:`sdgym.endpoint.Endpoint.post`: after some repetitions where the reason may pass) is given up with
    a warning: that attempt leaves no skill. What will never work for any request (a wrong key, path or model) stops the run.

    Args:
        url: base address, as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_env: environment variable that holds the key, or "" for none.
        max_tokens: of an answer.
        timeout: seconds per request.
        workers: requests at once.
        wait: seconds before the first repetition, doubled each time.

    Raises:
        ConfigError: the address or the variable cannot be used.
    """

    def __init__(
        self, url: str, model: str, key_env: str = "", max_tokens: int = 512, timeout: float = 60.0, workers: int = 4, wait: float = 1.0
    ) -> None:
        self._server = Endpoint(url, key_env, "the summariser", timeout, wait)
        self.model, self.max_tokens, self.workers = model, max_tokens, workers

    def __call__(self, conversations: Sequence[list[Message]], context: CollectContext) -> list[str | None]:
        """Return the answers, None where one could not be had; reports how many tokens they took and how many failed.

        Raises:
            ConfigError: the endpoint says that no request will ever work.
        """
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            found = list(pool.map(self._ask, conversations))
        failed = [error for _, _, error in found if error]
        if failed:
            warnings.warn(f"{len(failed)} of {len(found)} summaries failed: {failed[0]}", stacklevel=2)
        context.report("summary_failed", float(len(failed)))
        context.report("summary_tokens", float(sum(tokens for _, tokens, _ in found)))
        return [answer for answer, _, _ in found]

    def _ask(self, messages: list[Message]) -> tuple[str | None, int, str]:
        """Return (answer, completion tokens, what went wrong)."""
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0}
        try:
            return *self._read(self._server.post("/chat/completions", body)), ""
        except PolicyError as error:
            return None, 0, str(error)

    def _read(self, tree: Any) -> tuple[str, int]:
        """Return the first choice's text and the tokens it took. Raises :class:`PolicyError` for anything else than a chat completion."""
        try:
            text, usage = tree["choices"][0]["message"]["content"], tree.get("usage") or {}
            tokens = int(usage.get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            text, tokens = None, 0
        if not isinstance(text, str):
            raise PolicyError(f"the summariser at {self._server.url} answered something else than a chat completion")
        return text, tokens
