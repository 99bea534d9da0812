"""Doors to other projects: each file makes the model at home in one of them."""
