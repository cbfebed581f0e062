"""Words for planted rows: none of them occurs in the world itself, so that a search finds what was planted."""

TOPICS = (
    "kayak trip", "roof repair", "violin recital", "pottery course", "museum visit", "garage sale", "chess evening", "sailing licence",
    "tax return", "choir rehearsal", "allotment", "film festival", "marathon", "beehive", "sourdough workshop", "pub quiz",
    "charity run", "carpool", "rock climbing", "wine tasting", "fire drill", "bike repair", "language exam", "open day",
)  # fmt: skip
PLACES = ("the Anchor", "Cafe Lumen", "the Old Mill", "Bistro Verde", "room 204", "the harbour hall", "Luigi's", "the town library")
ITEMS = ("olives", "a cake", "candles", "lemons", "two chairs", "ice cream", "a salad", "fresh bread", "paper cups", "apple juice")
TEXTS = (
    "See you there.",
    "I will be ten minutes late.",
    "Please bring your documents.",
    "It is confirmed.",
    "Thank you, I agree.",
    "The door code is 7713.",
)
DISTRACTION = ("It went well, thanks.", "I have nothing new on this.", "Let us talk about it next week.", "The pictures are online.")
