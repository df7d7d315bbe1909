# SPDX-License-Identifier: Apache-2.0
"""Which of 25 look-alikes a picture shows.

A generated image is compared with renders of 25 subjects of its class, the true
one and the 24 nearest to it in colours, all in the scene of the image's prompt.
Neither colour, nor class, nor background tells them apart: chance is 4%, and
copying a demonstration does not help where the scene is judged too (the
questions). A tie is a miss.

Shape suffixes: G pictures, C subjects of a line-up (the true one first), V
renders of each, D embedding width.
"""

import numpy as np

LINE_UP = 25


def found(picture_GD: np.ndarray, line_up_CVD: np.ndarray) -> np.ndarray:
  """Whether each picture is nearest to the true subject's renders.

  Args:
    picture_GD: unit embeddings of pictures for one prompt of one subject.
    line_up_CVD: unit embeddings of the line-up's renders for that prompt.

  Returns: (G,) bool.
  """
  cosine_GC = picture_GD @ line_up_CVD.mean(axis=1).T
  return cosine_GC[:, 0] > cosine_GC[:, 1:].max(axis=1)
