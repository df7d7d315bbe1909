# SPDX-License-Identifier: Apache-2.0
"""Many experts together: waves, their work queue, training and sampling."""
