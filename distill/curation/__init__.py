"""What is kept: repetitions, filters, contamination, verified answers, and the look before a training.

Every function that leaves rows out returns a `Step` that says how many, which, and what it does to the distribution.
"""
