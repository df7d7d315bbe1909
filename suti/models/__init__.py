# SPDX-License-Identifier: Apache-2.0
"""One file per published family of models; attribute path = published name."""
