# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, each config as what it differs in."""
