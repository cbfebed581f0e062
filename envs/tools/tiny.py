"""Level "tiny": a screen of a few rows and one call to make, with the mistakes a beginner makes.

Each skill below is one function. It fills an empty world with the rows on the screen, says what is right,
and lists wrong calls, the most tempting first: systematic misconceptions (looks at the name only, takes the
opposite extreme, confuses two verbs …), so that information about a task removes candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.pay import PURSE, REQUEST
from sdgym.envs.tools.apps.shop import PRODUCT
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.calls import COMPLETE, ToolCall
from sdgym.envs.tools.families.base import Case, Client, Draw, start
from sdgym.envs.tools.judge import Effect, Goal
from sdgym.envs.tools.session import call_api
from sdgym.envs.tools.tables import Row, Table
from sdgym.envs.tools.world import World, empty_world

NAMES = ("Ana", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Ida")
TOPICS = ("lunch", "trip", "rent", "party", "test", "bill", "game", "visit")
GOODS = ("lamp", "pan", "ball", "chair", "mat", "rope")
SHOWN: dict[str, tuple[str, ...]] = {
    MESSAGE.name: ("sender", "subject"),
    ITEM.name: ("title", "due"),
    PRODUCT.name: ("name", "price"),
    REQUEST.name: ("requester", "amount"),
    NOTE.name: ("title", "tags"),
}
"""The columns on the screen."""
TOLD: dict[str, tuple[str, ...]] = {ITEM.name: ("due",)}
"""The columns that feedback speaks of, where not all: titles of tasks are mere names."""
RIGHT = (0.62, 0.34, 0.14)
"""P(right) of the novice before slips, by ``ease``."""
SHARES = (0.62, 0.26, 0.12)
"""How the rest is divided among the mistakes, most tempting first."""
SLIPS, PROSE = 0.04, 0.01
"""Mass of calls on other rows, and of an answer that is no call."""


@dataclasses.dataclass(frozen=True)
class Screen:
    """A tiny task before it becomes a :class:`Case`.

    Attributes:
        table: what the rows are.
        rows: the rows on the screen, in order.
        request: what is to be done, in words.
        right: the right call.
        mistakes: wrong calls, most tempting first.
        ease: index into :data:`RIGHT`; depends on what can be seen.
        tools: the tools the prompt names.
        others: rows in the database that are not shown.
    """

    table: Table
    rows: Sequence[Row]
    request: str
    right: ToolCall
    mistakes: Sequence[ToolCall]
    ease: int
    tools: Sequence[str]
    others: Sequence[tuple[Table, Row]] = ()


def _numbered(draw: Draw, rows: Sequence[Row]) -> list[Row]:
    """Return the rows in random order under different one-digit numbers."""
    ids = draw.sample(range(1, 10), len(rows))
    return [{"id": number, **row} for number, row in zip(ids, draw.sample(rows, len(rows)), strict=True)]


def _where(rows: Sequence[Row], **values: Any) -> list[Row]:
    return [row for row in rows if all(row[k] == v for k, v in values.items())]


def sort_mail(draw: Draw) -> Screen:
    """One mail of four, by sender and subject; the rivals share one of the two."""
    (name, other), (topic, about) = draw.sample(NAMES, 2), draw.sample(TOPICS, 2)
    pairs = [(name, topic), (name, about), (other, topic), (other, about)]
    rows = _numbered(draw, [{"sender": s, "subject": t, "folder": "inbox"} for s, t in pairs])
    verbs = ("star", "mark", "delete")
    verb = draw.pick(verbs)
    target, same_name, same_topic = (_where(rows, sender=s, subject=t)[0]["id"] for s, t in pairs[:3])
    place = [row["id"] for row in rows].index(target)
    tempting = [ToolCall(f"mail.{verb}", {"id": number}) for number in (same_name, same_topic)]
    confused = ToolCall(f"mail.{verbs[verbs.index(verb) - 1]}", {"id": target})
    mistakes = {0: [*tempting, confused], 1: [*tempting[::-1], confused], 2: [confused, *tempting]}[verbs.index(verb)]
    request = draw.say(
        "{verb} {name}'s mail about {topic}.", "{verb} the mail from {name} about {topic}.", "{verb} the {topic} mail of {name}.",
        verb=verb.capitalize(), name=name, topic=topic,
    )  # fmt: skip
    tools = [f"mail.{v}" for v in verbs]
    return Screen(MESSAGE, rows, request, ToolCall(f"mail.{verb}", {"id": target}), mistakes, (place + verbs.index(verb)) % 3, tools)


def extreme_task(draw: Draw) -> Screen:
    """The first or the last of four tasks by the day they are due."""
    days = draw.sample(range(10, 29), 4)
    titles = draw.sample(TOPICS, 4)
    rows = _numbered(draw, [{"title": t, "due": f"2026-05-{d}", "priority": "normal"} for t, d in zip(titles, days, strict=True)])
    ranked = sorted(rows, key=lambda row: row["due"])
    last, verb = draw.chance(0.5), draw.pick(("done", "delete"))
    order = ranked[::-1] if last else ranked
    top = rows[0] if rows[0] not in (order[0], order[-1]) else rows[1]
    right, opposite, second = (ToolCall(f"tasks.{verb}", {"id": row["id"]}) for row in (order[0], order[-1], order[1]))
    mistakes = [opposite, ToolCall(f"tasks.{verb}", {"id": top["id"]}), second]
    request = draw.say(
        "{verb} the task due {end}.", "{verb} the task whose day comes {end}.", "{verb} what is due {end}.",
        verb="Finish" if verb == "done" else "Delete", end="last" if last else "first",
    )  # fmt: skip
    return Screen(ITEM, rows, request, right, mistakes, (2 * last + (verb == "delete")) % 3, ["tasks.done", "tasks.delete"])


def buy(draw: Draw) -> Screen:
    """The cheapest or dearest of three things of a kind; a fourth of another kind is cheaper or dearer still."""
    kind, other = draw.sample(GOODS, 2)
    prices = sorted(draw.sample(range(10, 99), 4))
    dear, wish = draw.chance(0.5), draw.chance(0.5)
    if dear:
        prices = prices[::-1]
    rows = _numbered(draw, [{"name": other if i == 0 else kind, "price": p, "stock": 9} for i, p in enumerate(prices)])
    verb = "add_to_wishlist" if wish else "add_to_cart"
    by_price = {row["price"]: row["id"] for row in rows}
    right, overall, opposite, middle = (ToolCall(f"shop.{verb}", {"product_id": by_price[prices[i]]}) for i in (1, 0, 3, 2))
    mistakes = [opposite, overall, middle] if dear else [overall, opposite, middle]
    request = draw.say(
        "{verb} the {end} {kind}.", "{verb} the {kind} that is {end}.", "{verb} one {kind}, the {end}.",
        verb="Wish for" if wish else "Buy", end="dearest" if dear else "cheapest", kind=kind,
    )  # fmt: skip
    return Screen(PRODUCT, rows, request, right, mistakes, (dear + wish) % 3, ["shop.add_to_cart", "shop.add_to_wishlist"])


def settle(draw: Draw) -> Screen:
    """The larger or smaller of two requests of one person."""
    name, other = draw.sample(NAMES, 2)
    amounts = sorted(draw.sample(range(10, 99), 4))
    own = sorted(draw.sample(amounts[1:], 2))
    large, accept = draw.chance(0.5), draw.chance(0.5)
    row = {"payer": empty_world().me.email, "status": "pending"}
    rows = _numbered(draw, [{**row, "requester": name if a in own else other, "amount": a} for a in amounts])
    verb, wrong = ("approve", "decline") if accept else ("decline", "approve")
    by_amount = {row["amount"]: row["id"] for row in rows}
    target, rest = by_amount[own[large]], by_amount[own[not large]]
    overall = by_amount[amounts[-1] if large and own[1] != amounts[-1] else amounts[0]]
    mistakes = [ToolCall(f"pay.{verb}", {"id": rest}), ToolCall(f"pay.{wrong}", {"id": target}), ToolCall(f"pay.{verb}", {"id": overall})]
    request = draw.say(
        "{verb} {name}'s {end} request.", "{verb} the {end} request of {name}.", "{verb} what {name} asks, the {end} one.",
        verb=verb.capitalize(), name=name, end="larger" if large else "smaller",
    )  # fmt: skip
    purse = (PURSE, {"id": 1, "balance": 200})
    return Screen(
        REQUEST,
        rows,
        request,
        ToolCall(f"pay.{verb}", {"id": target}),
        mistakes,
        (large + 2 * accept) % 3,
        ["pay.approve", "pay.decline"],
        [purse],
    )


def count(draw: Draw) -> Screen:
    """How many of five mails are from one sender or about one subject."""
    (name, other), (topic, about) = draw.sample(NAMES, 2), draw.sample(TOPICS, 2)
    rows = _numbered(
        draw, [{"sender": draw.pick((name, other)), "subject": draw.pick((topic, about)), "folder": "inbox"} for _ in range(5)]
    )
    by_name = draw.chance(0.5)
    number = len(_where(rows, **({"sender": name} if by_name else {"subject": topic})))
    swapped = len(_where(rows, **({"subject": topic} if by_name else {"sender": name})))
    mistakes = [ToolCall(COMPLETE, {"answer": n}) for n in (number + 1, swapped, max(0, number - 1), 5)]
    request = draw.say(
        "How many mails are {what}?", "Count the mails {what}.", "How many of these are {what}?",
        what=f"from {name}" if by_name else f"about {topic}",
    )  # fmt: skip
    return Screen(MESSAGE, rows, request, ToolCall(COMPLETE, {"answer": number}), mistakes, (number + by_name) % 3, [])


def pick_note(draw: Draw) -> Screen:
    """One note of four, by title and tag (the held-out skill)."""
    (title, other), (tag, wrong) = draw.sample(TOPICS, 2), draw.sample(("home", "work", "fun"), 2)
    pairs = [(title, tag), (title, wrong), (other, tag), (other, wrong)]
    rows = _numbered(draw, [{"title": t, "tags": [g]} for t, g in pairs])
    verbs = ("pin", "delete")
    verb = draw.pick(verbs)
    target, same_title, same_tag = (_where(rows, title=t, tags=[g])[0]["id"] for t, g in pairs[:3])
    confused = ToolCall(f"notes.{verbs[verb == 'pin']}", {"id": target})
    mistakes = [*(ToolCall(f"notes.{verb}", {"id": number}) for number in (same_title, same_tag)), confused]
    request = draw.say(
        "{verb} the {title} note of {tag}.", "{verb} the note about {title} from {tag}.", "{verb} the {tag} note about {title}.",
        verb=verb.capitalize(), title=title, tag=tag,
    )  # fmt: skip
    return Screen(
        NOTE,
        rows,
        request,
        ToolCall(f"notes.{verb}", {"id": target}),
        mistakes,
        (target + (verb == "pin")) % 3,
        [f"notes.{v}" for v in verbs],
    )


SKILLS: dict[str, Callable[[Draw], Screen]] = {f.__name__: f for f in (sort_mail, extreme_task, buy, settle, count)}
HELDOUT_SKILL = pick_note


def action_text(call: ToolCall) -> str:
    """Return the short form of a call at this level."""
    return f'{{"answer":{call.args["answer"]}}}' if call.tool == COMPLETE else call.text()


def _line(screen: Screen, row: Row) -> str:
    values = [row[column] for column in SHOWN[screen.table.name]]
    shown = [v[-2:] if v.startswith("2026-") else v for v in (str(v[0] if isinstance(v, list) else v) for v in values)]
    return " ".join([str(row["id"]), *shown])


def tiny_case(draw: Draw, screen: Screen) -> Case:
    """Turn a screen into a case: what the right call changes is what must change."""
    for table, row in [*((screen.table, row) for row in screen.rows), *screen.others]:
        values = {k: v for k, v in row.items() if k != "id"} | ({"owner": draw.me.email} if table.owned else {})
        draw.db.insert(table, values, row["id"])
        draw.plants.append((table.name, row["id"], values))
    if screen.tools:
        example = ToolCall(screen.tools[0], {"product_id" if screen.table is PRODUCT else "id": 0})
        how = f"Call {' or '.join(screen.tools)} like {example.text()}."
    else:
        how = 'Answer like {"answer":0}.'
    text = "\n".join([screen.table.app, *(_line(screen, row) for row in screen.rows), f"{screen.request} {how}"])
    answer = screen.right.args.get("answer") if screen.right.tool == COMPLETE else None

    def oracle(api: Client) -> None:
        api(screen.right.tool, **screen.right.args)

    bare = Case(text, Goal(answer=answer, ends=answer is not None), oracle, tuple(draw.plants))
    if answer is not None:
        return bare
    world = empty_world()
    return dataclasses.replace(bare, goal=Goal(effects_of(world, bare, screen.right), ends=False))


def effects_of(world: World, case: Case, call: ToolCall) -> tuple[Effect, ...]:
    """Return what one call changes, as the effects that would be required if it were right."""
    episode = start(world, case)
    call_api(episode, APPS, call.tool, call.args)
    effects = []
    for change in episode.db.changes():
        values = {name: change.after[name] for name in sorted(change.columns())} if change.after else {}
        row = None if change.op == "create" else change.row_id
        effects.append(Effect(change.op, change.table, row, values, "What was asked for is done."))
    return tuple(effects)


def candidates(screen: Screen) -> list[tuple[str, float]]:
    """Return the novice's actions with probabilities that sum to 1; the right action comes first."""
    right = action_text(screen.right)
    mistakes = list(dict.fromkeys(text for text in map(action_text, screen.mistakes) if text != right))[: len(SHARES)]
    slips = [text for text in _slips(screen) if text != right and text not in mistakes]
    slip_mass = SLIPS if slips else 0.0
    kept = 1.0 - slip_mass - PROSE
    total = sum(SHARES[: len(mistakes)])
    table = [(right, kept * RIGHT[screen.ease])]
    table += [(text, kept * (1 - RIGHT[screen.ease]) * share / total) for text, share in zip(mistakes, SHARES, strict=False)]
    table += [(text, slip_mass / len(slips)) for text in slips]
    return [*table, (f"It is {next(iter(screen.right.args.values()))}.", PROSE)]


def _slips(screen: Screen) -> list[str]:
    """Return the right call on every row of the screen, or answers next to the right one."""
    name, value = next(iter(screen.right.args.items()))
    values = range(6) if screen.right.tool == COMPLETE else [row["id"] for row in screen.rows]
    return [action_text(ToolCall(screen.right.tool, {name: v})) for v in values if v != value]
