# SPDX-License-Identifier: Apache-2.0
"""Which of a prompt's passages stay, decided before prefill."""
