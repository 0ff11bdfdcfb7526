# SPDX-License-Identifier: Apache-2.0
"""The client: what other nodes and the commands import to ask the node for answers."""
