"""Tasks that may turn out to be impossible: the right end is then to say so and change nothing."""

from __future__ import annotations

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.pay import PAYMENT, PURSE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.apps.shop import ORDER
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TOPICS
from sdgym.envs.tools.judge import created, deleted, updated


def easy(draw: Draw) -> Case:
    """A message that may not be there."""
    person, topics, possible = draw.pick(draw.people), draw.sample(TOPICS, 3), draw.chance(0.5)
    numbers = {}
    for topic in topics if possible else topics[1:]:
        row = {"sender": person.email, "recipients": [draw.me.email], "subject": topic.capitalize(), "body": draw.pick(DISTRACTION)}
        numbers[topic] = draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(9))

    def oracle(api: Client) -> None:
        found = [m for m in api.every("mail.list", sender=person.email) if m["subject"].lower() == topics[0]]
        for message in found:
            api("mail.label", id=message["id"], label="todo")
        api.finish(status="success" if found else "fail")

    text = draw.say(
        "Put the label 'todo' on the inbox message from {email} about the {topic}. If there is none, report that the task cannot be done.",
        "Label the {topic} mail of {email} in my inbox 'todo'; should it not exist, end with the status fail.",
        "Find {email}'s inbox message on the {topic} and label it 'todo'. No such message: report failure.",
        email=person.email,
        topic=topics[0],
    )
    if not possible:
        return draw.case(text, oracle, status="fail")
    return draw.case(text, oracle, updated(MESSAGE, numbers[topics[0]], "The right message has the label.", labels=["todo"]))


def medium(draw: Draw) -> Case:
    """The amount is nowhere in the apps: the user has to be asked, and may not know."""
    person, topic, amount, known = draw.pick(draw.people), draw.pick(TOPICS), draw.integer(5, 90), draw.chance(0.6)
    purse = draw.rows("SELECT id, balance FROM pay_purse WHERE owner = ?", draw.me.email)[0]
    facts = {
        "how much|amount|money|dollar|sum|price|cost": f"It was {amount} dollars." if known else "I do not remember. Then leave it for now."
    }

    def oracle(api: Client) -> None:
        reply = api("supervisor.ask_user", question="How much is it?")["reply"]
        sums = [word for word in reply.split() if word.isdigit()]
        email = api.contact(person.name)["email"]
        if sums:
            api("pay.send", to=email, amount=int(sums[0]), note=topic)
        api.finish(status="success" if sums else "fail")

    text = draw.say(
        "Send {name} the money for the {topic} (note: '{topic}'). Ask me if something is missing; if I cannot help, report that it cannot be done.",
        "Pay {name} what I owe for the {topic}, noting '{topic}'. If you lack information, ask; without an answer, end with the status fail.",
        "{name} gets my share of the {topic} with pay, note '{topic}'. Ask me for what you do not know, and give up if I do not know it either.",
        name=person.name,
        topic=topic,
    )
    if not known:
        return draw.case(text, oracle, status="fail", facts=facts)
    return draw.case(
        text,
        oracle,
        created(PAYMENT, "The right sum is sent to the right person.", receiver=person.email, amount=amount, note=topic),
        updated(PURSE, purse["id"], "The balance is what is left.", balance=purse["balance"] - amount),
        facts=facts,
    )


def hard(draw: Draw) -> Case:
    """Cancel an order with all that hangs on it, unless it is shipped already."""
    person, topic, possible = draw.persons(1, "friend", "roommate")[0], draw.pick(TOPICS), draw.chance(0.5)
    status = "placed" if possible else "shipped"
    order = draw.add(ORDER, day=draw.day(-2), status=status, total=draw.integer(20, 90), card_id=draw.me_card)
    row = {
        "sender": person.email,
        "recipients": [draw.me.email],
        "subject": topic.capitalize(),
        "body": f"We do not need order {order} any more.",
    }
    draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(1))
    day = draw.day(draw.integer(22, 28))
    event = draw.add(EVENT, title=f"Delivery of order {order}", start=f"{day} 09:00", end=f"{day} 12:00", response="accepted")

    def oracle(api: Client) -> None:
        contact = api.contact(person.name)
        mail = next(m for m in api("mail.search", query=topic)["items"] if m["sender"] == contact["email"])
        number = int(api("mail.show", id=mail["id"])["body"].split("order ")[1].split()[0])
        possible_now = api("shop.show_order", id=number)["status"] == "placed"
        delivery = api("calendar.search", query=f"order {number}")["items"][0]
        if possible_now:
            api("shop.cancel_order", id=number)
            api("calendar.delete", id=delivery["id"])
            api("phone.send", numbers=[contact["phone"]], body="Cancelled")
        api.finish(status="success" if possible_now else "fail")

    text = draw.say(
        "{name} mailed me about the {topic} that an order is no longer needed. Cancel it, delete its delivery from my calendar and text {name} 'Cancelled'. If it "
        "cannot be cancelled any more, change nothing and report failure.",
        "See {name}'s mail on the {topic}: cancel the order it names, remove the delivery event, and text {name} 'Cancelled'. Should cancelling be impossible, "
        "leave everything as it is and end with the status fail.",
        "The order in {name}'s {topic} mail has to go: cancel it, delete the calendar event of the delivery, text 'Cancelled' to {name}. Too late for that? Then "
        "touch nothing and say that it cannot be done.",
        name=person.name,
        topic=topic,
    )
    if not possible:
        return draw.case(text, oracle, status="fail")
    return draw.case(
        text,
        oracle,
        updated(ORDER, order, "The order is cancelled.", status="cancelled"),
        deleted(EVENT, event, "The delivery is no longer in the calendar."),
        created(TEXT, "The text message is sent.", recipients=[person.phone], body="Cancelled"),
    )


FAMILY = (easy, medium, hard)
