"""Multistep methods: what they remember, how they start, and the Adams family."""
