"""The block-wise incomplete leverage constant, bounded from both sides."""

from .bounds import LeverageBounds as LeverageBounds
from .bounds import union_bound as union_bound
from .search import leverage as leverage
