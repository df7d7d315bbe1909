# SPDX-License-Identifier: Apache-2.0
"""Stages 6 to 8: one model learns to do what many experts did.

Reads the experts' work from files (`suti.io.records`), never by import.
"""
