"""The metadata index: what the volume's name space, files, chunks and packs are.

`schema` says what is stored, `metadata` reads it and collects changes, `committer` makes them durable.
"""
