"""Detection: the ranks of the key labels in a suspect's answers, their exact p-value, and the certificate."""

from taggants.detection.binomial import binomial_p_value, hits_needed
from taggants.detection.certificate import Certificate, certify, describe, software_versions
from taggants.detection.combination import holm
from taggants.detection.rank_statistic import rank_p_value, rank_scores
from taggants.detection.ranks import key_ranks, key_ranks_from_top
from taggants.detection.referenced import referenced_p_value

__all__ = [
    "Certificate",
    "binomial_p_value",
    "certify",
    "describe",
    "hits_needed",
    "holm",
    "key_ranks",
    "key_ranks_from_top",
    "rank_p_value",
    "rank_scores",
    "referenced_p_value",
    "software_versions",
]
