# SPDX-License-Identifier: Apache-2.0
"""Linear maps in closed form: principal axes, discriminants, ridge regression.

Small problems in a few hundred dimensions, so that they take seconds where
gradient descent would take an hour.

Shape legend: N rows, F features, P principal components, E embedding width,
O outputs; G groups, M subjects of a group, T scenes, V views.
"""

import numpy as np


def principal_axes(
  x_NF: np.ndarray, *, count: int, rng: np.random.Generator
) -> np.ndarray:
  """The first principal axes, (F, count), of rows without mean.

  By randomised range finding with one power iteration (Halko, Martinsson and
  Tropp, 2011): the axes that matter are found exactly enough.
  """
  guess = rng.normal(size=(x_NF.shape[1], count + 50)).astype(x_NF.dtype)
  basis, _ = np.linalg.qr(x_NF @ (x_NF.T @ (x_NF @ guess)))
  _, _, axes = np.linalg.svd(basis.T @ x_NF, full_matrices=False)
  return axes[:count].T


def discriminant(
  z_GMTVP: np.ndarray, *, count: int, ridge: float
) -> np.ndarray:
  """Fisher's linear discriminants of subjects within their groups, (P, count).

  What a group's pictures of a scene share is taken out first: the axes tell
  look-alikes apart in one scene, whatever the scene is.

  Args:
    z_GMTVP: pictures of each subject of each group.
    count: axes.
    ridge: added to the scatter within subjects, as a share of its mean.
  """
  width = z_GMTVP.shape[-1]
  z = z_GMTVP - z_GMTVP.mean((1, 3), keepdims=True)
  subject = z.mean((2, 3), keepdims=True)
  rest = (z - subject).reshape(-1, width)
  within = rest.T @ rest / len(rest)
  own = subject.reshape(-1, width)
  between = own.T @ own / len(own)
  within += ridge * np.trace(within) / width * np.eye(width, dtype=z.dtype)
  values, axes = np.linalg.eigh(within)
  whiten = axes / np.sqrt(values)
  _, turned = np.linalg.eigh(whiten.T @ between @ whiten)
  return whiten @ turned[:, ::-1][:, :count]


def ridge_regression(
  z_NP: np.ndarray, target_NO: np.ndarray, *, ridge: float
) -> np.ndarray:
  """Weights (P, O) of rows without mean.

  Args:
    z_NP: what to go by.
    target_NO: what to tell.
    ridge: added to the covariance, as a share of its mean.
  """
  width = z_NP.shape[1]
  covariance = z_NP.T @ z_NP / len(z_NP)
  covariance += (
    ridge * np.trace(covariance) / width * np.eye(width, dtype=z_NP.dtype)
  )
  return np.linalg.solve(covariance, z_NP.T @ target_NO / len(z_NP))
