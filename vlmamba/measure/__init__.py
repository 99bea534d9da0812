"""Measuring: what `vlmamba bench` prints in short and the scripts in `bench/` record at length."""
