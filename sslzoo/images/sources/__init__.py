"""Where images come from: one reader per kind of input, all giving the same stream of items."""
