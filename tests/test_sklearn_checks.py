"""scikit-learn's own checks. None is expected to fail; those that skip name hardware or a library that is not here."""

import pytest
from conftest import SKLEARN_VERSION, load
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from kmeans_xp import BisectingKMeans, KMeans, MiniBatchKMeans

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # The checks of set_output fit a data frame and transform an array, on purpose
    pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning"),
]


STRICT = [("array_api_strict", "CPU_DEVICE", "float64"), ("array_api_strict", "device1", "float32")]
TORCH = [("torch", "cpu", "float64"), ("torch", "cpu", "float32")]
if SKLEARN_VERSION < (1, 9):
    # It takes the device itself, not its name; and its tolerance for a float64 score, on larger data, is less than the
    # distance between two neighbouring float64 numbers of that size.
    STRICT = [("array_api_strict", load("strict-device1").device, "float32")]
    TORCH = TORCH[1:]


def expected_failures(estimator):
    """Batches are random: a weight of 2 is not the row standing there twice. scikit-learn's own is exempt likewise."""
    if not isinstance(estimator, MiniBatchKMeans):
        return {}
    return {f"check_sample_weight_equivalence_on_{kind}_data": "random batches" for kind in ("dense", "sparse")}


@parametrize_with_checks(
    [KMeans(), KMeans(n_clusters=2, init="k-means||"), MiniBatchKMeans(), BisectingKMeans()],
    expected_failed_checks=expected_failures,
)
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        "check_param_validation",
        "check_get_feature_names_out_error",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_set_output_transform_polars",
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
        "check_n_features_in_after_fitting",
    ],
)
def test_public_checks_that_check_estimator_leaves_out(check):
    getattr(estimator_checks, check)("KMeans", KMeans(n_clusters=2, random_state=0))


@pytest.mark.parametrize("sample_weight", [False, True])
@pytest.mark.parametrize(
    ("namespace", "device", "dtype"),
    [("numpy", None, "float64"), *TORCH, *STRICT],
)
def test_array_api_values(namespace, device, dtype, sample_weight):
    model = KMeans(n_clusters=3, random_state=0)
    estimator_checks.check_array_api_input_and_values(
        "KMeans", model, namespace, device, dtype, check_sample_weight=sample_weight
    )
