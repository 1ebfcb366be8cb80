"""Tars of pairs KEY.jpg and KEY.cls: reading them, and writing them."""
