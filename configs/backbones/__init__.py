# SPDX-License-Identifier: Apache-2.0
"""What published folders of models say of themselves, without their weights.

`suti plan` compiles for them: a model need not be there to be planned for.
"""
