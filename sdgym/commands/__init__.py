"""The verbs of the command line, one module per family; heavy libraries are imported inside the functions."""
