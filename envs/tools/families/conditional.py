"""If this, do one thing; otherwise another."""

from __future__ import annotations

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.pay import PAYMENT, PURSE, REQUEST
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.apps.shop import CART, WISH
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import TOPICS
from sdgym.envs.tools.judge import created, updated


def easy(draw: Draw) -> Case:
    """Cart or wish list, by the price."""
    taken = "SELECT product_id FROM shop_cart UNION SELECT product_id FROM shop_wish"
    product = draw.pick(draw.rows(f"SELECT id, name, price FROM shop_product WHERE id NOT IN ({taken}) ORDER BY id"))
    cheap = draw.chance(0.5)
    limit = product["price"] + (draw.integer(1, 12) if cheap else -draw.integer(0, 4))

    def oracle(api: Client) -> None:
        found = next(p for p in api("shop.search", query=product["name"])["items"] if p["name"] == product["name"])
        api("shop.add_to_cart" if found["price"] < limit else "shop.add_to_wishlist", product_id=found["id"])
        api.finish()

    text = draw.say(
        "If the {name} costs less than {limit} dollars, put one into my cart; otherwise put it on the wish list.",
        "Add one {name} to the cart if its price is below {limit} dollars, else to my wish list.",
        "Check the price of the {name}: under {limit} dollars it goes into the cart (one piece), if not onto the wish list.",
        name=product["name"],
        limit=limit,
    )
    if cheap:
        return draw.case(text, oracle, created(CART, "The product is where its price says.", product_id=product["id"], quantity=1))
    return draw.case(text, oracle, created(WISH, "The product is where its price says.", product_id=product["id"]))


def medium(draw: Draw) -> Case:
    """Accept or decline an invitation, by the calendar."""
    person, topic, hour = draw.pick(draw.people), draw.pick(TOPICS), draw.integer(10, 15)
    day, free = draw.day(draw.integer(22, 40)), draw.chance(0.5)
    start, end = f"{day} {hour}:00", f"{day} {hour + 1}:00"
    invitation = draw.add(
        EVENT, owner=person.email, title=topic.capitalize(), start=start, end=end, attendees=[draw.me.email], response="pending"
    )
    if not free:
        draw.add(EVENT, title="Busy", start=f"{day} {hour}:30", end=f"{day} {hour + 2}:00", response="accepted")
    else:
        draw.add(EVENT, title="Busy", start=f"{day} {hour + 1}:00", end=f"{day} {hour + 2}:00", response="accepted")

    def oracle(api: Client) -> None:
        event = api("calendar.search", query=topic)["items"][0]
        suits = any(
            s["from"] <= event["start"] and event["end"] <= s["until"] for s in api("calendar.free", day=event["start"][:10])["free"]
        )
        api("calendar.respond", id=event["id"], response="accepted" if suits else "declined")
        api("mail.send", to=[event["owner"]], subject=topic, body="I will be there." if suits else "I cannot come.")
        api.finish()

    text = draw.say(
        "I am invited to '{topic}'. Accept if nothing else is in my calendar at that time and mail the organiser 'I will be there.'; otherwise decline and mail "
        "'I cannot come.' The subject is '{topic}' in both cases.",
        "Answer the invitation to '{topic}': accept it if I am free then, decline it if not. Tell the organiser by mail (subject '{topic}'): 'I will be there.' or "
        "'I cannot come.'",
        "Check whether '{topic}' collides with my calendar. Free: accept, and mail the organiser 'I will be there.' Not free: decline, and mail 'I cannot come.' "
        "Subject: '{topic}'.",
        topic=topic,
    )
    said = "I will be there." if free else "I cannot come."
    return draw.case(
        text,
        oracle,
        updated(EVENT, invitation, "The invitation is answered as the calendar says.", response="accepted" if free else "declined"),
        created(MESSAGE, "The organiser is told.", folder="sent", recipients=[person.email], subject=topic, body=said),
    )


def hard(draw: Draw) -> Case:
    """Pay a request if the balance covers it."""
    person, topic = draw.persons(1, "friend", "coworker")[0], draw.pick(TOPICS)
    purse = draw.rows("SELECT id, balance FROM pay_purse WHERE owner = ?", draw.me.email)[0]
    enough, due = draw.chance(0.5), draw.day(1)
    amount = purse["balance"] + (-draw.integer(0, 90) if enough else draw.integer(1, 90))
    row = {"requester": person.email, "payer": draw.me.email, "status": "pending", "made_at": draw.past(3)}
    wanted = draw.add(REQUEST, **row, amount=amount, note=topic)
    draw.add(REQUEST, **row, amount=draw.integer(3, 30), note=draw.pick([t for t in TOPICS if t != topic]))
    home = draw.rows("SELECT id FROM tasks_project WHERE name = 'Home'")[0]["id"]

    def oracle(api: Client) -> None:
        contact = api.contact(person.name)
        asked = next(r for r in api.every("pay.requests", status="pending") if r["requester"] == contact["email"] and r["note"] == topic)
        covered = api("pay.balance")["balance"] >= asked["amount"]
        api("pay.approve" if covered else "pay.decline", id=asked["id"])
        api("phone.send", numbers=[contact["phone"]], body="Paid" if covered else "Next month")
        project = next(p["id"] for p in api("tasks.projects")["items"] if p["name"] == "Home")
        api("tasks.create", title="Check the balance", project_id=project, due=due)
        api.finish()

    text = draw.say(
        "{name} requested money for the {topic}. If my balance covers it, approve and text {name} 'Paid'; if not, decline and text 'Next month'. Either way add "
        "the task 'Check the balance' to Home, due {due}.",
        "Handle {name}'s pay request for the {topic}: approve it when the balance is enough (text: 'Paid'), else decline it (text: 'Next month'). Then create the "
        "task 'Check the balance' in the project Home for {due}.",
        "There is a request for the {topic} from {name}. Enough balance: approve, and text 'Paid' to {name}. Not enough: decline, and text 'Next month'. In both "
        "cases put 'Check the balance' into Home, due {due}.",
        name=person.name,
        topic=topic,
        due=due,
    )
    paid = [
        created(PAYMENT, "The request is paid.", receiver=person.email, amount=amount),
        updated(PURSE, purse["id"], "The balance is what is left.", balance=purse["balance"] - amount),
    ]
    return draw.case(
        text,
        oracle,
        updated(REQUEST, wanted, "The request is answered as the balance says.", status="approved" if enough else "declined"),
        *(paid if enough else []),
        created(TEXT, "The text message says the right thing.", recipients=[person.phone], body="Paid" if enough else "Next month"),
        created(ITEM, "The task is there.", title="Check the balance", project_id=home, due=due),
    )


FAMILY = (easy, medium, hard)
