"""Methods: each a recipe of what is started from, matched and learned; one driver runs them all."""
