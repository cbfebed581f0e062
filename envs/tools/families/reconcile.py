"""Compare a list with what was bought."""

from __future__ import annotations

from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.shop import CART, LINE, ORDER, WISH
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import TOPICS
from sdgym.envs.tools.judge import Effect, created, updated
from sdgym.envs.tools.tables import Row


def _in_cart(product: Row) -> Effect:
    return created(CART, "Everything that is missing is in the cart, once.", product_id=product["id"], quantity=1)


def _products(draw: Draw, count: int) -> list[Row]:
    """Return products that are neither in the cart nor on the wish list."""
    taken = "SELECT product_id FROM shop_cart UNION SELECT product_id FROM shop_wish"
    return draw.sample(draw.rows(f"SELECT id, name, price FROM shop_product WHERE id NOT IN ({taken}) ORDER BY id"), count)


def easy(draw: Draw) -> Case:
    """Take the cheap part of the wish list."""
    for product in _products(draw, 4):
        draw.add(WISH, product_id=product["id"])
    wishes = draw.rows(
        "SELECT p.id, price FROM shop_wish JOIN shop_product p ON p.id = product_id WHERE owner = ? ORDER BY price", draw.me.email
    )
    limit = wishes[draw.integer(1, len(wishes) - 2)]["price"]

    def oracle(api: Client) -> None:
        for product in api("shop.wishlist")["items"]:
            if product["price"] <= limit:
                api("shop.add_to_cart", product_id=product["id"])
        api.finish()

    text = draw.say(
        "Put one of everything on my wish list that costs at most {limit} dollars into the cart.",
        "Whatever I wish for and does not cost more than {limit} dollars should be in the cart, one of each.",
        "Add each product of the wish list with a price of {limit} dollars or less to my cart (quantity 1).",
        limit=limit,
    )
    return draw.case(text, oracle, *(_in_cart(p) for p in wishes if p["price"] <= limit))


def _list_and_order(draw: Draw, title: str) -> tuple[list[Row], list[Row], int]:
    """Plant a note with five products and an order of some of them; return bought, missing, and the order's number."""
    listed, cut = _products(draw, 5), draw.integer(2, 3)
    bought, missing = listed[:cut], listed[cut:]
    draw.add(NOTE, title=title.capitalize(), body="\n".join(p["name"] for p in draw.sample(listed, 5)))
    order = draw.add(ORDER, day=draw.day(-4), status="shipped", total=sum(p["price"] for p in bought), card_id=draw.me_card)
    for product in bought:
        draw.add(LINE, order_id=order, product_id=product["id"], quantity=1, price=product["price"])
    return bought, missing, order


def _missing(api: Client, title: str, order: int) -> tuple[list[str], list[str]]:
    """Return the names on the note that are in the order, and those that are not."""
    note = api("notes.show", id=api("notes.search", query=title)["items"][0]["id"])
    ordered = {line["product"] for line in api("shop.show_order", id=order)["lines"]}
    names = note["body"].split("\n")
    return [n for n in names if n in ordered], [n for n in names if n not in ordered]


def _fetch(api: Client, names: list[str]) -> None:
    for name in names:
        product = next(p for p in api("shop.search", query=name)["items"] if p["name"] == name)
        api("shop.add_to_cart", product_id=product["id"])


def medium(draw: Draw) -> Case:
    """Put what an order lacks into the cart."""
    title = draw.pick(TOPICS)
    _, missing, order = _list_and_order(draw, title)

    def oracle(api: Client) -> None:
        _fetch(api, _missing(api, title, order)[1])
        api.finish()

    text = draw.say(
        "My note about the {title} lists products. Put those that are not in my order {order} into the cart, one of each.",
        "Compare order {order} with the list in my {title} note, and add what the order lacks to the cart (one each).",
        "What I noted for the {title} but did not buy with order {order} should go into the cart, quantity 1.",
        title=title,
        order=order,
    )
    return draw.case(text, oracle, *(_in_cart(p) for p in missing))


def hard(draw: Draw) -> Case:
    """Also check off the tasks of what was bought."""
    title, project = draw.pick(TOPICS), draw.rows("SELECT id FROM tasks_project WHERE name = 'Errands'")[0]["id"]
    bought, missing, order = _list_and_order(draw, title)
    items = {
        p["name"]: draw.add(ITEM, title=f"Buy {p['name']}", project_id=project, due=draw.day(5), priority="normal")
        for p in bought + missing
    }

    def oracle(api: Client) -> None:
        have, lacking = _missing(api, title, order)
        _fetch(api, lacking)
        for name in have:
            task = next(t for t in api("tasks.search", query=f"Buy {name}")["items"] if not t["done"])
            api("tasks.done", id=task["id"])
        api.finish()

    text = draw.say(
        "Compare my note about the {title} with order {order}: what was ordered has a task 'Buy ...' that is done now, what was not goes into the cart (one each).",
        "For each product in the {title} note: if order {order} has it, mark the task 'Buy <product>' as done, else put one into the cart.",
        "Order {order} covers a part of the list in my {title} note. Check off the 'Buy ...' tasks of that part, and add one of each other product to the cart.",
        title=title,
        order=order,
    )
    done = [updated(ITEM, items[p["name"]], "The tasks of what was bought are done.", done=True) for p in bought]
    return draw.case(text, oracle, *(_in_cart(p) for p in missing), *done)


FAMILY = (easy, medium, hard)
