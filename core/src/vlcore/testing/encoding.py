"""Ids, labels and places of media: that they agree, for training and for inference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vlcore.batch import IGNORED, Example, Layout
from vlcore.errors import UsageError
from vlcore.generate import is_stopped
from vlcore.media import Plan, Slot, open_image, read_size
from vlcore.messages import Image, user
from vlcore.testing.outcome import Fault, NotApplicable

if TYPE_CHECKING:
    from vlcore.testing.subject import Subject, Talk

#: Lengths of videos that frames are chosen of: how many there are, and how many a second.
FILMS = ((1, 1.0), (2, 0.5), (7, 2.0), (100, 25.0), (1801, 30.0))


def check_labels(subject: Subject) -> None:
    """What counts in the loss is each answer and its end: nothing before, nothing behind, the ids that are there."""
    check_processor(subject)
    for talk in subject.talks:
        layout = subject.frontend.plan(talk.messages, train=True)
        given = f"the labels of a conversation ({talk.name})"
        if len(layout.labels) != len(layout.ids):
            raise Fault(given, f"there are {len(layout.labels)} for {len(layout.ids)} ids", "make one for each id")
        for at, (token, label) in enumerate(zip(layout.ids, layout.labels, strict=True)):
            if label not in (IGNORED, token):
                raise Fault(given, f"at {at} the label is {label} and the id {token}", "label an id with itself")
        answers = [at for at, message in enumerate(talk.messages) if message.role == "assistant"]
        runs = list(find_trained(layout.labels))
        if len(runs) != len(answers):
            raise Fault(given, f"{len(runs)} stretches are trained for {len(answers)} answers",
                        "mark the segments of each answer and of its end as trained, and nothing between")
        for (start, end), at in zip(runs, answers, strict=True):
            check_run(subject, talk, at, layout, (start, end))


def check_processor(subject: Subject) -> None:
    """Holds what the media processor gives for one picture to what it is asked for.

    Raises:
        Fault: when it is of another kind.
    """
    media, options, picture = subject.frontend.media, subject.frontend.resolve_options(), Image(subject.pictures[0])
    plans: Any = media.plan((Slot((picture,), (read_size(picture),)),), options)
    if not isinstance(plans, tuple) or [isinstance(plan, Plan) for plan in plans] != [True]:
        raise Fault("plan() of the media processor", f"for one picture it gives {plans!r}",
                    "return a tuple with a Plan for each slot")
    pixels: Any = media.load((open_image(picture),), plans[0])
    if not isinstance(pixels, Mapping):
        raise Fault("load() of the media processor", f"it gives a {type(pixels).__name__}",
                    "return tensors by the names of the model's arguments, such as pixel_values")


def find_trained(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of positions that count in the loss, from the first number up to before the second."""
    at = 0
    for trained, run in groupby(label != IGNORED for label in labels):
        length = len(list(run))
        if trained:
            yield at, at + length
        at += length


def check_run(subject: Subject, talk: Talk, at: int, layout: Layout, run: tuple[int, int]) -> None:
    """Holds what is trained of one answer to that answer.

    Raises:
        Fault: when it begins or ends elsewhere, or says something else.
    """
    frontend, (start, end) = subject.frontend, run
    given = f"the labels of answer {talk.messages[at].text!r} ({talk.name})"
    prompt = len(outline(talk, frontend.plan(talk.messages[:at])))
    begun = len(outline(talk, layout, start))
    if begun != prompt:
        side = "behind" if begun > prompt else "before"
        raise Fault(given, f"they begin {abs(begun - prompt)} tokens {side} the end of its prompt",
                    "train the first token that the model must say, and none that it is given")
    ids = layout.ids[start:end]
    raw = frontend.tokenizer.decode(ids)
    if frontend.template.clean_answer(raw).strip() != talk.messages[at].text.strip():
        raise Fault(given, f"what is trained reads {raw!r}", "train the answer and its end, all of it and no more")
    stop, tail = frontend.template.stop, f"(the last ids are {list(ids[-3:])})"
    ends = {frontend.tokenizer.token_id(name) for name in stop.tokens}
    if ends.intersection(ids[:-1]) or (stop.strings and ids[-1] not in ends and not is_last(raw, stop.strings)):
        raise Fault(given, f"something behind its end is trained {tail}",
                    "leave what follows the end of an answer untrained (ChatTemplate.after)")
    ended = [is_stopped(part, frontend.tokenizer.decode(part), frontend.template, frontend.tokenizer)
             for part in (ids, layout.ids[start : end + 2])]
    # Some releases write no end into a history; behind the last answer there is one.
    if not ended[0] and (ended[1] or at == len(talk.messages) - 1):
        raise Fault(given, f"its end is not trained {tail}",
                    "train what ends an answer, or the model will not learn to stop")


