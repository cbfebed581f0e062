"""Docs: which apps there are, which APIs, and how each is called."""

from __future__ import annotations

import re

from sdgym.envs.tools.api import ApiError, App, Json, Short
from sdgym.envs.tools.session import Call, find_api

docs = App("docs", "Documentation of all apps and APIs.", auth=False)


@docs.api
def apps(call: Call) -> Json:
    """List the apps."""
    return {"apps": {name: app.description for name, app in call.apps.items()}}


@docs.api
def apis(call: Call, app: Short) -> Json:
    """List the APIs of an app, a sentence each.

    app: name of the app
    """
    if app not in call.apps:
        raise ApiError(404, f"there is no app {app[:40]!r}; known: {', '.join(call.apps)}")
    return {"apis": {api.tool: api.description for api in call.apps[app].apis.values()}}


@docs.api
def show(call: Call, api: Short) -> Json:
    """Show the arguments of an API as a JSON schema.

    api: its name, for example mail.list
    """
    function: Json = find_api(call.apps, api).schema()["function"]
    return function


@docs.api
def search(call: Call, query: Short) -> Json:
    """Find the APIs whose name or description has most words of a query, at most eight.

    query: words
    """
    words = set(re.findall(r"\w+", query.lower()))
    found = []
    for app in call.apps.values():
        for api in app.apis.values():
            score = len(words & set(re.findall(r"[^\W_]+", f"{api.tool} {api.description}".lower())))
            if score:
                found.append((-score, api.tool, api.description))
    return {"apis": {tool: description for _, tool, description in sorted(found)[:8]}}
