# SPDX-License-Identifier: Apache-2.0
"""The substrate: nets, diffusion, data and scores that know no stage."""
