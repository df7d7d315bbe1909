# SPDX-License-Identifier: Apache-2.0
"""Sources of pictures with texts, and the captions made from the texts."""
