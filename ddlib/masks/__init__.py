"""Masks as artifacts of the workflow."""
