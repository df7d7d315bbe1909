# SPDX-License-Identifier: Apache-2.0
"""The evaluator of any model's pictures: `suti evaluate`, `suti report`."""
