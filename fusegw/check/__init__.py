"""Whether a volume is whole: its index, the packs in its store, the log. See `fusegw.check.run`."""
