"""The network in three dimensions: where things are, what moves, and how it is drawn."""
