"""Valuation: what a contribution is worth, measured on data that nobody saw.

`improvement` bounds what changed, `coalitions` shares it among those who took part, `jobs` is
what an evaluator process runs, and `receipt` is what anyone needs to check it afterwards.
"""
