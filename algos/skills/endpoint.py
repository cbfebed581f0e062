"""An OpenAI-compatible chat endpoint as a summariser, with the standard library alone."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Sequence
from typing import Any

from sdgym.algos.base import CollectContext
from sdgym.core import Message
from sdgym.errors import ConfigError

MAX_BYTES = 1 << 20
"""Longest answer that is read."""
RETRIES = 3
FATAL = {401: "the key is missing or wrong", 403: "the key may not use it", 404: "there is no such path or model"}
PASSING = frozenset({408, 425, 429})  # and 5xx


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""
        return


class Endpoint:
    """``POST {url}/chat/completions``, several requests at a time, answers in order.

    A request that fails for a passing reason (no connection, time-out, 429, 5xx) is tried again and then given up with a
    warning, one that is refused (too long, for example) at once: that attempt leaves no skill. What will never work for
    any request (a wrong key, path or model) stops the run.

    Args:
        url: base address, as ``http://localhost:8000/v1``.
        model: the model's name there.
        key_env: environment variable that holds the key, or "" for none; the key itself is never stored or logged.
        max_tokens: of an answer.
        timeout: seconds per request.
        workers: requests at once.
        wait: seconds before the first repetition, doubled each time.

    Raises:
        ConfigError: an address that is not http(s), or an empty variable.
    """

    def __init__(
        self, url: str, model: str, key_env: str = "", max_tokens: int = 512, timeout: float = 60.0, workers: int = 4, wait: float = 1.0
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the summariser's address must look like http://localhost:8000/v1, got {url!r}")
        if key_env and not os.environ.get(key_env):
            raise ConfigError(
                f"the environment variable {key_env} for the summariser's key is empty: set it, or leave summariser_key_env out"
            )
        self.url, self.model, self.key_env = url.rstrip("/") + "/chat/completions", model, key_env
        self.max_tokens, self.timeout, self.workers, self.wait = max_tokens, timeout, workers, wait
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, conversations: Sequence[list[Message]], context: CollectContext) -> list[str | None]:
        """Return the answers, None where one could not be had; reports how many tokens they took and how many failed.

        Raises:
            ConfigError: the endpoint says that no request will ever work.
        """
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            found = list(pool.map(self._ask, conversations))
        failed = [error for _, _, error in found if error]
        if failed:
            warnings.warn(f"{len(failed)} of {len(found)} summaries failed at {self.url}: {failed[0]}", stacklevel=2)
        context.report("summary_failed", float(len(failed)))
        context.report("summary_tokens", float(sum(tokens for _, tokens, _ in found)))
        return [answer for answer, _, _ in found]

    def _ask(self, messages: list[Message]) -> tuple[str | None, int, str]:
        """Return (answer, completion tokens, what went wrong)."""
        body = json.dumps({"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0}).encode()
        error = ""
        for attempt in range(RETRIES):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                with self._opener.open(self._request(body), timeout=self.timeout) as answer:
                    return *_read(answer.read(MAX_BYTES)), ""
            except urllib.error.HTTPError as refusal:
                if refusal.code in FATAL:
                    raise ConfigError(f"the summariser at {self.url} answered {refusal.code}: {FATAL[refusal.code]}") from None
                error = f"HTTP {refusal.code}"
                if refusal.code < 500 and refusal.code not in PASSING:
                    break
            except (OSError, http.client.HTTPException, ValueError) as failure:
                error = f"{type(failure).__name__}: {failure}"
        return None, 0, error

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.key_env:
            headers["Authorization"] = f"Bearer {os.environ[self.key_env]}"
        return urllib.request.Request(self.url, data=body, headers=headers, method="POST")


def _read(data: bytes) -> tuple[str, int]:
    """Return the first choice's text and the tokens it took. Raises :class:`ValueError` for anything else than a chat completion."""
    try:
        tree = json.loads(data)
        text, usage = tree["choices"][0]["message"]["content"], tree.get("usage") or {}
        tokens = int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ValueError("the answer is not a chat completion") from None
    if not isinstance(text, str):
        raise ValueError("the answer holds no text")
    return text, tokens
