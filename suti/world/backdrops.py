# SPDX-License-Identifier: Apache-2.0
"""Grounds and backdrops: all that is not the subject.

A place is a function of `v` that returns the colours of ground and wall. `v`
holds, each (N,) unless stated otherwise:

  x, z     ground position in world units, the subject at 0, viewer at +z
  far      distance of the ground point, in units of the subject's distance
  u, w     wall position in half frames: u in about [-1, 1], w = 0 at its foot
  frame_x, frame_y     position in the frame, [-1, 1]
  j        8 uniform numbers of this picture (scalars)
  side     -1 or 1: the side of the frame that the subject leaves free

Shape legend: N samples.
"""

from suti.world import landscapes, rooms

# The order fixes the index that a picture carries.
PLACES = {
  "studio": rooms.studio,
  "jungle": landscapes.jungle,
  "snow": landscapes.snow,
  "beach": landscapes.beach,
  "cobblestone": rooms.cobblestone,
  "pink fabric": rooms.pink_fabric,
  "wooden floor": rooms.wooden_floor,
  "city": rooms.city,
  "mountain": landscapes.mountain,
  "blue house": rooms.blue_house,
  "purple rug": rooms.purple_rug,
  "wheat field": landscapes.wheat_field,
  "autumn tree": landscapes.autumn_tree,
  "eiffel tower": rooms.eiffel_tower,
  "water": landscapes.water,
  "milk": landscapes.milk,
  "sunflowers": landscapes.sunflowers,
  "mirror": rooms.mirror,
  "sidewalk": rooms.sidewalk,
  "dirt road": landscapes.dirt_road,
  "white rug": rooms.white_rug,
}
