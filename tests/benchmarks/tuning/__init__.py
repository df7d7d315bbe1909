# SPDX-License-Identifier: Apache-2.0
"""The sides of `tests.benchmarks.time_farm`."""
