# SPDX-License-Identifier: Apache-2.0
"""Folders of generated pictures, of this and of other projects."""
