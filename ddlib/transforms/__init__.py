"""What is done to a drawn network before it is matched: pure functions of its weights and of what was drawn."""
