"""One thin module per rule: load, call, save, log. No mathematics. Run as `python -m ddlib.jobs.NAME`."""
