"""Checkpoints in: where they come from, how they are stored, and the BERT that is made of them."""

from qalib.model import bert, blocks, checkpoint, formats, hub, synthetic

__all__ = ["bert", "blocks", "checkpoint", "formats", "hub", "synthetic"]
