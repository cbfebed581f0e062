"""Look something up and answer."""

from __future__ import annotations

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TOPICS


def easy(draw: Draw) -> Case:
    """One field of one contact."""
    person, field = draw.pick(draw.people), draw.pick(("birthday", "phone", "email"))
    asked = {"birthday": "birthday (as YYYY-MM-DD)", "phone": "phone number", "email": "e-mail address"}[field]
    answer = draw.rows(f"SELECT {field} FROM phone_contact WHERE email = ?", person.email)[0][field]

    def oracle(api: Client) -> None:
        api.finish(api.contact(person.name)[field])

    text = draw.say(
        "What is the {asked} of {name}?",
        "Look up {name} in my contacts and tell me the {asked}.",
        "I need the {asked} of {name}.",
        asked=asked,
        name=person.name,
    )
    return draw.case(text, oracle, answer=answer)


def medium(draw: Draw) -> Case:
    """A code in one of several mails about the same thing; the sender is known by relation only."""
    relation, (topic, other) = draw.pick(("manager", "sister", "brother", "dentist", "landlord")), draw.sample(TOPICS, 2)
    person, code = draw.alone(relation), draw.integer(1000, 9999)
    rivals = [p for p in draw.persons(3) if p != person][:2]
    for sender, about, value in [(person, topic, code), (person, other, code + 7), *((r, topic, draw.integer(1000, 9999)) for r in rivals)]:
        body = f"The code for the {about} is {value}."
        draw.add(
            MESSAGE,
            folder="inbox",
            sender=sender.email,
            recipients=[draw.me.email],
            subject=f"About the {about}",
            body=body,
            sent_at=draw.past(20),
        )

    def oracle(api: Client) -> None:
        sender = api.contact(relation)["email"]
        found = next(m for m in api("mail.search", query=topic)["items"] if m["sender"] == sender)
        api.finish(int(api("mail.show", id=found["id"])["body"].split()[-1].rstrip(".")))

    text = draw.say(
        "My {relation} sent me a mail with a code for the {topic}. What is the code?",
        "Which code for the {topic} did my {relation} mail me?",
        "Find the mail from my {relation} about the {topic} and tell me the code in it.",
        relation=relation,
        topic=topic,
    )
    return draw.case(text, oracle, answer=code)


def hard(draw: Draw) -> Case:
    """A chain through three apps with a locked note in the middle."""
    person, title = draw.persons(1, "friend")[0], draw.pick(TOPICS)
    order = draw.pick(draw.rows("SELECT id FROM shop_order ORDER BY id"))["id"]
    lines = "SELECT name, l.price FROM shop_line l JOIN shop_product p ON p.id = product_id WHERE order_id = ? ORDER BY l.price DESC"
    dearest = draw.rows(lines, order)[0]["name"]
    draw.add(TEXT, sender=person.phone, recipients=[draw.me.phone], body=f"I put it into your note called {title}.", sent_at=draw.past(5))
    draw.add(NOTE, title=title, body=f"Order {order}", locked=True)
    draw.add(NOTE, title=f"{title} (old)", body=draw.pick(DISTRACTION))

    def oracle(api: Client) -> None:
        texts = api("phone.messages", number=api.contact(person.name)["phone"])["items"]
        wanted = next(t for t in texts if "note called" in t["body"])["body"].split("called ")[1].rstrip(".")
        note = next(n for n in api("notes.search", query=wanted)["items"] if n["title"] == wanted)
        api("notes.unlock", id=note["id"], pin=api.secrets()["notes_pin"])
        number = int(api("notes.show", id=note["id"])["body"].split()[1])
        api.finish(max(api("shop.show_order", id=number)["lines"], key=lambda row: row["price"])["product"])

    text = draw.say(
        "{name} texted me the title of a locked note with an order number. Which product of that order has the highest price per piece?",
        "There is an order number in a locked note; its title is in a text from {name}. Tell me the product of the order with the highest unit price.",
        "Open the note that {name} named in a text message, look at the order it mentions, and answer with its most expensive product (per piece).",
        name=person.name,
    )
    return draw.case(text, oracle, answer=dearest)


FAMILY = (easy, medium, hard)
