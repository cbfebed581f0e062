"""Shop: products, cart, orders that can be cancelled until they are shipped, cards that must be verified."""

from __future__ import annotations

from sdgym.envs.tools.api import ApiError, App, Dollars, Id, Json, Page, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.apps.supervisor import CARD
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call
from sdgym.envs.tools.tables import Row

shop = with_account(App("shop", "Products, a cart, orders and a wish list."))
PRODUCT = shop.table("product", "name category price:int stock:int rating:int")
CART = shop.table("cart", "owner product_id:int quantity:int")
ORDER = shop.table("order", "owner day status total:int card_id:int")
LINE = shop.table("line", "owner order_id:int product_id:int quantity:int price:int")
WISH = shop.table("wish", "owner product_id:int")
REVIEW = shop.table("review", "owner product_id:int stars:int text")


@shop.api
def products(call: Call, category: str | None = None, max_price: Dollars | None = None, page: Page = 1) -> Json:
    """List products by name.

    category: only this category, for example kitchen, office, garden, sport
    max_price: only those that cost at most so many dollars
    page: page of 8 products
    """
    return call.find(PRODUCT, page, "name, id", where={"price <= ?": max_price}, category=category)


@shop.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find products by words in the name.

    query: text to look for
    page: page of 8 products
    """
    return call.find(PRODUCT, page, "name, id", "*", query, ("name",))


@shop.api
def show(call: Call, id: Id) -> Json:
    """Show a product.

    id: number of the product
    """
    return call.get(PRODUCT, id)


@shop.api
def cart(call: Call) -> Json:
    """Show the cart."""
    rows = call.find(CART, None, owner=call.me)["items"]
    return {"items": rows, "total": sum(row["quantity"] * call.get(PRODUCT, row["product_id"])["price"] for row in rows)}


def _entry(call: Call, product_id: int) -> Row | None:
    rows = call.find(CART, None, owner=call.me, product_id=product_id)["items"]
    return rows[0] if rows else None


@shop.api
def add_to_cart(call: Call, product_id: Id, quantity: Id = 1) -> Json:
    """Put a product into the cart, on top of what is there.

    product_id: number of the product
    quantity: how many
    """
    product, entry = call.get(PRODUCT, product_id), _entry(call, product_id)
    wanted = quantity + (entry["quantity"] if entry else 0)
    if wanted > product["stock"]:
        raise ApiError(409, f"only {product['stock']} of the product {product_id} are in stock")
    if entry:
        return call.update(CART, entry["id"], quantity=wanted)
    return call.insert(CART, product_id=product_id, quantity=quantity)


@shop.api
def remove_from_cart(call: Call, product_id: Id) -> Json:
    """Take a product out of the cart.

    product_id: number of the product
    """
    entry = _entry(call, product_id)
    if entry is None:
        raise ApiError(409, f"the product {product_id} is not in the cart")
    call.db.delete(CART, entry["id"])
    return {"message": f"product {product_id} removed"}


@shop.api
def verify_card(call: Call, card_id: Id, code: Short) -> Json:
    """Verify a payment card, once, before it can be used.

    card_id: number of the card
    code: its security code, see supervisor.cards
    """
    if call.own(CARD, card_id)["code"] != code:
        raise ApiError(401, "wrong security code; supervisor.cards has it")
    return call.update(CARD, card_id, verified=True)


@shop.api
def checkout(call: Call, card_id: Id) -> Json:
    """Order everything in the cart.

    card_id: number of a verified card
    """
    if not call.own(CARD, card_id)["verified"]:
        raise ApiError(409, f"the card {card_id} is not verified: call shop.verify_card with its security code first")
    content = call.find(CART, None, owner=call.me)["items"]
    if not content:
        raise ApiError(409, "the cart is empty")
    prices = {row["product_id"]: call.get(PRODUCT, row["product_id"])["price"] for row in content}
    total = sum(row["quantity"] * prices[row["product_id"]] for row in content)
    order = call.insert(ORDER, day=call.now[:10], status="placed", total=total, card_id=card_id)
    for row in content:
        call.insert(LINE, order_id=order["id"], product_id=row["product_id"], quantity=row["quantity"], price=prices[row["product_id"]])
        call.db.delete(CART, row["id"])
    return order


@shop.api
def orders(call: Call, status: str | None = None, page: Page = 1) -> Json:
    """List orders, newest first.

    status: only those placed, shipped, delivered, cancelled or returned
    page: page of 8 orders
    """
    return call.find(ORDER, page, "day DESC, id", owner=call.me, status=status)


@shop.api
def show_order(call: Call, id: Id) -> Json:
    """Show an order with its products.

    id: number of the order
    """
    order, lines = call.own(ORDER, id), call.find(LINE, None, order_id=id)["items"]
    bought = [
        {"product": call.get(PRODUCT, r["product_id"])["name"], **{k: r[k] for k in ("product_id", "quantity", "price")}} for r in lines
    ]
    return {**order, "lines": bought}


@shop.api
def cancel_order(call: Call, id: Id) -> Json:
    """Cancel an order that is not shipped yet.

    id: number of the order
    """
    status = call.own(ORDER, id)["status"]
    if status != "placed":
        raise ApiError(409, f"the order {id} is {status}; only placed ones can be cancelled")
    return call.update(ORDER, id, status="cancelled")


@shop.api
def return_order(call: Call, id: Id) -> Json:
    """Send back an order that was delivered.

    id: number of the order
    """
    status = call.own(ORDER, id)["status"]
    if status != "delivered":
        raise ApiError(409, f"the order {id} is {status}; only delivered ones can be returned")
    return call.update(ORDER, id, status="returned")


@shop.api
def wishlist(call: Call) -> Json:
    """Show the wish list."""
    rows = call.find(WISH, None, owner=call.me)["items"]
    return {"items": [call.get(PRODUCT, row["product_id"]) for row in rows]}


@shop.api
def add_to_wishlist(call: Call, product_id: Id) -> Json:
    """Put a product on the wish list.

    product_id: number of the product
    """
    call.get(PRODUCT, product_id)
    if call.find(WISH, None, owner=call.me, product_id=product_id)["items"]:
        raise ApiError(409, f"the product {product_id} is on the wish list already")
    return call.insert(WISH, product_id=product_id)


@shop.api
def remove_from_wishlist(call: Call, product_id: Id) -> Json:
    """Take a product off the wish list.

    product_id: number of the product
    """
    rows = call.find(WISH, None, owner=call.me, product_id=product_id)["items"]
    if not rows:
        raise ApiError(409, f"the product {product_id} is not on the wish list")
    call.db.delete(WISH, rows[0]["id"])
    return {"message": f"product {product_id} removed"}


@shop.api
def review(call: Call, product_id: Id, stars: int, text: Short) -> Json:
    """Review a product.

    product_id: number of the product
    stars: 1 to 5
    text: what to say
    """
    call.get(PRODUCT, product_id)
    if not 1 <= stars <= 5:
        raise ApiError(400, "stars must be between 1 and 5")
    return call.insert(REVIEW, product_id=product_id, stars=stars, text=text)


CATEGORIES = ("kitchen", "office", "garden", "sport")
_KINDS = {
    "kitchen": ("kettle", "pan", "toaster", "scale", "grater"),
    "office": ("lamp", "stapler", "keyboard", "notebook", "chair"),
    "garden": ("rake", "hose", "spade", "planter", "bench"),
    "sport": ("ball", "mat", "rope", "racket", "bottle"),
}
_STYLES = ("Alto", "Birch", "Cobalt")


def seed(world: Builder) -> None:
    """Offer 60 products; order some in the past two months, put some on the wish list and one into the cart."""
    ids = []
    for category, kinds in _KINDS.items():
        for name in (f"{style} {kind}" for kind in kinds for style in _STYLES):
            numbers = {
                "price": int(world.rng.integers(5, 150)),
                "stock": int(world.rng.integers(5, 40)),
                "rating": int(world.rng.integers(1, 6)),
            }
            ids.append((world.add(PRODUCT, name=name, category=category, **numbers), numbers["price"]))
    card = world.me_card
    for status, age in (("placed", 2), ("shipped", 6), *(("delivered", 60) for _ in range(8)), ("cancelled", 40)):
        bought = [(product, price, int(world.rng.integers(1, 4))) for product, price in world.sample(ids, int(world.rng.integers(1, 4)))]
        total = sum(price * quantity for _, price, quantity in bought)
        order = world.add(ORDER, day=world.day(-int(world.rng.integers(1, age + 1))), status=status, total=total, card_id=card)
        for product, price, quantity in bought:
            world.add(LINE, order_id=order, product_id=product, quantity=quantity, price=price)
    for product, _ in world.sample(ids, 4):
        world.add(WISH, product_id=product)
    world.add(CART, product_id=ids[0][0], quantity=1)
