"""Executors: how the clients of one round train on this machine.

All follow one interface (`base.Executor`) and give the same result for the same recipe, data
and seed up to rounding; `plan` chooses between them and records the choice.
"""
