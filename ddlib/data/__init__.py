"""Real data: one reader per source, one class (`real.RealData`) for what they read."""
