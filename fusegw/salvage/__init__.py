"""Writes files out whose newest acknowledged state never reached the store. See `fusegw.salvage.run`."""
