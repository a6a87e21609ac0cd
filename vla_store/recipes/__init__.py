"""One small module per trainer: what its own dataset yields, from a store.

    from vla_store.recipes import rdt

    dataset = rdt("libero.vla", mapping="rdt_libero_finetune")
"""

from vla_store.recipes.rdt import rdt

__all__ = ["rdt"]
