"""Mend what went wrong."""

from __future__ import annotations

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.pay import PAYMENT, REQUEST
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.apps.shop import CART, LINE, ORDER, WISH
from sdgym.envs.tools.apps.supervisor import CARD
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TEXTS, TOPICS
from sdgym.envs.tools.judge import created, deleted, updated


def easy(draw: Draw) -> Case:
    """Bring a deleted mail back."""
    person, topics = draw.pick(draw.people), draw.sample(TOPICS, 3)
    row = {"folder": "trash", "sender": person.email, "recipients": [draw.me.email], "body": draw.pick(DISTRACTION)}
    numbers = [draw.add(MESSAGE, **row, subject=topic.capitalize(), sent_at=draw.past(9)) for topic in topics]

    def oracle(api: Client) -> None:
        found = next(m for m in api.every("mail.list", folder="trash") if m["subject"].lower() == topics[0] and m["sender"] == person.email)
        api("mail.restore", id=found["id"])
        api.finish()

    text = draw.say(
        "I deleted the message from {email} about the {topic} by mistake. Bring it back.",
        "The {topic} mail of {email} should not be in the trash. Restore it.",
        "Undo the deletion of the mail by {email} on the {topic}.",
        email=person.email,
        topic=topics[0],
    )
    return draw.case(text, oracle, updated(MESSAGE, numbers[0], "The right message is back in the inbox.", folder="inbox"))


def medium(draw: Draw) -> Case:
    """Ask back what was paid twice."""
    person, topic, amount, day = draw.pick(draw.people), draw.pick(TOPICS), draw.integer(5, 80), draw.day(-1)
    row = {"sender": draw.me.email, "receiver": person.email, "note": topic}
    for minute, paid in ((10, amount), (12, amount)):
        draw.add(PAYMENT, **row, amount=paid, sent_at=f"{day} 08:{minute}")
    draw.add(PAYMENT, **row, amount=amount + draw.integer(1, 9), sent_at=f"{draw.day(-8)} 08:30")

    def oracle(api: Client) -> None:
        email = api.contact(person.name)["email"]
        paid = [p["amount"] for p in api("pay.search", query=topic)["items"] if p["receiver"] == email]
        api("pay.request", payer=email, amount=next(a for a in paid if paid.count(a) > 1), note="refund")
        api.finish()

    text = draw.say(
        "Yesterday I paid {name} twice for the {topic}. Request one of the two payments back with the note 'refund'.",
        "My payment to {name} for the {topic} went out two times yesterday. Ask for the surplus through pay; the note is 'refund'.",
        "{name} got the same {topic} payment twice by mistake yesterday. Send a request noted 'refund' for what was too much.",
        name=person.name,
        topic=topic,
    )
    values = {"payer": person.email, "amount": amount, "note": "refund", "status": "pending"}
    return draw.case(text, oracle, created(REQUEST, "The surplus is requested from the right person.", **values))


def hard(draw: Draw) -> Case:
    """Replace a wrong order, with a card that is not verified and a cart that is not empty."""
    topic, said, person = draw.pick(TOPICS), draw.pick(TEXTS), draw.persons(1, "friend")[0]
    wrong, right = draw.sample(draw.rows("SELECT id, name, price FROM shop_product ORDER BY id"), 2)
    order = draw.add(ORDER, day=draw.day(-1), status="placed", total=wrong["price"], card_id=draw.me_card)
    draw.add(LINE, order_id=order, product_id=wrong["id"], quantity=1, price=wrong["price"])
    draw.add(NOTE, title=topic.capitalize(), body=f"Order {order} is wrong: I want the {right['name']}, not the {wrong['name']}.")
    held = draw.rows("SELECT id, product_id FROM shop_cart WHERE owner = ?", draw.me.email)[0]
    card = draw.rows("SELECT id FROM supervisor_card WHERE NOT verified")[0]["id"]

    def oracle(api: Client) -> None:
        note = api("notes.show", id=api("notes.search", query=topic)["items"][0]["id"])["body"]
        api("shop.cancel_order", id=int(note.split()[1]))
        for item in api("shop.cart")["items"]:
            api("shop.remove_from_cart", product_id=item["product_id"])
            api("shop.add_to_wishlist", product_id=item["product_id"])
        name = note.split("want the ")[1].split(",")[0]
        product = next(p for p in api("shop.search", query=name)["items"] if p["name"] == name)
        api("shop.add_to_cart", product_id=product["id"])
        travel = next(c for c in api("supervisor.cards")["items"] if c["label"] == "travel")
        api("shop.verify_card", card_id=travel["id"], code=travel["code"])
        api("shop.checkout", card_id=travel["id"])
        api("phone.send", numbers=[api.contact(person.name)["phone"]], body=said)
        api.finish()

    text = draw.say(
        "My note about the {topic} says which order is wrong and what I want instead. Cancel that order and buy one of the right product with my travel card. "
        "Order nothing else: move what is in the cart to the wish list first. Then text {name}: '{said}'",
        "Fix the order mentioned in my {topic} note: cancel it, and order one piece of what I want, alone, paid with the travel card. Whatever the cart holds now "
        "goes onto the wish list. At the end send {name} the text '{said}'",
        "The {topic} note names a wrong order and the product I meant. Cancel the order, shift the present content of the cart to the wish list, order one of the "
        "product with the travel card, and text '{said}' to {name}.",
        topic=topic,
        name=person.name,
        said=said,
    )
    price = right["price"]
    return draw.case(
        text,
        oracle,
        updated(ORDER, order, "The wrong order is cancelled.", status="cancelled"),
        deleted(CART, held["id"], "The cart no longer holds what was in it."),
        created(WISH, "What was in the cart is on the wish list.", product_id=held["product_id"]),
        updated(CARD, card, "The card is verified.", verified=True),
        created(ORDER, "The right product is ordered alone, with the right card.", total=price, card_id=card, status="placed"),
        created(LINE, "One piece of the right product is ordered.", product_id=right["id"], quantity=1),
        created(TEXT, "The text message is sent.", recipients=[person.phone], body=said),
    )


FAMILY = (easy, medium, hard)
