"""``python -m sdgym`` is the same as the script ``sdgym``."""

from sdgym.cli import main

if __name__ == "__main__":
    main()
