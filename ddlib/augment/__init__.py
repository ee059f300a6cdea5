"""Augmentation: parameters drawn with numpy from keyed streams, applied by pure functions of tensors."""
