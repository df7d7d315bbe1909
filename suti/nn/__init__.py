# SPDX-License-Identifier: Apache-2.0
"""Parameters, layers, attention and surgery: what every model is made of.

Each file is imported by its own name (`from suti.nn.param import functional`);
nothing is re-exported here.
"""
