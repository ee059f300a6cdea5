"""Training: losses, schedules, steps, the loop, evaluation."""
