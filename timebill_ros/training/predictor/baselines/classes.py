# SPDX-License-Identifier: Apache-2.0
"""The classes of response lengths of the published coarse predictors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from timebill_ros.training.predictor.length_classes import LengthClasses, buckets

PROXY_MODEL_PERCENTILES = (25, 50, 75, 99)
S3_CLASSES = 10


def proxy_model_classes(lengths: Sequence[int], longest_response: int) -> LengthClasses:
    """ProxyModel's five classes, cut at percentiles of the training lengths.

    Qiu et al., *Efficient interactive LLM serving with proxy model-based sequence length
    prediction*, arXiv 2404.08509. Percentiles that fall together make one class.
    """
    cuts = np.ceil(np.percentile(lengths, PROXY_MODEL_PERCENTILES)).astype(np.int64)
    return LengthClasses(np.unique([*cuts, longest_response]))


def s3_classes(longest_response: int) -> LengthClasses:
    """S3's ten equal buckets; Jin et al., *S3: increasing GPU utilization*, NeurIPS 2023."""
    return buckets(-(-longest_response // S3_CLASSES), longest_response)
