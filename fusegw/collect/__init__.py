"""Collection: packs that hold little or nothing alive make room in the store."""
