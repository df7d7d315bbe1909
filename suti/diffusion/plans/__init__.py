# SPDX-License-Identifier: Apache-2.0
"""The published samplers, one family a file, each as `suti.diffusion.plan`."""
