"""File-system semantics: names, inodes, attributes, data. Knows no FUSE and no store."""
