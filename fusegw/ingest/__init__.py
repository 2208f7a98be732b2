"""The way of written data into packs: cut, identify, deduplicate, compress, seal, enter into the index."""
