"""Boards: which devices a machine has, where, and what its firmware tables say."""
