# SPDX-License-Identifier: Apache-2.0
"""Stages 6 to 8: the apprentice, one model that learns from many experts.

It reads the experts' output from files (`suti.io.records`), never by import.
"""
