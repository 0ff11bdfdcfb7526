# SPDX-License-Identifier: Apache-2.0
"""The paper's evaluation as one command: methods against each other under deadlines."""
