"""What is used of scikit-learn that it does not promise to keep: where to look when a new version breaks something.

Beside these names, there are three attributes of estimators that begin with an underscore: `_parameter_constraints`,
which `fit_context` checks before a fit by `_validate_params`, overridden to remember what is valid, and
`_n_features_out`, from which `get_feature_names_out` makes names. `estimators/replacements.py` also takes
`_skl_parameter_constraints` of functions; `estimators/conversion.py` what fitted models keep: `_counts`,
`_n_since_last_reassign`, `_random_state`, `_X_mean`, `_bisecting_tree` with its nodes.
"""

from sklearn.base import _fit_context as fit_context
from sklearn.utils import _safe_indexing as rows_at
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

__all__ = ["Interval", "StrOptions", "fit_context", "rows_at", "validate_params"]
