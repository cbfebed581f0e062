"""JSON over HTTP to a server the user names, with the standard library alone. The key is never stored, logged or sent elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from sdgym.errors import ConfigError, PolicyError

MAX_BYTES = 16 << 20
"""Longest answer that is read."""
RETRIES = 5
FATAL = {401: "the key is missing or wrong", 403: "the key may not use it", 404: "there is no such path or model"}
PASSING = frozenset({408, 425, 429})  # and 5xx


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""
        return


class Endpoint:
    """A server that answers JSON with JSON. Requests that fail for a passing reason are tried again.

    Args:
        url: base address; without user name, query or fragment, which would appear in logs.
        key_env: environment variable that holds the key, or "" for none.
        what: how messages call it.
        timeout: seconds per request.
        wait: seconds before the first repetition, doubled each time.

    Raises:
        ConfigError: the address or the variable cannot be used.
    """

    def __init__(self, url: str, key_env: str = "", what: str = "the endpoint", timeout: float = 300.0, wait: float = 1.0) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"{what} needs an address such as http://localhost:8000/v1, got {url!r}")
        if parts.username or parts.password or parts.query:
            raise ConfigError(f"the address of {what} must hold no user name, password or query: put the key into an environment variable")
        if key_env and not os.environ.get(key_env):
            raise ConfigError(f"the environment variable {key_env} for the key of {what} is empty: set it, or name none")
        self.url, self.what, self.timeout, self.wait, self._key_env = url.rstrip("/"), what, timeout, wait, key_env
        self._opener = urllib.request.build_opener(_NoRedirect)

    def get(self, path: str) -> Any:
        """Return the JSON at ``path``; see :meth:`post`."""
        return self._ask(path, None)

    def post(self, path: str, body: Any) -> Any:
        """Send JSON and return the answer's; an empty answer is {}.

        Raises:
            ConfigError: no request will ever work (wrong key, path or model).
            PolicyError: it was refused, or failed as often as it was tried.
        """
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        error = ""
        for attempt in range(RETRIES):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                with self._opener.open(self._request(path, body), timeout=self.timeout) as answer:
                    return json.loads(answer.read(MAX_BYTES) or b"{}")
            except urllib.error.HTTPError as refusal:
                if refusal.code in FATAL:
                    raise ConfigError(f"{self.what} at {self.url} answered {refusal.code}: {FATAL[refusal.code]}") from None
                error = f"HTTP {refusal.code}"
                if refusal.code < 500 and refusal.code not in PASSING:
                    break
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as failure:
                error = f"{type(failure).__name__}: {failure}"[:200]
        raise PolicyError(f"{self.what} at {self.url} gave no answer ({error})")

    def _request(self, path: str, body: bytes | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self._key_env:
            headers["Authorization"] = f"Bearer {os.environ[self._key_env]}"
        return urllib.request.Request(self.url + path, data=body, headers=headers, method="GET" if body is None else "POST")
