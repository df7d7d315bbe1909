# SPDX-License-Identifier: Apache-2.0
"""Studies: a question, variants of one config, several seeds (suti study)."""
