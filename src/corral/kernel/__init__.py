"""The words everybody shares: ids, clock, errors, limits, crash points.

No I/O, and nothing of Corral is imported from here. If two layers need a thing and it has a name,
it lives here.
"""
