# SPDX-License-Identifier: Apache-2.0
"""Files and folders of diffusers and transformers, read and written."""
