"""Trajectories of networks trained on real data, and the views by which methods start from them."""

METRICS = ("train_augmented", "train_clean", "heldout")
"""A member's accuracies by epoch: on augmented and on clean training images, and on a held-out slice."""