def is_last(text: str, marks: Sequence[str]) -> bool:
    """Whether nothing stands behind the first of some marks in a text; true when none is in it."""
    behind = [text.split(mark, 1)[1].strip() for mark in marks if mark in text]
    return not any(behind)


def outline(talk: Talk, layout: Layout, end: int | None = None) -> list[int]:
    """The ids before a position; of several media only where each begins, for in training they may take less room."""
    several = sum(len(message.media) for message in talk.messages) > 1
    inside = {at for start, stop in layout.spans for at in range(start + 1, stop)} if several else set()
    return [token for at, token in enumerate(layout.ids[:end]) if at not in inside]


def check_media(subject: Subject) -> None:
    """Media take the positions and tiles that were planned, and nothing else stands for them."""
    check_processor(subject)
    image = subject.frontend.media.image_token_id
    for name, example in subject.rows.items():
        layout, given = example.layout, f"the media of a conversation ({name})"
        planned = [plan.ids or (image,) * plan.tokens for plan in layout.plans]
        found = [layout.ids[start:end] for start, end in layout.spans]
        if found != planned or any(len(ids) != plan.tokens for ids, plan in zip(found, layout.plans, strict=True)):
            raise Fault(given, f"they take {[len(ids) for ids in found]} ids, planned are "
                        f"{[plan.tokens for plan in layout.plans]}", "let Plan.tokens count the ids of its slot")
        if layout.ids.count(image) != sum(ids.count(image) for ids in found):
            raise Fault(given, f"the image id {image} stands outside of them", "write media as media segments alone")
        if any(layout.labels[at] != IGNORED for start, end in layout.spans for at in range(start, end)):
            raise Fault(given, "positions of media are trained", "leave media segments untrained")
        tiles = sum(sum(plan.tiles) for plan in layout.plans)
        sizes = {key: len(tensor) for key, tensor in example.pixels.items()}
        if layout.plans and tiles not in sizes.values():
            raise Fault(given, f"{tiles} tiles are planned, loaded are {sizes}",
                        "let Plan.tiles count the rows of the tensors that load() gives")


def check_ids(subject: Subject) -> None:
    """Training and inference build the same ids: of a prompt, and of an answer in the history of the next one."""
    frontend, last = subject.frontend, find_end(subject)
    stops = {frontend.tokenizer.token_id(name) for name in frontend.template.stop.tokens}
    for talk in subject.talks:
        layout = frontend.plan(talk.messages, train=True)
        compare_heads(f"the prompt of a conversation ({talk.name})", outline(talk, frontend.plan(talk.question)),
                      outline(talk, layout), "write the prompt of training and of inference from the same segments")
        if "turns" in subject.refused:
            continue
        *_, (start, end) = find_trained(layout.labels)
        while end > start and layout.ids[end - 1] in stops:
            end -= 1
        later = frontend.plan((*talk.messages, user(subject.talks[0].messages[0].text)))
        compare_heads(f"a conversation ({talk.name}) as the history of a next question",
                      [*outline(talk, layout, end), *last], outline(talk, later),
                      "write an answer in the history as it is trained: ChatTemplate marks it by Segment.answer")


def find_end(subject: Subject) -> list[int]:
    """The id that ends an answer in a history, as a row of several turns is trained; some releases write none there."""
    frontend = subject.frontend
    stops = {frontend.tokenizer.token_id(name) for name in frontend.template.stop.tokens}
    for talk in subject.talks:
        layout = frontend.plan(talk.messages, train=True)
        (_, end), *others = find_trained(layout.labels)
        if others and layout.ids[end - 1] in stops:
            return [layout.ids[end - 1]]
    return []


def compare_heads(given: str, head: Sequence[int], whole: Sequence[int], do: str) -> None:
    """Holds ids to beginning with others.

    Raises:
        Fault: naming the first position that differs.
    """
    at = next((n for n, pair in enumerate(zip(head, whole, strict=False)) if pair[0] != pair[1]), len(whole))
    if at < len(head):
        raise Fault(given, f"its ids differ from position {at} on: {list(head[at:at + 4])} there, "
                    f"{list(whole[at:at + 4])} here", do)


