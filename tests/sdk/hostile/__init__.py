"""Connections, values and cursors as nobody should send them, on one server. A package, so that what stands
around all of its tests ends with them."""
