"""What every app with a password has: ``login``, ``logout`` and ``account``."""

from __future__ import annotations

from sdgym.envs.tools.api import ApiError, App, Json, Short
from sdgym.envs.tools.session import Call, new_token


def password_of(app: str, email: str) -> str:
    """Return the password of an account: fixed, since guessing it is not the task."""
    return f"{app}!{email.split('@')[0]}"


def with_account(app: App) -> App:
    """Add the account APIs to ``app`` and return it."""

    @app.open_api
    def login(call: Call, username: Short, password: Short) -> Json:
        """Log in and get the access token that all other calls of this app need.

        username: e-mail address of the account
        password: see supervisor.passwords
        """
        if username.lower() != call.me or password != password_of(app.name, call.me):
            raise ApiError(401, "wrong username or password; supervisor.passwords lists both")
        return {"access_token": new_token(call.episode, app.name)}

    @app.api
    def logout(call: Call) -> Json:
        """Log out: every access token of this app becomes invalid."""
        tokens = call.episode.tokens
        for token in [token for token, owner in tokens.items() if owner == app.name]:
            del tokens[token]
        return {"message": "logged out"}

    @app.api
    def account(call: Call) -> Json:
        """Show whose account this is."""
        return {"name": call.episode.me.name, "email": call.me, "phone": call.episode.me.phone}

    return app
