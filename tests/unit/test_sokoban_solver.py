"""The solver against brute force over single moves: push counts, dead squares, deadlocks."""

from __future__ import annotations

import collections
import random

import pytest

from sdgym.envs.sokoban.core import PUSHED, Level, run, solves, step
from sdgym.envs.sokoban.generator import Spec, candidate, cave, pick, two_rooms
from sdgym.envs.sokoban.solver import SearchLimitError, dead_squares, deadlock, distances, solve

ONE = Spec(6, 6, (1, 1), (1, 6), (1, 1), (0.5, 1.0), 60)
TWO = Spec(6, 6, (2, 2), (1, 8), (1, 1), (0.6, 0.9), 60)


def brute_force(level: Level) -> tuple[int, int] | None:
    """Least (pushes, moves) by Dijkstra over single moves, without heuristic, pruning or normalisation."""
    start = (level.boxes, level.player)
    best, buckets = {start: (0, 0)}, collections.defaultdict(set)
    buckets[0, 0].add(start)
    while buckets:
        cost = min(buckets)
        for state in sorted(buckets.pop(cost)):
            if best[state] < cost:
                continue
            if not state[0] & ~level.targets:
                return cost
            for delta in level.deltas:
                boxes, player, event = step(level.walls, *state, delta)
                after = (cost[0] + (event == PUSHED), cost[1] + 1)
                if event <= PUSHED and after < best.get((boxes, player), (99, 999)):
                    best[boxes, player] = after
                    buckets[after].add((boxes, player))
    return None


def random_position(spec: Spec, rng: random.Random) -> Level:
    """A board with boxes put anywhere: often unsolvable."""
    while True:
        level = candidate(spec, cave, rng)
        if level is None:
            continue
        boxes = 0
        while boxes.bit_count() < level.targets.bit_count():
            boxes |= 1 << pick(rng, level.floor)
        player = pick(rng, level.floor & ~boxes)
        if boxes & ~level.targets:
            return level.at(boxes, player)


@pytest.mark.parametrize("spec, count", [(ONE, 150), (TWO, 25)])
def test_fewest_pushes_then_fewest_moves_as_brute_force_finds(spec: Spec, count: int) -> None:
    rng, solvable = random.Random(7), 0
    for index in range(count):
        level = random_position(spec, rng)
        if index % 2 and (made := candidate(spec, cave, rng)) is not None:
            level = made
        truth, found = brute_force(level), solve(level)
        if truth is None:
            assert found is None
            continue
        solvable += 1
        assert found is not None and (found.pushes, len(found.moves)) == truth, level.text()
        assert solves(level, found.moves) and len(run(level, found.moves).pushes) == found.pushes
        normalised = solve(level, fewest_moves=False)
        assert normalised is not None and normalised.pushes == truth[0] and solves(level, normalised.moves)
    assert 0.2 * count < solvable < 0.95 * count, "the sample holds solvable and unsolvable positions"


def pushes_with_a_flying_player(level: Level, box: int) -> int | None:
    """Least pushes of a lone box to a target if the player could fly: forward search, unlike the solver's."""
    frontier, seen, pushes = {box}, {box}, 0
    while frontier:
        if any(level.targets >> c & 1 for c in frontier):
            return pushes
        frontier = {c + d for c in frontier for d in level.deltas if level.floor >> c + d & 1 and level.floor >> c - d & 1} - seen
        seen |= frontier
        pushes += 1
    return None


def test_dead_squares_agree_with_search_on_a_thousand_positions() -> None:
    rng, seen = random.Random(11), collections.Counter()
    for _ in range(1000):
        level = random_position(ONE, rng)
        box = level.boxes.bit_length() - 1
        dead = bool(dead_squares(level) >> box & 1)
        seen[dead] += 1
        assert distances(level).get(box) == pushes_with_a_flying_player(level, box), level.text()
        truth = brute_force(level)
        if dead:
            assert truth is None, level.text()
        elif truth is not None:
            assert truth[0] >= distances(level)[box], "the heuristic is a lower bound"
    assert min(seen.values()) > 200


@pytest.mark.parametrize("spec, count", [(ONE, 100), (TWO, 60)])
def test_a_reported_deadlock_is_one(spec: Spec, count: int) -> None:
    rng, seen = random.Random(13), collections.Counter()
    for _ in range(count):
        level = random_position(spec, rng)
        found = deadlock(level)
        if found is not None:
            seen[found[0]] += 1
            assert brute_force(level) is None, f"{found} in\n{level.text()}"
    assert seen["corner"] > 10


@pytest.mark.parametrize(
    "text, reason",
    [
        ("######\n#$--.#\n#-@--#\n######", "corner"),
        ("######\n#-$--#\n#-@-.#\n######", "edge"),
        ("#######\n#-----#\n#-$$--#\n#-##@-#\n#--..-#\n#-----#\n#######", "block"),
        ("######\n#----#\n#-$@.#\n#----#\n######", None),
        ("######\n#*-@-#\n#----#\n######", None),
    ],
)
def test_deadlock_names_its_reason(text: str, reason: str | None) -> None:
    found = deadlock(Level.from_text(text))
    assert (found and found[0]) == reason


def test_the_walk_to_a_push_is_the_first_shortest_one_in_the_order_up_down_left_right() -> None:
    level = Level.from_text("#######\n#-----#\n#-----#\n#.-$@-#\n#-----#\n#-----#\n#######")
    assert solve(level).moves == (2, 2)
    around = Level.from_text("#######\n#-----#\n#-----#\n#-@$--#\n#.----#\n#-----#\n#######")
    assert solve(around).moves[:3] == (0, 3, 1), "over the top rather than below"


def test_the_node_limit_raises_instead_of_guessing() -> None:
    rng = random.Random(5)
    level = next(found for found in (candidate(TWO, cave, rng) for _ in range(500)) if found is not None and solve(found).nodes > 5)
    with pytest.raises(SearchLimitError, match="3 states"):
        solve(level, max_nodes=3)


def test_held_out_rooms_are_another_structure() -> None:
    from sdgym.envs.sokoban.generator import has_door

    rng = random.Random(3)
    for style, expected in ((cave, False), (two_rooms, True)):
        levels = [found for found in (candidate(ONE, style, rng) for _ in range(200)) if found is not None]
        assert len(levels) > 50 and all(has_door(level.floor, level.height, level.width) is expected for level in levels)
    assert has_door(Level.from_text("######\n#@$.-#\n####-#\n#----#\n#----#\n######").floor, 6, 6)
    assert not has_door(Level.from_text("######\n#@$.-#\n##---#\n#----#\n######").floor, 5, 6)
