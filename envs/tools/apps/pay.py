"""Pay: a balance, payments, and requests for money."""

from __future__ import annotations

from typing import Literal

from sdgym.envs.tools.api import ApiError, App, Dollars, Id, Json, Page, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call
from sdgym.envs.tools.tables import Row

pay = with_account(App("pay", "Send, request and receive money."))
PURSE = pay.table("purse", "owner balance:int")
PAYMENT = pay.table("payment", "sender receiver amount:int note sent_at")
REQUEST = pay.table("request", "requester payer amount:int note status made_at reminded:bool")


def _purse(call: Call) -> Row:
    purse: Row = call.find(PURSE, None, owner=call.me)["items"][0]
    return purse


def _known(call: Call, email: str) -> str:
    if email not in call.episode.people:
        raise ApiError(404, f"nobody with the e-mail address {email[:60]!r} uses this app; phone.contacts has addresses")
    if email == call.me:
        raise ApiError(409, "that is your own account")
    return email


@pay.api
def balance(call: Call) -> Json:
    """Show the balance in dollars."""
    return {"balance": _purse(call)["balance"]}


@pay.api
def payments(call: Call, direction: Literal["sent", "received"] | None = None, page: Page = 1) -> Json:
    """List payments, newest first.

    direction: only sent or only received ones
    page: page of 8 payments
    """
    sent, received = (call.me if direction in (None, way) else None for way in ("sent", "received"))
    if direction is None:
        return call.find(PAYMENT, page, "sent_at DESC, id", where={"? IN (sender, receiver)": call.me})
    return call.find(PAYMENT, page, "sent_at DESC, id", sender=sent, receiver=received)


@pay.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find payments by words in note, sender or receiver, newest first.

    query: text to look for
    page: page of 8 payments
    """
    return call.find(
        PAYMENT, page, "sent_at DESC, id", "*", query, ("note", "sender", "receiver"), where={"? IN (sender, receiver)": call.me}
    )


@pay.api
def show(call: Call, id: Id) -> Json:
    """Show a payment.

    id: number of the payment
    """
    return call.get(PAYMENT, id)


def _send(call: Call, to: str, amount: int, note: str) -> Json:
    purse = _purse(call)
    if amount > purse["balance"]:
        raise ApiError(409, f"the balance of {purse['balance']} dollars does not cover {amount} dollars; pay.deposit adds money")
    call.update(PURSE, purse["id"], balance=purse["balance"] - amount)
    return call.insert(PAYMENT, sender=call.me, receiver=to, amount=amount, note=note, sent_at=call.now)


@pay.api
def send(call: Call, to: Short, amount: Dollars, note: str = "") -> Json:
    """Send money.

    to: e-mail address of the receiver
    amount: whole dollars
    note: what it is for
    """
    return _send(call, _known(call, to), amount, note)


@pay.api
def deposit(call: Call, amount: Dollars) -> Json:
    """Move money from the bank to the balance.

    amount: whole dollars
    """
    purse = _purse(call)
    return call.update(PURSE, purse["id"], balance=purse["balance"] + amount)


@pay.api
def request(call: Call, payer: Short, amount: Dollars, note: str = "") -> Json:
    """Ask somebody for money.

    payer: e-mail address of who should pay
    amount: whole dollars
    note: what it is for
    """
    row = {"requester": call.me, "payer": _known(call, payer), "amount": amount, "note": note}
    return call.insert(REQUEST, **row, status="pending", made_at=call.now)


@pay.api
def requests(call: Call, direction: Literal["to_me", "by_me"] = "to_me", status: str | None = None, page: Page = 1) -> Json:
    """List requests for money, newest first.

    direction: to_me for what others ask, by_me for what one asks oneself
    status: only pending, approved, declined or cancelled ones
    page: page of 8 requests
    """
    who: Json = {"payer" if direction == "to_me" else "requester": call.me}
    return call.find(REQUEST, page, "made_at DESC, id", status=status, **who)


def _pending(call: Call, id: int, role: str) -> Row:
    row = call.get(REQUEST, id)
    if row[role] != call.me:
        raise ApiError(403, f"you are not the {role} of the request {id}")
    if row["status"] != "pending":
        raise ApiError(409, f"the request {id} is {row['status']} already")
    return row


@pay.api
def approve(call: Call, id: Id) -> Json:
    """Pay what somebody asked for.

    id: number of the request
    """
    row = _pending(call, id, "payer")
    _send(call, row["requester"], row["amount"], row["note"])
    return call.update(REQUEST, id, status="approved")


@pay.api
def decline(call: Call, id: Id) -> Json:
    """Decline what somebody asked for.

    id: number of the request
    """
    _pending(call, id, "payer")
    return call.update(REQUEST, id, status="declined")


@pay.api
def cancel(call: Call, id: Id) -> Json:
    """Take back a request of one's own.

    id: number of the request
    """
    _pending(call, id, "requester")
    return call.update(REQUEST, id, status="cancelled")


@pay.api
def remind(call: Call, id: Id) -> Json:
    """Remind somebody of a request of one's own.

    id: number of the request
    """
    _pending(call, id, "requester")
    return call.update(REQUEST, id, reminded=True)


_FOR = ("coffee", "tickets", "groceries", "taxi", "rent", "present", "pizza")


def seed(world: Builder) -> None:
    """Open an account with four pages of payments and some requests in both directions."""
    world.add(PURSE, balance=int(world.rng.integers(400, 900)))
    for _ in range(32):
        pair = [world.me.email, world.pick(world.people).email]
        sender, receiver = pair if world.chance(0.6) else pair[::-1]
        world.add(
            PAYMENT, sender=sender, receiver=receiver, amount=int(world.rng.integers(3, 60)), note=world.pick(_FOR), sent_at=world.past(60)
        )
    for _ in range(8):
        pair = [world.me.email, world.pick(world.people).email]
        requester, payer = pair if world.chance(0.5) else pair[::-1]
        row = {"requester": requester, "payer": payer, "amount": int(world.rng.integers(3, 60)), "note": world.pick(_FOR)}
        world.add(REQUEST, **row, status=world.pick(("pending", "approved", "declined")), made_at=world.past(30))
