# SPDX-License-Identifier: Apache-2.0
"""An engine in another process: any server that speaks OpenAI's chat completions."""
