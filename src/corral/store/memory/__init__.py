"""Memory stores on the database.

Rules of this folder:
- Whoever changes a memory first locks the row of its store (`change.Changing`), and of no other. So changes
  of a store are one after the other, in the order of their numbers, which is the order in which they become
  visible; and nobody waits in a circle.
- Contents are in versions only: a memory names its head.
- A deleted store is gone with its row. Its memories and versions are removed later, in batches
  (`forget`); until then nobody finds them, because everybody asks for the store first.
"""
