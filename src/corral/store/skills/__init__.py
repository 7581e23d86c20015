"""Skills on the database. See `catalog.skills`.

Whatever changes a skill or its versions first locks the skill's row. A version's row comes before its blob
and goes after it, so no blob is ever without a row that leads to it.
"""
