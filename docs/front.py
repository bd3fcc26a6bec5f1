"""Draws docs/front.png, the picture of the README and of the front page: `python docs/front.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
from looks import light_and_dark
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kmeans_xp import KMeans, plotting

light_and_dark()
plt.rcParams["font.size"] = 9
X = load_wine(as_frame=True).data[["alcohol", "magnesium", "flavanoids", "color_intensity", "hue", "proline"]]
model = make_pipeline(StandardScaler(), KMeans(n_clusters=3, random_state=0)).fit(X)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), width_ratios=(5, 4, 4), layout="constrained")
plotting.ClustersDisplay.from_estimator(model, X, ax=axes[0], title="178 wines")
plotting.SilhouetteDisplay.from_estimator(model, X, ax=axes[1], title="How well each fits its cluster")
plotting.ClusterProfilesDisplay.from_estimator(model, ax=axes[2], title="What the clusters are")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)
