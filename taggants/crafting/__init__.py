"""Crafting: the work of one shard, the scheduler's decisions, the driver's loop and the pools it runs on."""
