"""Detection: from answers to ranks, evidence, exact p-values, and the certificate under a registration."""

from taggants.detection.certificate import Certificate, certify, software_versions
from taggants.detection.combination import holm
from taggants.detection.description import describe
from taggants.detection.evidence import Evidence
from taggants.detection.exact import exact_p_value
from taggants.detection.hits import hits_needed, hits_p_value
from taggants.detection.rank_statistic import rank_p_value, rank_scores
from taggants.detection.ranks import key_ranks, key_ranks_from_top
from taggants.detection.referenced import referenced_p_value
from taggants.detection.registration import Registration
from taggants.detection.statistics import STATISTICS, Statistic

__all__ = [
    "STATISTICS",
    "Certificate",
    "Evidence",
    "Registration",
    "Statistic",
    "certify",
    "describe",
    "exact_p_value",
    "hits_needed",
    "hits_p_value",
    "holm",
    "key_ranks",
    "key_ranks_from_top",
    "rank_p_value",
    "rank_scores",
    "referenced_p_value",
    "software_versions",
]
