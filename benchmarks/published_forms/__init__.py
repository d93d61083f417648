"""The computations as the papers' code has them, written from the papers, on the weights of our networks."""
