"""Level "hard": programs that read standard input and print, and tasks of several functions."""

from __future__ import annotations

from sdgym.envs.programming.problem import Draw, Maker
from sdgym.envs.programming.template import Parameters, Template, makers


def _machine(draw: Draw, _: Parameters) -> str:
    lines, depth = [], 1
    for _step in range(draw.between(3, 12)):
        command = draw.pick(("push", "push", "add", "mul", "dup", "swap", "drop"))
        if command in ("push", "dup") or (command == "drop" and depth > 1) or (command in ("add", "mul", "swap") and depth > 1):
            depth += {"push": 1, "dup": 1, "swap": 0}.get(command, -1)
            lines.append(f"push {draw.between(0, 99)}" if command == "push" else command)
    return "\n".join([*lines, "end"]) + "\n"


def _ledger(draw: Draw, _: Parameters) -> str:
    names = ("ann", "bob", "cid")
    lines = [f"{draw.pick(('in', 'in', 'out'))} {draw.pick(names)} {draw.between(1, 90)}" for _ in range(draw.between(3, 12))]
    return "\n".join([str(len(lines)), *lines]) + "\n"


def _grid(draw: Draw, _: Parameters) -> str:
    rows, columns = draw.between(2, 6), draw.between(2, 6)
    cells = [[draw.pick("....~~#") for _ in range(columns)] for _ in range(rows)]
    cells[0][0] = cells[-1][-1] = "."
    return "\n".join([f"{rows} {columns}", *map("".join, cells)]) + "\n"


def _knapsack(draw: Draw, _: Parameters) -> str:
    items = [f"{draw.between(1, 12)} {draw.between(1, 40)}" for _ in range(draw.between(1, 6))]
    return "\n".join([f"{len(items)} {draw.between(1, 40)}", *items]) + "\n"


def _counters(draw: Draw, _: Parameters) -> str:
    arrivals = sorted(draw.many(draw.between(2, 10), 0, 40))
    return f"{len(arrivals)}\n" + "".join(f"{arrival} {draw.between(1, 15)}\n" for arrival in arrivals)


def _expression(draw: Draw, _: Parameters) -> tuple[str]:
    text = str(draw.between(0, 20))
    for _step in range(draw.between(1, 5)):
        text = f"({text})" if draw.between(0, 4) == 0 else text
        text += draw.pick("+-@") + str(draw.between(0, 20))
    return (text,)


def _stock(draw: Draw, _: Parameters) -> tuple[list[list[object]]]:
    kinds = ("nut", "bolt", "gear")
    return ([[draw.pick(("buy", "buy", "sell", "count")), draw.pick(kinds), draw.between(1, 30)] for _ in range(draw.between(3, 12))],)


