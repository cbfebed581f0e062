"""Count or add up over many rows."""

from __future__ import annotations

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.pay import PAYMENT
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TOPICS
from sdgym.envs.tools.judge import Contains, created


def easy(draw: Draw) -> Case:
    """Count with a filter."""
    person = draw.pick(draw.people)
    for index in range(draw.integer(3, 7)):
        row = {"sender": person.email, "recipients": [draw.me.email], "subject": draw.pick(TOPICS), "body": draw.pick(DISTRACTION)}
        draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(20), read=index % 3 == 2)
    sql = "SELECT count(*) AS n FROM mail_message WHERE folder = 'inbox' AND sender = ? AND NOT read"
    count = draw.rows(sql, person.email)[0]["n"]

    def oracle(api: Client) -> None:
        api.finish(api("mail.list", sender=person.email, unread=True)["total"])

    text = draw.say(
        "How many unread messages from {email} are in my inbox?",
        "Count the messages of {email} in my inbox that I have not read yet.",
        "Tell me the number of unread inbox mails sent by {email}.",
        email=person.email,
    )
    return draw.case(text, oracle, answer=count)


def medium(draw: Draw) -> Case:
    """Add up payments to one person in one month, over several pages."""
    person = draw.pick(draw.people)
    month = draw.day(-30)[:7]
    for _ in range(8):
        draw.add(PAYMENT, sender=draw.me.email, receiver=person.email, amount=draw.integer(3, 60), note="kiosk", sent_at=draw.past(60))
    total = draw.rows(
        "SELECT sum(amount) AS n FROM pay_payment WHERE sender = ? AND receiver = ? AND sent_at LIKE ?",
        draw.me.email,
        person.email,
        f"{month}%",
    )[0]["n"]

    def oracle(api: Client) -> None:
        email = api.contact(person.name)["email"]
        sent = api.every("pay.payments", direction="sent")
        api.finish(sum(p["amount"] for p in sent if p["receiver"] == email and p["sent_at"].startswith(month)))

    text = draw.say(
        "How many dollars have I sent to {name} with pay in {month}?",
        "Add up my payments to {name} in {month} (year-month) and give me the total in dollars.",
        "What is the total of everything I paid {name} in the month {month}?",
        name=person.name,
        month=month,
    )
    return draw.case(text, oracle, answer=total or 0)


def hard(draw: Draw) -> Case:
    """Orders and payments of one month together; the total goes out by mail."""
    relation, topic, month = draw.pick(("manager", "sister", "brother", "landlord")), draw.pick(TOPICS), draw.day(-30)[:7]
    for _ in range(6):
        to = draw.pick(draw.people).email
        draw.add(PAYMENT, sender=draw.me.email, receiver=to, amount=draw.integer(3, 60), note=topic, sent_at=draw.past(60))
    paid = "SELECT coalesce(sum(amount), 0) AS n FROM pay_payment WHERE note = ? AND sent_at LIKE ?"
    bought = "SELECT coalesce(sum(total), 0) AS n FROM shop_order WHERE status != 'cancelled' AND day LIKE ?"
    total = draw.rows(paid, topic, f"{month}%")[0]["n"] + draw.rows(bought, f"{month}%")[0]["n"]
    email = draw.alone(relation).email

    def oracle(api: Client) -> None:
        orders = [o for o in api.every("shop.orders") if o["day"].startswith(month) and o["status"] != "cancelled"]
        payments = [p for p in api.every("pay.payments", direction="sent") if p["note"] == topic and p["sent_at"].startswith(month)]
        amount = sum(o["total"] for o in orders) + sum(p["amount"] for p in payments)
        api("mail.send", to=[api.contact(relation)["email"]], subject="Total", body=f"It is {amount} dollars.")
        api.finish(amount)

    text = draw.say(
        "Add up my shop orders of {month} that were not cancelled and my payments of {month} with the note '{topic}'. Mail the total in dollars to my "
        "{relation} and answer with it.",
        "What did I spend in {month} on shop orders (without cancelled ones) plus payments noted '{topic}'? Send the number by mail to my {relation} too.",
        "For {month}: total of all orders in the shop except cancelled ones, plus what I paid with the note '{topic}'. Report it here and in a mail to "
        "my {relation}.",
        month=month,
        topic=topic,
        relation=relation,
    )
    mail = created(MESSAGE, "The total is mailed to the right person.", folder="sent", recipients=[email], body=Contains(total))
    return draw.case(text, oracle, mail, answer=total)


FAMILY = (easy, medium, hard)
