"""Synthetic sets: how images are packed, initialised, optimised, stored."""