def check_typed(subject: Subject) -> None:
    """What a user types never becomes a token that ends an answer or stands for a medium."""
    frontend = subject.frontend
    (asked, *_), *_ = (talk.question for talk in subject.talks)
    plain = frontend.plan((asked,)).ids
    ids = {name: frontend.tokenizer.token_id(name) for name in frontend.template.stop.tokens}
    image = frontend.media.image_token_id
    named: Any = getattr(getattr(frontend.tokenizer, "hf", None), "convert_ids_to_tokens", lambda token: None)
    if isinstance(named(image), str):
        ids[named(image)] = image
    for name, token in ids.items():
        try:
            typed = frontend.plan((user(f"What is {name} here?"),)).ids
        except UsageError:
            continue  # refusing it is as safe
        if typed.count(token) > plain.count(token):
            raise Fault(f"a question with {name} in it", f"it becomes the token {token}, so a user can forge turns",
                        "encode typed text with split_special_tokens, as HfTokenizer.encode does")


def check_forecast(subject: Subject) -> None:
    """Lengths that are known from the sizes of media are those of the rows, and what the model makes of the pixels."""
    from vlcore.dataset import open_rows
    from vlcore.forecast import forecast_rows
    from vlcore.messages import write_message

    path = subject.new_folder("forecast") / "rows.jsonl"
    rows = [json.dumps({"messages": [write_message(message) for message in talk.messages]}) for talk in subject.talks]
    path.write_text("\n".join(rows) + "\n", encoding="utf8")
    forecast = forecast_rows(subject.frontend, open_rows([str(path)]), processes=1)
    if forecast.faults:
        raise next(iter(forecast.faults.values()))
    for talk, length in zip(subject.talks, forecast.lengths.tolist(), strict=True):
        real = len(subject.rows[talk.name])
        if length != real:
            raise Fault(f"a row ({talk.name})", f"{length} tokens were forecast, it has {real}",
                        "let plan() depend on sizes and options alone")
    for name, example in subject.rows.items():
        check_features(subject, name, example)


def check_features(subject: Subject, name: str, example: Example) -> None:
    """Holds the features that a model makes of the pixels to the positions that were planned for them.

    Raises:
        Fault: when their numbers differ.
    """
    if not example.pixels or not hasattr(subject.model.module, "get_image_features"):
        return
    places = example.ids.count(subject.frontend.media.image_token_id)
    try:
        made = count_vectors(subject.model.compute_features(example))
    except Exception as error:
        raise Fault(f"a row ({name})", f"get_image_features fails on its pixels ({type(error).__name__}: {error})",
                    "let it take the tensors that load() gives, by their names") from error
    if made != places:
        raise Fault(f"a row ({name})", f"{places} positions were planned, the model makes {made} features of pixels",
                    "let plan() count what the vision tower and projector give for a size")


def count_vectors(features: Any) -> int:
    """How many vectors there are in a tensor (..., width), or in several."""
    if isinstance(features, list | tuple):
        return sum(map(count_vectors, features))
    return int(features.numel() // features.shape[-1])


def check_video(subject: Subject) -> None:
    """A family that takes videos chooses frames that there are; another one refuses videos in words."""
    frontend: Any = subject.frontend
    if not subject.takes_video:
        try:
            frontend.plan((user("What happens?", videos=[subject.video]),))
        except UsageError:
            raise NotApplicable("the family takes no videos, and says so") from None
        raise Fault("a video", "it is accepted, though the media processor chooses no frames",
                    "give the media processor choose_frames(), or let the template refuse videos with a UsageError")
    if "video" in subject.refused:
        raise Fault("a video", f"it is refused ({subject.refused['video']})", "let the template write videos")
    options = frontend.resolve_options()
    for count, fps in FILMS:
        chosen = list(frontend.media.choose_frames(count, fps, options))
        if not chosen or chosen != sorted(chosen) or not 0 <= chosen[0] <= chosen[-1] < count:
            raise Fault(f"a video of {count} frames, {fps} a second", f"frames {chosen[:8]} are chosen",
                        f"choose at least one, in order, from 0 to {count - 1}")
    if not any(slot.frame for slot in subject.rows["video"].layout.slots):
        raise Fault("a video", "no media segment is marked as a frame",
                    "set Segment.frame, so that options for videos apply")
