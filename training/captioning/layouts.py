"""How much of what captions say of scenes is true of their objects."""

from collections.abc import Sequence

from training.data.captions import core, holds, largest, read_layout, spoken


def layout_scores(captions: Sequence[str], layouts: Sequence[Sequence], kinds: dict[str, int]) -> dict[str, float]:
    """How much of what captions say of scenes is true of their objects.

    objects_right: things named that are in the scene, each object once, as a share of those named or of those that a
    full caption names, whichever are more: neither guessing more nor saying less helps.
    relations_right: relations said that hold, as a share of those said between two things that are both right; 0 if
    there are none. relations_judged: how many those are.
    kinds: the class id of a scene's mask for each name that is known; with it kinds_right and kind_relations_right
    count a thing as right if it is of an object's class.
    """
    counts = {"": [0, 0, 0], "kind_": [0, 0, 0]}  # right, relations right, relations judged
    asked = 0
    for caption, objects in zip(captions, layouts, strict=True):
        things, relations = read_layout(caption)
        asked += max(len(things), len(largest(objects)))
        ordered = sorted(objects, key=lambda o: -o.visible_px)
        for key, same in (
            ("", lambda thing, o: thing == core(spoken(o.name))),
            ("kind_", lambda thing, o: kinds.get(thing) == o.label),
        ):
            found = matched(things, ordered, same)
            counts[key][0] += sum(o is not None for o in found)
            for one, told, other in relations:
                if found[one] is not None and found[other] is not None:
                    counts[key][1] += holds(told, found[one], found[other])
                    counts[key][2] += 1
    right, held, judged = counts[""]
    scores = {
        "objects_right": right / max(1, asked),
        "relations_right": held / max(1, judged),
        "relations_judged": judged,
    }
    if kinds:
        right, held, judged = counts["kind_"]
        scores |= {"kinds_right": right / max(1, asked), "kind_relations_right": held / max(1, judged)}
    return scores


def matched(things: Sequence[str], objects: Sequence, same) -> list:
    """For each thing the first object that it is and that no thing before it was, or None."""
    free, found = list(objects), []
    for thing in things:
        at = next((at for at, o in enumerate(free) if same(thing, o)), None)
        found.append(None if at is None else free.pop(at))
    return found
