"""Where volumes live: an S3 bucket or a directory behind one protocol (`base.ObjectStore`).

`directory`, `s3` and `memory` keep objects; `counting`, `throttle`, `retry` and `faulty` wrap another store,
one concern each. `opening` builds what the gateway uses.
"""
