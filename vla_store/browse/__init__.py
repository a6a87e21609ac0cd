"""`vla-store view`: a store, served as one local page in which its episodes are found, played and seen as samples."""

from vla_store.browse.server import Serving, serve

__all__ = ["Serving", "serve"]
