"""Records of cells and the folders that hold them; no torch."""

from .folder import RunFolder as RunFolder
from .record import SCHEMA_VERSION as SCHEMA_VERSION
from .record import AttackPart as AttackPart
from .record import CellRecord as CellRecord
from .record import Component as Component
from .record import Metrics as Metrics
from .record import Outcomes as Outcomes
from .record import Proportion as Proportion
from .record import Timings as Timings
from .record import json_schema as json_schema
