"""What is proved rather than observed: pure numerics, no plugins."""

from .ablation import affected_votes as affected_votes
from .ablation import all_subsets as all_subsets
from .ablation import drawn_subsets as drawn_subsets
from .ablation import infeasible as infeasible
from .ablation import known_certified as known_certified
from .ablation import largest_certifiable as largest_certifiable
from .ablation import setwise_certified as setwise_certified
from .ablation import size_certified as size_certified
from .ablation import vote_counts as vote_counts
from .ablation import whole_subsets as whole_subsets
from .conformal import conformal_limit as conformal_limit
from .conformal import conformal_rank as conformal_rank
from .duality import DualityGap as DualityGap
from .duality import duality_gap as duality_gap
from .identifiability import Identifiability as Identifiability
from .identifiability import identifiability as identifiability
from .margin import margin_radius as margin_radius
from .margin import smallest_lead as smallest_lead
from .missing import missing_tolerance as missing_tolerance
from .smoothing import largest_radius as largest_radius
from .smoothing import lower_limit as lower_limit
from .smoothing import smoothed_prediction as smoothed_prediction
from .smoothing import smoothed_radius as smoothed_radius
from .smoothing import two_sided_test as two_sided_test
