"""Packs: many sealed chunks in one file or object, whose bytes are the same on disk and in the store.

`format` says what the bytes mean (`docs/format.md` is its prose); `writer` makes packs, `reader` reads chunks
out of them, `recover` closes what a crash left open, `verify` checks a whole pack.
"""
