# SPDX-License-Identifier: Apache-2.0
"""The mathematics: time model, response length distribution, plans. numpy at most."""
