# SPDX-License-Identifier: Apache-2.0
"""How pictures are judged: scores, the benchmark, the report."""
