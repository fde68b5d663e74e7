"""The metrics of the core."""

from __future__ import annotations

from vlcore.metrics.count import count_accuracy
from vlcore.metrics.found import box_iou, box_recall
from vlcore.metrics.record import Metric
from vlcore.metrics.texts import anls, cer, exact_match, load_distances, rouge_l
from vlcore.metrics.vqa import vqa_accuracy

METRICS = (
    Metric(name="exact_match", help="Answers that equal a label but for case, white space and a closing full stop.",
           score=exact_match),
    Metric(name="cer", help="Character error rate: edits over the characters of the labels.", score=cer,
           greater_is_better=False, check=load_distances),
    Metric(name="anls", help="Average normalised Levenshtein similarity, as DocVQA counts it.", score=anls,
           check=load_distances),
    Metric(name="vqa_accuracy", help="Accuracy with the answer normalisation of VQA v2.", score=vqa_accuracy),
    Metric(name="rouge_l", help="F1 of the longest common subsequence of words.", score=rouge_l, check=load_distances),
    Metric(name="box_iou@0.5", help="Boxes of the labels that are found with an IoU of at least 0.5.",
           score=box_recall, needs_boxes=True),
    Metric(name="box_iou", help="Mean IoU of the labels' boxes with those found.", score=box_iou, needs_boxes=True),
    Metric(name="count_accuracy", help="Answers whose first whole number is that of a label.", score=count_accuracy),
)
