"""What is matched: pure functions of tensors."""
