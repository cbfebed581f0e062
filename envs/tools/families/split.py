"""Split a bill and ask for the shares."""

from __future__ import annotations

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.pay import REQUEST
from sdgym.envs.tools.apps.shop import LINE, ORDER
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import TOPICS
from sdgym.envs.tools.judge import Effect, created, updated


def _share(email: str, amount: int, note: str) -> Effect:
    return created(REQUEST, "Everybody is asked for the right share.", payer=email, amount=amount, note=note, status="pending")


def easy(draw: Draw) -> Case:
    """Ask one person for a sum."""
    person, amount, topic = draw.pick(draw.people), draw.integer(5, 95), draw.pick(TOPICS)

    def oracle(api: Client) -> None:
        api("pay.request", payer=person.email, amount=amount, note=topic)
        api.finish()

    text = draw.say(
        "Request {amount} dollars from {email} with the note '{topic}'.",
        "Ask {email} for {amount} dollars through pay; note: '{topic}'.",
        "{email} owes me {amount} dollars. Send a pay request that says '{topic}'.",
        amount=amount,
        email=person.email,
        topic=topic,
    )
    return draw.case(text, oracle, _share(person.email, amount, topic))


def medium(draw: Draw) -> Case:
    """Split a total among the guests of an event and oneself."""
    topic, guests, share = draw.pick(TOPICS), draw.persons(draw.integer(2, 4)), draw.integer(6, 40)
    day, emails = draw.day(-draw.integer(2, 12)), [p.email for p in guests]
    draw.add(EVENT, title=topic.capitalize(), start=f"{day} 19:00", end=f"{day} 22:00", attendees=emails, response="accepted")
    total = share * (len(emails) + 1)

    def oracle(api: Client) -> None:
        event = api("calendar.search", query=topic)["items"][0]
        part = total // (len(event["attendees"]) + 1)
        for email in event["attendees"]:
            api("pay.request", payer=email, amount=part, note=topic)
        api.finish()

    text = draw.say(
        "I paid {total} dollars at the event '{topic}'. Split it equally among the attendees and me, and request each attendee's share with the note '{topic}'.",
        "The bill for '{topic}' was {total} dollars, paid by me. Everybody (attendees and I) pays the same: send pay requests noted '{topic}'.",
        "Divide {total} dollars by all people at '{topic}', me included, and ask every attendee for that amount. Note: '{topic}'.",
        total=total,
        topic=topic,
    )
    return draw.case(text, oracle, *(_share(email, share, topic) for email in emails))


def hard(draw: Draw) -> Case:
    """Split an order among the roommates and write it down."""
    title, day = draw.pick(TOPICS), draw.day(-draw.integer(3, 9))
    product = draw.pick(draw.rows("SELECT id, name, price FROM shop_product ORDER BY id"))
    price, name = product["price"], product["name"]
    order = draw.add(ORDER, day=day, status="delivered", total=3 * price, card_id=draw.me_card)
    draw.add(LINE, order_id=order, product_id=product["id"], quantity=3, price=price)
    note = draw.add(NOTE, title=title.capitalize(), body="Shared costs")

    def oracle(api: Client) -> None:
        orders = [api("shop.show_order", id=o["id"]) for o in api.every("shop.orders") if o["day"] == day]
        bought = next(o for o in orders if [line["product"] for line in o["lines"]] == [name])
        roommates = api.every("phone.contacts", relation="roommate")
        part = bought["total"] // (len(roommates) + 1)
        for roommate in roommates:
            api("pay.request", payer=roommate["email"], amount=part, note=name)
        api("notes.append", id=api("notes.search", query=title)["items"][0]["id"], line=f"{name}: {part}")
        api.finish()

    text = draw.say(
        "Split my shop order of {day} for nothing but the {name} equally between my roommates and me: request the shares with the note '{name}', and add the "
        "line '{name}: SHARE' to my note about the {title}.",
        "On {day} I ordered only the {name} for our flat. Ask each roommate for an equal share (I pay one too), note '{name}', and append '{name}: SHARE' to the "
        "note on the {title}.",
        "My roommates and I share the order of {day} that holds just the {name}. Send them pay requests for equal parts with the note '{name}'; write the line "
        "'{name}: SHARE' at the end of my {title} note.",
        day=day,
        name=name,
        title=title,
    )
    shares = [_share(p.email, price, name) for p in draw.people if p.relation == "roommate"]
    written = updated(NOTE, note, "The share is written down in the note.", body=f"Shared costs\n{name}: {price}")
    return draw.case(text, oracle, *shares, written)


FAMILY = (easy, medium, hard)
