# SPDX-License-Identifier: Apache-2.0
"""A language model that sees judges pictures; every answer is kept."""
