"""Procedural mathematics problems with worked solutions, and local data sets, graded exactly."""
