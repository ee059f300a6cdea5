"""Trajectories of networks trained on real data, and the views by which methods start from them."""
