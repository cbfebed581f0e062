"""Sokoban: seeded levels with a proof of solvability, deadlock feedback, plan and multi-turn modes."""
