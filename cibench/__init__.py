"""cibench: a benchmark harness for defenses of collaborative inference.

Importing this package is light: a public name imports its module, and with it torch, when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import PLUGIN_API, PROTOCOL, VERSION

__version__ = VERSION

_HOME = {
    "AbstractAttack": "attack",
    "AbstractDataset": "dataset",
    "AbstractDefense": "defense",
    "AffineManifold": "manifold",
    "AgentDataset": "dataset",
    "AgentLayout": "layout",
    "AgentSelection": "agents",
    "Capabilities": "defense",
    "CellRecord": "results",
    "CibenchError": "_errors",
    "ContractError": "_errors",
    "Criterion": "threat",
    "DataError": "_errors",
    "Decision": "defense",
    "Download": "download",
    "FittedManifold": "manifold",
    "FusionCenter": "defense",
    "Knowledge": "threat",
    "KnowledgeError": "_errors",
    "LOCATION": "spec",
    "Manifold": "manifold",
    "ManifoldRecipe": "manifold",
    "Observation": "observation",
    "OptionError": "_errors",
    "OracleFusionCenter": "oracle",
    "Results": "results.frame",
    "RobustFit": "manifold",
    "SOLVER_STATUS": "defense",
    "Split": "dataset",
    "Standardizer": "dataset",
    "ThreatModel": "threat",
    "ThreatModelError": "_errors",
    "Training": "embedding",
    "UndefendedFusionCenter": "embedding.modules",
    "Victim": "victim",
    "canonical": "spec",
    "differentiable_code": "manifold",
    "drop_agents": "embedding.train",
    "fit_head": "embedding.train",
    "fusion_head": "embedding.modules",
    "hookimpl": "hookspecs",
    "mean_features": "embedding.train",
    "minimize": "embedding.train",
    "mlp": "embedding.modules",
    "project": "attack",
    "recovery_error": "manifold",
    "robust_fit": "manifold",
    "run": "api",
    "simulate_corruption": "manifold",
}

__all__ = ["PLUGIN_API", "PROTOCOL", "VERSION", *_HOME]


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'cibench' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from ._errors import CibenchError as CibenchError
    from ._errors import ContractError as ContractError
    from ._errors import DataError as DataError
    from ._errors import KnowledgeError as KnowledgeError
    from ._errors import OptionError as OptionError
    from ._errors import ThreatModelError as ThreatModelError
    from .agents import AgentSelection as AgentSelection
    from .api import run as run
    from .attack import AbstractAttack as AbstractAttack
    from .attack import project as project
    from .dataset import AbstractDataset as AbstractDataset
    from .dataset import AgentDataset as AgentDataset
    from .dataset import Split as Split
    from .dataset import Standardizer as Standardizer
    from .defense import SOLVER_STATUS as SOLVER_STATUS
    from .defense import AbstractDefense as AbstractDefense
    from .defense import Capabilities as Capabilities
    from .defense import Decision as Decision
    from .defense import FusionCenter as FusionCenter
    from .download import Download as Download
    from .embedding import Training as Training
    from .embedding.modules import UndefendedFusionCenter as UndefendedFusionCenter
    from .embedding.modules import fusion_head as fusion_head
    from .embedding.modules import mlp as mlp
    from .embedding.train import drop_agents as drop_agents
    from .embedding.train import fit_head as fit_head
    from .embedding.train import mean_features as mean_features
    from .embedding.train import minimize as minimize
    from .hookspecs import hookimpl as hookimpl
    from .layout import AgentLayout as AgentLayout
    from .manifold import AffineManifold as AffineManifold
    from .manifold import FittedManifold as FittedManifold
    from .manifold import Manifold as Manifold
    from .manifold import ManifoldRecipe as ManifoldRecipe
    from .manifold import RobustFit as RobustFit
    from .manifold import differentiable_code as differentiable_code
    from .manifold import recovery_error as recovery_error
    from .manifold import robust_fit as robust_fit
    from .manifold import simulate_corruption as simulate_corruption
    from .observation import Observation as Observation
    from .oracle import OracleFusionCenter as OracleFusionCenter
    from .results import CellRecord as CellRecord
    from .results.frame import Results as Results
    from .spec import LOCATION as LOCATION
    from .spec import canonical as canonical
    from .threat import Criterion as Criterion
    from .threat import Knowledge as Knowledge
    from .threat import ThreatModel as ThreatModel
    from .victim import Victim as Victim
