"""Generation back ends behind one small protocol (:mod:`sdgym.generation.base`)."""
