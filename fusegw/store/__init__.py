"""Where volumes live: an S3 bucket or a directory behind one protocol (`base.ObjectStore`).

`directory`, `s3` and `memory` keep objects; `throttle`, `retry` and `faulty` wrap another store, one concern each.
`open_store` builds what the gateway uses.
"""
