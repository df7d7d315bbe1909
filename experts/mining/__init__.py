# SPDX-License-Identifier: Apache-2.0
"""Where pictures with texts come from, and what their texts say."""
