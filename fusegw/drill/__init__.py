"""Rehearses the recovery of a volume from its store alone. See `fusegw.drill.run`."""
