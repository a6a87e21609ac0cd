"""`vla-store verify`: a store against itself, and against the source it was built from.

Every object is hashed and compared with the listing that names it, every listing with the root, every root with the digest in
it. Then the content: metadata against the format's template, shard indices, index against table, every frame decoded, every
episode's digest, the fingerprint, the statistics, the views. Damage is collected, not raised: one run names every damaged object.
"""

from vla_store.audit.report import Problem, VerifyReport
from vla_store.audit.verify import verify_store

__all__ = ["Problem", "VerifyReport", "verify_store"]
