"""Reports of finished runs: tables, claims and figures; pure functions of records."""

from .build import read_report as read_report
from .claims import Verdict as Verdict
from .model import Comparison as Comparison
from .model import Panel as Panel
from .model import Report as Report
from .model import Row as Row