STACK = Template(
    "scripts",
    "stack_machine",
    "Write a program that simulates a stack machine. The stack starts with the one number $a. Read commands, one a line, up to the line end: 'push n'; 'add' and 'mul' replace the two top numbers by their sum or product modulo $m; 'dup' repeats the top; 'swap' exchanges the two top numbers; 'drop' removes the top. Print the stack from the bottom to the top on one line, and on a second line the greatest height that the stack ever had plus $b.",
    """
stack, height = [$a], 1
while True:
    words = input().split()
    if words[0] == "end":
        break
    if words[0] == "push":
        stack.append(int(words[1]))
    elif words[0] == "dup":
        stack.append(stack[-1])
    elif words[0] == "drop":
        stack.pop()
    else:
        top, below = stack.pop(), stack.pop()
        if words[0] == "add":
            stack.append((top + below) % $m)
        elif words[0] == "mul":
            stack.append(top * below % $m)
        else:
            stack += [top, below]
    height = max(height, len(stack))
print(*stack)
print(height + $b)
""",
    {"a": (1, 40), "m": (50, 250), "b": (0, 9)},
    _machine,
    (("stack += [top, below]", "stack += [below, top]"), ("print(height + $b)", "print(len(stack) + $b)"), ("(top + below) % $m", "top + below")),
    "",
)  # fmt: skip
LEDGER = Template(
    "scripts",
    "ledger",
    "Write a program that keeps accounts, all of which start at 0. The first line holds n, then n lines follow: 'in name amount' or 'out name amount'. Every 'out' of more than $t costs a fee of $f as well. An 'out' that would bring the account below -$o is refused and changes nothing. Print 'name balance' for every account named so far, in alphabetical order, and then 'refused' and the number of refused lines.",
    """
accounts, refused = {}, 0
for _ in range(int(input())):
    kind, name, amount = input().split()
    amount = int(amount)
    balance = accounts.setdefault(name, 0)
    if kind == "in":
        accounts[name] = balance + amount
        continue
    cost = amount + ($f if amount > $t else 0)
    if balance - cost < -$o:
        refused += 1
    else:
        accounts[name] = balance - cost
for name in sorted(accounts):
    print(name, accounts[name])
print("refused", refused)
""",
    {"t": (10, 70), "f": (1, 20), "o": (0, 60)},
    _ledger,
    (("balance - cost < -$o", "balance - amount < -$o"), ("amount > $t", "amount >= $t"), ("refused += 1", "refused += 0")),
    "",
)
GRID = Template(
    "scripts",
    "cheapest_path",
    "Write a program that finds the cheapest path in a grid. The first line holds the numbers of rows and columns; then the rows follow, made of '.', '~' and '#'. Steps go up, down, left or right; '#' cannot be entered; entering '.' costs $p and entering '~' costs $w. Print the least cost from the upper left to the lower right corner, or -$n if there is no way. Both corners are '.'.",
    """
rows, columns = map(int, input().split())
grid = [input() for _ in range(rows)]
cost = {(0, 0): 0}
todo = [(0, 0)]
while todo:
    r, c = todo.pop(0)
    for y, x in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
        if 0 <= y < rows and 0 <= x < columns and grid[y][x] != "#":
            new = cost[r, c] + ($w if grid[y][x] == "~" else $p)
            if new < cost.get((y, x), 10**9):
                cost[y, x] = new
                todo.append((y, x))
print(cost.get((rows - 1, columns - 1), -$n))
""",
    {"p": (1, 20), "w": (1, 40), "n": (1, 9)},
    _grid,
    (("if new < cost.get((y, x), 10**9):", "if (y, x) not in cost:"), ("($w if grid[y][x] == \"~\" else $p)", "$p"), (", (r, c + 1), (r, c - 1))", ", (r, c + 1))")),
    "",
)  # fmt: skip
KNAPSACK = Template(
    "scripts",
    "knapsack",
    "Write a program that packs a bag. The first line holds n and the capacity; then n lines follow, each the weight and the value of a kind of thing. Of every kind up to $k may be packed, and the second and every further one of a kind is worth $d less than the one before, but never below 0. Print the greatest total value whose total weight is at most the capacity plus $b.",
    """
n, capacity = map(int, input().split())
best = [0] * (capacity + $b + 1)
for _ in range(n):
    weight, value = map(int, input().split())
    new = best[:]
    for room in range(len(best)):
        total = 0
        for count in range(1, $k + 1):
            total += max(0, value - $d * (count - 1))
            if count * weight <= room:
                new[room] = max(new[room], best[room - count * weight] + total)
    best = new
print(best[-1])
""",
    {"k": (1, 6), "d": (0, 30), "b": (0, 30)},
    _knapsack,
    (("value - $d * (count - 1)", "value - $d * count"), ("range(1, $k + 1)", "range(1, $k)"), ("capacity + $b + 1", "capacity + 1")),
    "",
)
CALCULATOR = Template(
    "functions",
    "calculator",
    "Write two functions. tokens(s) splits an expression such as '12+(3@4)' into a list of integers and one-letter strings. evaluate(s) returns its value, where a@b means $p*a + b - $q; all operators + - @ have the same rank and are applied from the left to the right, except that parentheses come first.",
    """
def tokens(s):
    out, i = [], 0
    while i < len(s):
        j = i
        while j < len(s) and s[j].isdigit():
            j += 1
        out.append(int(s[i:j]) if j > i else s[i])
        i = max(j, i + 1)
    return out


def evaluate(s):
    stack = [[]]
    for token in tokens(s) + ["end"]:
        if token == "(":
            stack.append([])
            continue
        value = token
        if token in (")", "end"):
            done = stack.pop()
            value = done[0]
            for k in range(1, len(done), 2):
                right = done[k + 1]
                if done[k] == "+":
                    value += right
                elif done[k] == "-":
                    value -= right
                else:
                    value = $p * value + right - $q
            if token == "end":
                return value
        stack[-1].append(value)
""",
    {"p": (2, 90), "q": (1, 90)},
    _expression,
    (("$p * value + right - $q", "$p * right + value - $q"), ("right - $q", "right"), ("value -= right", "value = right - value")),
    "evaluate",
)
STOCK = Template(
    "functions",
    "stock",
    "Write a class Stock whose method run(orders) takes a list of [kind, part, number] and returns a list of integers. The stock holds $a of every part at the start. 'buy' adds the number, but a part never goes above $m: what is too much is sent back. 'sell' takes the number away if that much is there; otherwise it sells nothing and appends -1 to the result. 'count' appends the number of that part in stock plus $b times the number of refused sales so far (its own number is not used).",
    """
class Stock:
    def __init__(self):
        self.parts, self.refused = {}, 0

    def there(self, part):
        return self.parts.get(part, $a)

    def run(self, orders):
        result = []
        for kind, part, number in orders:
            if kind == "buy":
                self.parts[part] = min($m, self.there(part) + number)
            elif kind == "count":
                result.append(self.there(part) + $b * self.refused)
            elif number <= self.there(part):
                self.parts[part] = self.there(part) - number
            else:
                self.refused += 1
                result.append(-1)
        return result
""",
    {"a": (1, 15), "m": (20, 60), "b": (1, 20)},
    _stock,
    (("min($m, self.there(part) + number)", "self.there(part) + number"), ("number <= self", "number < self"), ("self.refused += 1", "self.refused = 1")),
    "Stock.run",
)  # fmt: skip
COUNTERS = Template(
    "queues",
    "counters",
    "Write a program that simulates $k counters in a shop. The first line holds n; then n lines follow in the order of arrival, each the minute of arrival and the minutes of service. A customer goes to the counter that is free first (the lowest number among equals) and is served at once or when it gets free; a counter needs $b minutes between two customers, and customers who would wait longer than $w minutes leave at once. Print the number of those who left and the minute at which the last service ends (0 if there is none).",
    """
free = [0] * $k
left, last = 0, 0
for _ in range(int(input())):
    arrival, service = map(int, input().split())
    counter = free.index(min(free))
    start = max(arrival, free[counter])
    if start - arrival > $w:
        left += 1
        continue
    last = max(last, start + service)
    free[counter] = start + service + $b
print(left, last)
""",
    {"k": (1, 3), "b": (0, 9), "w": (0, 30)},
    _counters,
    (("start + service + $b", "start + service"), ("start - arrival > $w", "start - arrival >= $w"), ("last = max(last, start + service)", "last = start + service")),
    "",
)  # fmt: skip
HARD: tuple[Maker, ...] = makers((STACK, LEDGER, GRID, KNAPSACK, CALCULATOR, STOCK))
HARD_HELDOUT: tuple[Maker, ...] = makers((COUNTERS,))
